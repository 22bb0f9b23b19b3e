"""Does it keep models robust? Every method, on emoji in ten artists' styles, or on the embedded digits.

    python benchmarks/robustness.py                        # emoji: some hours on two cores, resumable at any moment
    python benchmarks/robustness.py --experiment digits    # needs no download: about half an hour
    python benchmarks/robustness.py --report               # tables and figures of what is there
    python benchmarks/robustness.py --smallest             # digits, a minute; what CI runs

The emoji benchmark fetches its drawings by npm, renders them, trains one foundation model for each seed, and caches all
that. Each run is a row of benchmarks/results/robustness.csv, and is not repeated; trials are in robustness_trials.csv.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from robust import report, rows, walls
from robust.command import stage, told_in_one_line
from robust.experiments import Experiment, standard
from robust.methods import METHODS
from robust.protocol import Classification
from vision.cache import keep_compiled_programs
from vision.progress import make_console

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares methods of robust fine-tuning; appends to the results what they lack, and reports."""

    experiment: Literal["emoji", "digits", "fashion"] = "emoji"
    """Ten artists' emoji, which npm fetches, the embedded digits, or Fashion-MNIST, a Debian package."""

    id_domain: str | None = None
    """The emoji style that is fine-tuned on: fluent-high-contrast, the main one, or noto, the second."""

    backbone: Literal["small-cnn", "efficientnet-lite0", "resnet", "vit"] | None = None
    """The foundation model's network; by default efficientnet-lite0 for emoji, small-cnn for digits."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods; zero-shot and WiSE-FT's curve come with vanilla, two interpolations with every other."""

    seeds: int = 5
    """Number of seeds, from 0: of split, foundation model and training."""

    trials: int = 3
    """Settings tried for each method, on the first seed; 1 for every method's default, and the learning rate 1e-3."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where the rows, the report and the figures are written."""

    docs: Path | None = None
    """Where evidence.md is written; by default the site, if the results are the recorded ones."""

    report: bool = False
    """Run nothing; make tables and figures of the rows that are there."""

    smallest: bool = False
    """The digits with little data, one seed and one setting; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then reports."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    if not options.report:
        with told_in_one_line(console):
            wanted = {"backbone": options.backbone, "smallest": options.smallest}
            _run(options, standard(options.experiment, options.id_domain, **wanted))
    recorded = options.results == Options.results and not options.smallest
    report.write(options.results, console, options.docs or (ROOT / "docs" if recorded else None))


def _run(options: Options, experiment: Experiment) -> None:
    trials = rows.File(options.results / "robustness_trials.csv") if options.trials > 1 else None
    study = Classification(
        experiment=experiment,
        results=rows.File(options.results / "robustness.csv"),
        trials=trials,
        tried=min(options.trials, 2) if options.smallest else options.trials,
    )
    # what the radii did is kept for the settings that were chosen
    keep = (partial(walls.record, options.results, experiment),) if trials else ()
    study.run_missing(options.methods, range(1 if options.smallest else options.seeds), stage, *keep)


if __name__ == "__main__":
    main()
