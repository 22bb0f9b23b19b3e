"""The protocol: three trials a method on validation data of one seed, then every seed with the setting chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from evidence.methods import METHODS, RATE
from evidence.rows import File, Row
from evidence.tasks import Classification, Settings, Task
from evidence.training import OnStep
from vision.errors import UserError
from writer import RESULTS

DEFAULT_RATE = 1e-3  # the learning rate where none was tried

Stage = Callable[[str], AbstractContextManager[OnStep]]
"""The context of each training run: takes its name and gives the callback for its steps."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Runs of many methods and seeds on one task."""

    task: Task
    results: File  # the final rows
    tried: int = 1  # how many settings of each method's knob are tried; 1 for none, each runs at its `default`
    # each with a `knob` and its `values`, the default first
    methods: Mapping[str, Any] = field(default_factory=lambda: METHODS)
    alphas: tuple[float, ...] = ()  # WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)
    few_alphas: tuple[float, ...] = ()  # what all other methods are interpolated with
    like: "Study | None" = None  # whose choice is the default

    @property
    def trials(self) -> File | None:
        """The trials' rows, in a file beside the results; None where nothing is tried."""
        path = self.results.path
        return replace(self.results, path=path.with_stem(f"{path.stem}_trials")) if self.tried > 1 else None

    def known(self, name: str, knobs: Settings, seed: int) -> Row:
        """What a run's row holds before the run; all that tells it from others."""
        own = {"method": name, "hyperparameters": knobs, "seed": seed}
        return {key: own[key] if key in own else getattr(self.task, key) for key in self.results.key}

    def points(self, name: str, knobs: Settings) -> Iterator[tuple[str, Settings, float]]:
        """The models of one run that are measured: each one's name, settings, and place between foundation and run.

        With vanilla fine-tuning comes the foundation model, where the path to it is measured.
        """
        vanilla = name == "vanilla"
        if vanilla and self.alphas:
            yield "zero_shot", {}, 0.0
        for alpha in self.alphas if vanilla else self.few_alphas:
            yield "wise_ft" if vanilla else f"{name}+wise_ft", {**knobs, "alpha": alpha}, alpha
        yield name, knobs, 1.0

    def default(self, name: str) -> Settings:
        """The hyper-parameters of a method of which nothing was tried."""
        if self.like is not None:
            return self.like.chosen(name)
        method = self.methods[name]
        return {RATE: DEFAULT_RATE, method.knob: method.values[0]}

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
        method, same = self.methods[name], ("experiment", "backbone", "id_domain", "method")
        own = self.known(name, {}, 0)
        found = {
            row["hyperparameters"][method.knob]: row[self.task.validation]
            for row in (self.trials.read() if self.trials else [])
            if all(row[key] == own[key] for key in same)
        }
        tried = [value for value in method.values if value in found]
        return max(tried, key=lambda value: found[value]) if tried else None  # max takes the first of equals

    def run_missing(
        self,
        names: Sequence[str],
        seeds: Sequence[int],
        stage: Stage,
        on_done: Callable[[str, int, Any], None] = lambda name, seed, run: None,
    ) -> None:
        """Runs what has no row yet: trials on the first seed, then all seeds; calls `on_done` with each finished run.

        Raises:
            UserError: There is no such method.
        """
        if unknown := [name for name in names if name not in self.methods]:
            raise UserError(f"no method {unknown[0]!r}; choose from {', '.join(self.methods)}")
        for seed in seeds:
            self._run_seed(names, seed, self.trials if seed == seeds[0] else None, stage, on_done)

    def _run_seed(self, names: Sequence[str], seed: int, trials: File | None, stage: Stage, on_done: Any) -> None:
        @cache  # made when the first run is missing, if any is
        def origin() -> Any:
            with stage(f"{self.task.title}, foundation model {seed}") as on_step:
                return self.task.start(seed, on_step)

        def trained(name: str, knobs: Settings, what: str) -> Any:
            start = origin()
            with stage(f"{self.task.title}, {name}, {what}") as on_step:
                return self.task.tune(start, self.methods[name], knobs, seed, on_step)

        for name in names:
            knob, values = self.methods[name].knob, self.methods[name].values
            runs: dict[float, Any] = {}  # the best of the trials is the first seed's run
            for value in values[: self.tried] if trials else ():
                knobs = self.chosen(name) | {knob: value}
                row = self.known(name, knobs, seed)
                if trials and row not in trials:
                    run = runs[value] = trained(name, knobs, f"trial of {knob} {value:g}")
                    trials.append(row | {self.task.validation: run.validation} | run.cost())
            knobs = self.chosen(name)
            if self.known(name, knobs, seed) not in self.results:
                best = knobs[knob]
                run = runs[best] if best in runs else trained(name, knobs, f"seed {seed}")
                # the run's own row comes last: where that is, all the others are too
                for label, settings, alpha in self.points(name, knobs):
                    row = self.known(label, settings, seed) | run.cost(alpha)
                    self.results.append(row | self.task.columns(origin(), run.at(alpha)))
                on_done(name, seed, run)


ALPHAS = tuple(round(0.1 * i, 1) for i in range(1, 10))


def main_study(task: Classification, results: Path = RESULTS, tried: int = 3) -> Study:
    """The main benchmark's runs; those that are recorded, whose settings other benchmarks take."""
    file = File(results / "robustness.csv")
    return Study(task=task, results=file, tried=tried, alphas=ALPHAS, few_alphas=(0.5, 0.7))
