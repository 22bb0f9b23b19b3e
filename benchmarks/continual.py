"""One task after the other: how much of the earlier ones is left, by method, with one anchor and reanchored.

    python benchmarks/continual.py                                # the embedded digits: minutes on one core
    python benchmarks/continual.py --experiment emoji --seeds 3   # three styles in turn: an hour of one core, resumable
    python benchmarks/continual.py --report                       # tables and figures of what is there
    python benchmarks/continual.py --smallest                     # seconds; what CI runs

Every method has one knob and three settings of it, chosen on the first seed by the mean accuracy on validation images
of all tasks after the last one. Each run is a row of benchmarks/results/continual.csv, and is not repeated; trials are
in continual_trials.csv. examples/continual.py is the recipe in its shortest form.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import tyro

from breadth import continual_report
from breadth.continual_report import COLUMNS, FILE
from breadth.learners import LEARNERS, accuracies, average, forgetting, learn, learned
from breadth.sequences import TaskSequence, digits_sequence, emoji_sequence
from robust import rows
from robust.command import stage, told_in_one_line
from robust.experiments import Experiment, standard
from robust.protocol import known, recorded
from robust.study import Settings, Study
from robust.training import OnStep
from vision.cache import keep_compiled_programs
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
    tries = options.trials > 1 and not options.smallest
    study = InTurn(
        experiment=experiment,
        results=rows.File(options.results / FILE, COLUMNS),
        trials=rows.File(options.results / "continual_trials.csv", COLUMNS) if tries else None,
        tried=options.trials,
    )
    study.run_missing(options.methods, range(1 if options.smallest else options.seeds), stage)


class Learned(NamedTuple):
    """The models before the first task and after each, and the time that they took."""

    models: list[Params]
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class InTurn(Study[TaskSequence, Learned]):
    """Learning the tasks of one experiment in turn.

    Attributes:
        experiment: The main benchmark's, whose foundation model begins.
    """

    experiment: Experiment

    methods: ClassVar = LEARNERS

    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        return known(self.experiment, name, knobs, seed)

    def default(self, name: str) -> Settings:
        """What the main benchmark chose, or the first of the settings that are other here."""
        learner = LEARNERS[name]
        other = {learner.knob: learner.values[0]} if learner.alphas or learner.settings else {}
        return recorded(self.experiment).chosen(learner.method) | other

    def start(self, seed: int, on_step: OnStep) -> TaskSequence:
        is_digits = self.experiment.name == "digits"
        return digits_sequence(seed, self.experiment.smallest, on_step) if is_digits else emoji_sequence(seed, on_step)

    def train(self, origin: TaskSequence, name: str, knobs: Settings, seed: int, on_step: OnStep) -> Learned:
        length = LENGTHS[self.experiment.name] | ({"epochs": 1} if self.experiment.smallest else {})
        started = time.perf_counter()
        models = learn(LEARNERS[name], knobs, origin, seed, **length, on_step=on_step)
        return Learned(models, time.perf_counter() - started)

    def judged(self, origin: TaskSequence, run: Learned) -> rows.Row:
        found = accuracies(origin, run.models[-1], list(origin.validation.values()))
        return {"validation_accuracy": float(np.mean(found)), "seconds": run.seconds}

    def measured(self, origin: TaskSequence, run: Learned, name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        matrix = np.array([accuracies(origin, model, list(origin.test.values())) for model in run.models])
        found = {"average_accuracy": average(matrix), "forgetting": forgetting(matrix)}
        found |= {"learned_accuracy": learned(matrix), "accuracies": matrix.tolist()}
        yield self.known(name, knobs, seed) | self.judged(origin, run) | found


if __name__ == "__main__":
    main()
