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
from robust import protocol, rows
from robust.command import stage, told_in_one_line
from robust.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from robust.experiments import Experiment, standard
from robust.finetune import Run, Start, between
from robust.methods import METHODS
from robust.training import predictions
from vision.cache import keep_compiled_programs
from vision.data import ArrayDomain
from vision.evaluation import accuracy
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
    for seed in range(1 if options.smallest else options.seeds):
        for method in options.methods:
            _fill(options.results / FILE, experiment, method, seed, severities)


def _fill(file: Path, experiment: Experiment, method: str, seed: int, severities: tuple[int, ...]) -> None:
    """Fine-tunes and measures if the row is missing; the run's own comes last, after those that are made from it."""
    knobs = protocol.chosen(experiment, RESULTS / "robustness_trials.csv", method)
    own = rows.key_of(_blank(experiment, method, knobs, seed))
    if own in {rows.key_of(row) for row in rows.read(file, COLUMNS)}:
        return
    with stage(f"{experiment.name}, {method}, seed {seed}") as on_step:
        run = protocol.fine_tuned(experiment, METHODS[method], knobs, seed, on_step)
    for name, more, params in _points(method, run):
        kinds = {kind: [_accuracy(run.start, params, (kind, s), seed) for s in severities] for kind in CORRUPTIONS}
        found = {
            "clean_accuracy": _accuracy(run.start, params, None, seed),
            "corrupted_accuracy": statistics.fmean(value for values in kinds.values() for value in values),
            "kinds": kinds,
        }
        rows.append(file, _blank(experiment, name, knobs | more, seed) | found, COLUMNS)


def _points(method: str, run: Run) -> Iterator[tuple[str, dict[str, float], Params]]:
    """Each model to measure: its name, its own settings, its parameters."""
    origin, tuned, vanilla = run.start.params, run.trained.params, method == "vanilla"
    if vanilla:
        yield "zero_shot", {}, origin
    yield "wise_ft" if vanilla else f"{method}+wise_ft", {"alpha": ALPHA}, between(tuned, origin, ALPHA)
    yield method, {}, tuned


def _blank(experiment: Experiment, method: str, knobs: dict[str, float], seed: int) -> rows.Row:
    row = protocol.blank_row(experiment, method, knobs, seed)
    return {column: row.get(column) for column in COLUMNS}


def _accuracy(origin: Start, params: Params, corruption: tuple[str, int] | None, seed: int) -> float:
    test = origin.task.id_test
    assert isinstance(test, ArrayDomain)
    images = test.images if corruption is None else _images(test, *corruption, seed)
    domain = ArrayDomain(test.name, images, test.labels)
    return accuracy(predictions(origin.network, params, domain), domain)


_made: dict[tuple[int, str, int, int], np.ndarray] = {}  # all methods of a seed see the same corrupted images


def _images(test: ArrayDomain, kind: str, severity: int, seed: int) -> np.ndarray:
    key = (id(test), kind, severity, seed)
    if key not in _made:
        _made[key] = corrupted(test.images, kind, severity, seed)
    return _made[key]


if __name__ == "__main__":
    main()
