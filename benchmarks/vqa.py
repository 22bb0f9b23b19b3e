"""Visual question answering: what fine-tuning on one style, wording and prior keeps of all others, by method.

    python benchmarks/vqa.py                # emoji scenes, three seeds: an hour of one core, resumable at any moment
    python benchmarks/vqa.py --report       # tables, figure and page of what is there
    python benchmarks/vqa.py --smallest     # the embedded digits, a minute; what CI runs

npm fetches the emoji, the vision tower is the foundation model of benchmarks/robustness.py; both are cached. Each run
is a row of benchmarks/results/vqa.csv, and is not repeated; trials are in vqa_trials.csv.
"""

import dataclasses
from pathlib import Path

import tyro

from questions import report
from questions.methods import METHODS
from questions.protocol import COLUMNS, Questions, shifts_file
from robust import rows
from robust.command import stage, told_in_one_line
from vision.cache import keep_compiled_programs
from vision.progress import make_console

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares methods of robust fine-tuning on question answering; appends what the results lack, and reports."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods; zero-shot and WiSE-FT's curve come with vanilla."""

    seeds: int = 3
    """Number of seeds, from 0: of split, scenes, foundation model and training."""

    trials: int = 3
    """Settings tried for each method, on the first seed; 1 for the defaults, untried."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where the rows, the report and the figure are written."""

    docs: Path | None = None
    """Where vqa.md is written; by default the site, if the results are the recorded ones."""

    report: bool = False
    """Run nothing; make tables and the figure of the rows that are there."""

    smallest: bool = False
    """Digits in place of emoji, little data, one seed; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then reports."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    if not options.report:
        with told_in_one_line(console):
            _run(options)
    recorded = options.results == Options.results and not options.smallest
    report.write(options.results, console, options.docs or (ROOT / "docs" if recorded else None))


def _run(options: Options) -> None:
    files = [rows.File(options.results / name, COLUMNS) for name in ("vqa.csv", "vqa_trials.csv")]
    study = Questions(
        source="digits" if options.smallest else "emoji",
        epochs=1 if options.smallest else 5,
        shifts=shifts_file(options.results),
        smallest=options.smallest,
        results=files[0],
        trials=files[1] if options.trials > 1 and not options.smallest else None,
        tried=options.trials,
    )
    study.run_missing(options.methods, range(1 if options.smallest else options.seeds), stage)


if __name__ == "__main__":
    main()
