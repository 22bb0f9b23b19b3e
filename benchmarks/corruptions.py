"""Natural corruptions: accuracy on corrupted ID test images, by method. Fifteen kinds at five severities.

    python benchmarks/corruptions.py                       # the embedded digits: some minutes on two cores
    python benchmarks/corruptions.py --experiment emoji    # the emoji benchmark, on its main ID style
    python benchmarks/corruptions.py --experiment fashion  # Fashion-MNIST, from a Debian package
    python benchmarks/corruptions.py --report              # tables and figures of what is there
    python benchmarks/corruptions.py --smallest            # seconds; what CI runs

Settings are those that benchmarks/robustness.py chose on clean ID validation images; no method has seen a corruption.
Each seed's run of a method is a row of benchmarks/results/corruptions.csv, and is not repeated.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from breadth import corruptions_report
from breadth.corruptions_report import COLUMNS, FILE
from robust import rows
from robust.command import stage, told_in_one_line
from robust.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from robust.experiments import Experiment, standard
from robust.finetune import Run, Start
from robust.protocol import Classification, recorded
from robust.study import Settings, points
from robust.training import predictions
from vision.cache import keep_compiled_programs
from vision.data import ArrayDomain
from vision.metrics import accuracy
from vision.networks import Params
from vision.progress import make_console

RESULTS = Path(__file__).parent / "results"
ALPHA = 0.7  # of the interpolations: where the main benchmark's validation images put it on the digits


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures accuracy under natural corruptions."""

    experiment: Literal["digits", "emoji", "fashion"] = "digits"
    """The embedded digits, emoji in the main ID style, or Fashion-MNIST, which is Debian's dataset-fashion-mnist."""

    methods: tuple[str, ...] = ("vanilla", "ftp", "digrap")
    """Which methods; the foundation model and interpolations come with them."""

    seeds: int = 5
    """Number of seeds, from 0."""

    results: Path = RESULTS
    """Where corruptions.csv, its tables and figures are written."""

    report: bool = False
    """Run nothing; make tables and figures of the rows that are there."""

    smallest: bool = False
    """The digits with little data, one seed, one severity; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then reports."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    if not options.report:
        with told_in_one_line(console):
            _run(options, standard(options.experiment, smallest=options.smallest))
    corruptions_report.write(options.results)


def _run(options: Options, experiment: Experiment) -> None:
    severities = SEVERITIES[2:3] if options.smallest else SEVERITIES
    study = Corrupted(results=rows.File(options.results / FILE, COLUMNS), experiment=experiment, severities=severities)
    study.run_missing(options.methods, range(1 if options.smallest else options.seeds), stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrupted(Classification):
    """The main benchmark's runs, measured under corruptions.

    Attributes:
        severities: Of each kind of corruption.
    """

    severities: tuple[int, ...]

    def default(self, name: str) -> Settings:
        return recorded(self.experiment).chosen(name)

    def measured(self, origin: Start, run: Run[Start], name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        for label, settings, alpha in points(name, knobs, (ALPHA,)):
            params = run.at(alpha)
            kinds = {
                kind: [_accuracy(origin, params, (kind, severity), seed) for severity in self.severities]
                for kind in CORRUPTIONS
            }
            yield self.known(label, settings, seed) | {
                "clean_accuracy": _accuracy(origin, params, None, seed),
                "corrupted_accuracy": statistics.fmean(value for values in kinds.values() for value in values),
                "kinds": kinds,
            }


def _accuracy(origin: Start, params: Params, corruption: tuple[str, int] | None, seed: int) -> float:
    test = origin.task.id_test
    assert isinstance(test, ArrayDomain)
    images = test.images if corruption is None else _images(test, *corruption, seed)
    domain = ArrayDomain(test.name, images, test.labels)
    return accuracy(predictions(origin.network, params, domain), domain.labels)


_made: dict[tuple[int, str, int, int], np.ndarray] = {}  # all methods of a seed see the same corrupted images


def _images(test: ArrayDomain, kind: str, severity: int, seed: int) -> np.ndarray:
    key = (id(test), kind, severity, seed)
    if key not in _made:
        _made[key] = corrupted(test.images, kind, severity, seed)
    return _made[key]


if __name__ == "__main__":
    main()
