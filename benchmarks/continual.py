"""One task after the other: how much of the earlier ones is left, by method, with one anchor and reanchored.

    python benchmarks/continual.py                                           # the embedded digits: minutes on one core
    python benchmarks/continual.py --experiment emoji --seeds 3 --trials 1   # three styles in turn: hours, resumable
    python benchmarks/continual.py --report                                  # tables and figures of what is there
    python benchmarks/continual.py --smallest                                # seconds; what CI runs

Every method has one knob and three settings of it, chosen on the first seed by the mean accuracy on validation images
of all tasks after the last one. Each run is a row of benchmarks/results/continual.csv, and is not repeated; trials are
in continual_trials.csv. examples/continual.py is the recipe in its shortest form.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from breadth import continual_report
from breadth.continual_report import COLUMNS, FILE
from breadth.learners import LEARNERS, Learner, accuracies, average, forgetting, learn, learned
from breadth.sequences import TaskSequence, digits_sequence, emoji_sequence
from robust import protocol, rows
from robust.command import stage, told_in_one_line
from robust.experiments import Experiment, standard
from robust.methods import RATE
from vision.cache import keep_compiled_programs
from vision.errors import UserError
from vision.networks import Params
from vision.progress import make_console

RESULTS = Path(__file__).parent / "results"
LENGTHS = {"digits": {"epochs": 8, "batch_size": 20}, "emoji": {"epochs": 5, "batch_size": 32}}


@dataclasses.dataclass(frozen=True)
class Options:
    """Learns tasks in turn with every method."""

    experiment: Literal["digits", "emoji"] = "digits"
    """Appearances of the embedded digits, or emoji in three artists' styles."""

    methods: tuple[str, ...] = tuple(LEARNERS)
    """Which methods."""

    seeds: int = 5
    """Number of seeds, from 0: of split, foundation model and training."""

    trials: int = 3
    """Settings tried for each method, on the first seed; 1 for what the main benchmark chose."""

    results: Path = RESULTS
    """Where continual.csv, its tables and figures are written."""

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
            _run(options, standard(options.experiment, smallest=options.smallest))
    continual_report.write(options.results)


def _run(options: Options, experiment: Experiment) -> None:
    if unknown := [name for name in options.methods if name not in LEARNERS]:
        raise UserError(f"no method {unknown[0]!r}; choose from {', '.join(LEARNERS)}")
    for seed in range(1 if options.smallest else options.seeds):
        with stage(f"{experiment.name}, foundation model {seed}") as on_step:
            digits = experiment.name == "digits"
            tasks = digits_sequence(seed, options.smallest, on_step) if digits else emoji_sequence(seed, on_step)
        for name in options.methods:
            if seed == 0 and options.trials > 1 and not options.smallest:
                _try(options, experiment, name, tasks)
            _fill(options, experiment, name, seed, tasks)


def _try(options: Options, experiment: Experiment, name: str, tasks: TaskSequence) -> None:
    learner, file = LEARNERS[name], options.results / "continual_trials.csv"
    for value in learner.values[: options.trials]:
        row = _blank(experiment, name, _chosen(options, experiment, name) | {learner.knob: value}, 0)
        if rows.key_of(row) not in {rows.key_of(there) for there in rows.read(file, COLUMNS)}:
            started = time.perf_counter()
            model = _models(experiment, learner, row["hyperparameters"], tasks, 0, f"trial of {name}")[-1]
            found = accuracies(tasks, model, list(tasks.validation.values()))
            seconds = time.perf_counter() - started
            rows.append(file, row | {"validation_accuracy": float(np.mean(found)), "seconds": seconds}, COLUMNS)


def _fill(options: Options, experiment: Experiment, name: str, seed: int, tasks: TaskSequence) -> None:
    file = options.results / FILE
    row = _blank(experiment, name, _chosen(options, experiment, name), seed)
    if rows.key_of(row) in {rows.key_of(there) for there in rows.read(file, COLUMNS)}:
        return
    started = time.perf_counter()
    models = _models(experiment, LEARNERS[name], row["hyperparameters"], tasks, seed, name)
    matrix = np.array([accuracies(tasks, model, list(tasks.test.values())) for model in models])
    found = {
        "validation_accuracy": float(np.mean(accuracies(tasks, models[-1], list(tasks.validation.values())))),
        "average_accuracy": average(matrix),
        "forgetting": forgetting(matrix),
        "learned_accuracy": learned(matrix),
        "seconds": time.perf_counter() - started,
        "accuracies": matrix.tolist(),
    }
    rows.append(file, row | found, COLUMNS)


def _models(
    experiment: Experiment, learner: Learner, knobs: dict[str, float], tasks: TaskSequence, seed: int, what: str
) -> list[Params]:
    length = LENGTHS[experiment.name] | ({"epochs": 1} if experiment.smallest else {})
    with stage(f"{experiment.name}, {what}, seed {seed}") as on_step:
        return learn(learner, knobs, tasks, seed, **length, on_step=on_step)


def _chosen(options: Options, experiment: Experiment, name: str) -> dict[str, float]:
    """The setting best on validation images; without trials here, what the main benchmark chose."""
    learner = LEARNERS[name]
    knobs = protocol.chosen(experiment, RESULTS / "robustness_trials.csv", learner.method)
    knobs |= {learner.knob: learner.values[0]} if learner.alphas or learner.settings else {}
    found = rows.read(options.results / "continual_trials.csv", COLUMNS)
    for wanted in dict.fromkeys(("vanilla", name)):  # the learning rate is vanilla's
        knob = LEARNERS[wanted].knob
        mine = [
            row
            for row in found
            if (row["experiment"], row["method"]) == (experiment.name, wanted)
            and row["hyperparameters"][knob] in LEARNERS[wanted].values
        ]
        if mine:
            knobs[knob] = max(mine, key=lambda row: row["validation_accuracy"])["hyperparameters"][knob]
    return knobs


def _blank(experiment: Experiment, name: str, knobs: dict[str, float], seed: int) -> dict[str, Any]:
    row = protocol.blank_row(experiment, name, {RATE: knobs[RATE], **knobs}, seed)
    return dict.fromkeys(COLUMNS) | {"accuracies": []} | {key: row[key] for key in COLUMNS if key in row}


if __name__ == "__main__":
    main()
