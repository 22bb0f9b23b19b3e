"""The protocol: three trials a method on validation data of one seed, then every seed with the setting chosen."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Generic, Protocol, TypeVar

from robust import rows
from robust.methods import RATE
from robust.training import OnStep
from vision.errors import UserError

__all__ = ["DEFAULT_RATE", "Settings", "Stage", "Study", "points"]

DEFAULT_RATE = 1e-3
"""The learning rate where none was tried."""

Settings = dict[str, float]
"""Hyper-parameters: the learning rate, and the method's own knob if that is another."""

Stage = Callable[[str], AbstractContextManager[OnStep]]
"""The context of each training run: takes its name and gives the callback for its steps."""

Origin = TypeVar("Origin")
Run = TypeVar("Run")


class Tunable(Protocol):
    """A method as far as choosing goes."""

    @property
    def knob(self) -> str:
        """What is chosen; `RATE` for the learning rate itself."""
        ...

    @property
    def values(self) -> tuple[float, ...]:
        """What is tried, the default first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Study(ABC, Generic[Origin, Run]):
    """Runs of many methods and seeds, of which a benchmark says what one is and what it measures.

    Attributes:
        results: The final rows.
        trials: The trials' rows; None to try nothing: every method runs at its `default`.
        tried: How many settings of each method's knob are tried.
    """

    results: rows.File
    trials: rows.File | None = None
    tried: int = 3

    methods: ClassVar[Mapping[str, Tunable]]
    validation: ClassVar[str] = "validation_accuracy"
    """The trials' column by which is chosen."""

    @abstractmethod
    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        """What a run's row holds before the run; all that tells it from others."""

    @abstractmethod
    def start(self, seed: int, on_step: OnStep) -> Origin:
        """What all runs of a seed start from."""

    @abstractmethod
    def train(self, origin: Origin, name: str, knobs: Settings, seed: int, on_step: OnStep) -> Run:
        """One run of one method."""

    @abstractmethod
    def judged(self, origin: Origin, run: Run) -> rows.Row:
        """What a trial's row adds: scores on validation data alone."""

    @abstractmethod
    def measured(self, origin: Origin, run: Run, name: str, knobs: Settings, seed: int) -> Iterable[rows.Row]:
        """All rows of a run. Its own comes last: where that is, all the others are too."""

    def default(self, name: str) -> Settings:
        """The hyper-parameters of a method of which nothing was tried."""
        method = self.methods[name]
        return {RATE: DEFAULT_RATE, method.knob: method.values[0]}

    def title(self) -> str:
        """What the runs' names in the progress begin with."""
        return self.known("", {}, 0)["experiment"]

    def chosen(self, name: str) -> Settings:
        """The hyper-parameters of a method: those of the trial best in validation, the first of equals.

        The learning rate is vanilla fine-tuning's, unless it is the method's own knob.
        """
        knobs = self.default(name)
        for wanted in (name,) if self.methods[name].knob == RATE else ("vanilla", name):
            best = self._best(wanted)
            if best is not None:
                knobs[self.methods[wanted].knob] = best
        return knobs

    def _best(self, name: str) -> float | None:
        """The knob's value; None before any trial."""
        method, own = self.methods[name], rows.key_of(self.known(name, {}, 0))[:4]
        found = {
            row["hyperparameters"][method.knob]: row[self.validation]
            for row in (self.trials.read() if self.trials else [])
            if rows.key_of(row)[:4] == own
        }
        tried = [value for value in method.values if value in found]
        return max(tried, key=lambda value: found[value]) if tried else None  # max takes the first of equals

    def run_missing(
        self,
        names: Sequence[str],
        seeds: Sequence[int],
        stage: Stage,
        on_done: Callable[[str, int, Run], None] = lambda name, seed, run: None,
    ) -> None:
        """Runs what has no row yet: trials on the first seed, then all seeds.

        Args:
            names: Of methods.
            seeds: Settings are chosen on the first.
            stage: Progress.
            on_done: Called with method, seed and run when a run is finished.

        Raises:
            UserError: There is no such method.
        """
        if unknown := [name for name in names if name not in self.methods]:
            raise UserError(f"no method {unknown[0]!r}; choose from {', '.join(self.methods)}")
        for seed in seeds:
            self._run_seed(names, seed, self.trials if seed == seeds[0] else None, stage, on_done)

    def _run_seed(
        self,
        names: Sequence[str],
        seed: int,
        trials: rows.File | None,
        stage: Stage,
        on_done: Callable[[str, int, Run], None],
    ) -> None:
        @cache  # made when the first run is missing, if any is
        def origin() -> Origin:
            with stage(f"{self.title()}, foundation model {seed}") as on_step:
                return self.start(seed, on_step)

        def trained(name: str, knobs: Settings, what: str) -> Run:
            start = origin()
            with stage(f"{self.title()}, {name}, {what}") as on_step:
                return self.train(start, name, knobs, seed, on_step)

        for name in names:
            knob, values = self.methods[name].knob, self.methods[name].values
            runs: dict[float, Run] = {}  # the best of the trials is the first seed's run
            for value in values[: self.tried] if trials else ():
                knobs = self.chosen(name) | {knob: value}
                row = self.known(name, knobs, seed)
                if trials and row not in trials:
                    runs[value] = trained(name, knobs, f"trial of {knob} {value:g}")
                    trials.append(row | self.judged(origin(), runs[value]))
            knobs = self.chosen(name)
            if self.known(name, knobs, seed) not in self.results:
                best = knobs[knob]
                run = runs[best] if best in runs else trained(name, knobs, f"seed {seed}")
                for row in self.measured(origin(), run, name, knobs, seed):
                    self.results.append(row)
                on_done(name, seed, run)


def points(name: str, knobs: Settings, alphas: Iterable[float]) -> Iterator[tuple[str, Settings, float]]:
    """The models of one run that are measured: each one's name, settings, and place between foundation and run.

    Args:
        name: Of the method; with vanilla fine-tuning comes the foundation model.
        knobs: The run's.
        alphas: Interpolations: WiSE-FT.
    """
    vanilla = name == "vanilla"
    if vanilla:
        yield "zero_shot", {}, 0.0
    for alpha in alphas:
        yield "wise_ft" if vanilla else f"{name}+wise_ft", {**knobs, "alpha": alpha}, alpha
    yield name, knobs, 1.0
