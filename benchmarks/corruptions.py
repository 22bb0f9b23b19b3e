"""Natural corruptions: accuracy on corrupted ID test images, by method. Fifteen kinds at five severities.

    python benchmarks/corruptions.py                       # the embedded digits: some minutes on two cores
    python benchmarks/corruptions.py --experiment emoji    # the emoji benchmark, on its main ID style
    python benchmarks/corruptions.py --experiment fashion  # Fashion-MNIST, from a Debian package
    python benchmarks/corruptions.py --smallest            # seconds; what CI runs

Settings are those that benchmarks/robustness.py chose on clean ID validation images; no method has seen a corruption.
Each seed's run of a method is a row of benchmarks/results/corruptions.csv, and is not repeated.
"""

import csv
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from ftp_optax import wise_ft
from measure.report import environment, print_table
from measure.report import write as write_json
from robust import protocol
from robust.command import stage, told_in_one_line
from robust.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from robust.experiments import Experiment, standard
from robust.finetune import Start
from robust.methods import METHODS
from robust.summary import estimate
from robust.training import predictions
from vision.cache import keep_compiled_programs
from vision.data import ArrayDomain
from vision.networks import Params
from vision.progress import make_console

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("experiment", "method", "hyperparameters", "seed", "clean", "corrupted", "kinds")
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
    """Where corruptions.csv and corruptions.json are written."""

    smallest: bool = False
    """The digits with little data, one seed, one severity."""


def main() -> None:
    """Runs what is missing, then tabulates."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    experiment = standard(options.experiment, smallest=options.smallest)
    with told_in_one_line(console):
        _run(options, experiment)
    found = _rows(options.results / "corruptions.csv", experiment.name)
    _print(found, experiment)
    write_json(options.results / "corruptions.json", {"environment": environment(), "rows": found})


def _run(options: Options, experiment: Experiment) -> None:
    file = options.results / "corruptions.csv"
    for seed in range(1 if options.smallest else options.seeds):
        for method in options.methods:
            if not any((row["method"], row["seed"]) == (method, str(seed)) for row in _rows(file, experiment.name)):
                _measure(experiment, method, seed, options)


def _measure(experiment: Experiment, method: str, seed: int, options: Options) -> None:
    """Fine-tunes once, and appends the rows of the run and of its interpolation; the run's own last."""
    knobs = protocol.chosen(experiment, RESULTS / "robustness_trials.csv", method)
    with stage(f"{method}, seed {seed}") as on_step:
        run = protocol.fine_tuned(experiment, METHODS[method], knobs, seed, on_step)
    origin, tuned = run.start, run.trained.params
    points: dict[str, Params] = {f"{method}+wise_ft": wise_ft(tuned, origin.params, ALPHA), method: tuned}
    if method == "vanilla":
        points = {"zero_shot": origin.params} | points
    severities = SEVERITIES[2:3] if options.smallest else SEVERITIES
    for name, params in points.items():
        kinds = {kind: [_accuracy(origin, params, kind, s, seed) for s in severities] for kind in CORRUPTIONS}
        mean = statistics.fmean(value for values in kinds.values() for value in values)
        clean = _accuracy(origin, params, None, 0, seed)
        _append(
            options.results / "corruptions.csv", (experiment.name, name, json.dumps(knobs), seed, clean, mean, kinds)
        )


def _accuracy(origin: Start, params: Params, kind: str | None, severity: int, seed: int) -> float:
    test = origin.task.id_test
    assert isinstance(test, ArrayDomain)
    images = test.images if kind is None else _images(test, kind, severity, seed)
    domain = ArrayDomain(test.name, images, test.labels)
    return float(np.mean(predictions(origin.network, params, domain) == test.labels))


_made: dict[tuple[int, str, int, int], np.ndarray] = {}  # all methods of a seed see the same corrupted images


def _images(test: ArrayDomain, kind: str, severity: int, seed: int) -> np.ndarray:
    key = (id(test), kind, severity, seed)
    if key not in _made:
        _made[key] = corrupted(test.images, kind, severity, seed)
    return _made[key]


def _rows(file: Path, experiment: str) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["experiment"] == experiment and row["kinds"]]


def _append(file: Path, cells: tuple[Any, ...]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    *front, clean, mean, kinds = cells
    rounded = json.dumps({kind: [round(value, 4) for value in values] for kind, values in kinds.items()})
    with open(file, "a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if stream.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerow([*front, f"{clean:.5g}", f"{mean:.5g}", rounded])


def _print(found: list[dict[str, Any]], experiment: Experiment) -> None:
    table = []
    for method in dict.fromkeys(row["method"] for row in found):
        mine = [row for row in found if row["method"] == method]
        cells = []
        for column in ("clean", "corrupted"):
            value = estimate([float(row[column]) for row in mine])
            cells.append(f"{value.mean:.1f}" + (f" ± {value.half:.1f}" if value.half is not None else ""))
        table.append((method, str(len(mine)), *cells))
    title = f"{experiment.name}, {experiment.id_domain}: accuracy in %, mean and 95 % interval over seeds"
    print_table(title, f"interpolations at alpha {ALPHA}", ("method", "seeds", "clean", "corrupted"), [table])


if __name__ == "__main__":
    main()
