"""Does it hold for dense prediction? The class and the boundary of every pixel of emoji scenes, by method.

    python benchmarks/dense.py               # an hour of one core, resumable at any moment
    python benchmarks/dense.py --report      # tables and figures of what is there
    python benchmarks/dense.py --smallest    # scenes of digits, a minute; what CI runs

Scenes are a few emoji on a crop of a photograph, with masks from the artwork's opacity. The foundation model is that of
the classification benchmark and a small decoder, trained on scenes in six colour styles, once for each seed, and
cached; both are fine-tuned on scenes in one style and tested in all. Each run is a row of benchmarks/results/dense.csv
and is not repeated; trials are in dense_trials.csv.
"""

import dataclasses
from functools import partial
from pathlib import Path

import tyro

from robust.command import stage, told_in_one_line
from segment import gallery, report, rows
from segment.protocol import Segmentation
from vision.cache import keep_compiled_programs
from vision.progress import make_console

ROOT = Path(__file__).parents[1]
DEFAULT_METHODS = ("vanilla", "ftp", "digrap", "ftp+digrap", "l2_sp", "spd", "mars_pgm", "ftp_exact")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares methods of robust fine-tuning on segmentation; appends to the results what they lack, and reports."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Which methods; zero-shot and WiSE-FT's curve come with vanilla, one interpolation with every other."""

    seeds: int = 5
    """Number of seeds, from 0: of split, scenes, foundation model and training."""

    trials: int = 3
    """Settings tried for each method, on the first seed; 1 for those that the classification benchmark chose."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where the rows, the report and the figures are written."""

    docs: Path | None = None
    """Where dense.md is written; by default the site, if the results are the recorded ones."""

    report: bool = False
    """Run nothing; make tables and figures of the rows that are there."""

    smallest: bool = False
    """A few scenes of digits, a tiny network, one seed, one setting; its numbers mean nothing."""


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
    files = [rows.File(options.results / name, rows.COLUMNS) for name in ("dense.csv", "dense_trials.csv")]
    study = Segmentation(
        world="digits" if options.smallest else "emoji",
        results=files[0],
        trials=files[1] if options.trials > 1 and not options.smallest else None,
        tried=options.trials,
    )
    seeds = range(1 if options.smallest else options.seeds)
    study.run_missing(options.methods, seeds, stage, partial(gallery.record, options.results))


if __name__ == "__main__":
    main()
