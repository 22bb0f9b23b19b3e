"""One recipe for all tasks? Every candidate with one setting, chosen on validation images, on twelve tasks.

A working day of two cores, resumable at any moment. What is asked, what chooses and what counts as success was written
down before: benchmarks/results/recipe_plan.md. Each run is a line of benchmarks/results/recipe.jsonl, and is not
repeated; two may run side by side with other --tasks, on one file. The emoji come from npm, the clothes from Debian's
package dataset-fashion-mnist. --smallest: the digits with little data, three methods, three seeds; a minute.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from evidence import recipe_results
from evidence.command import Evidence
from evidence.corruptions import corrupted_domain
from evidence.dense import CORRUPTIONS, SEVERITY, scenes_task
from evidence.emoji import STYLES
from evidence.few_labels import stratified_order
from evidence.recipe_choice import (
    GRID,
    KINDS,
    METHODS,
    SHARES,
    SMALLEST,
    START,
    Choice,
    Points,
    Row,
    Runs,
    Scores,
    Setting,
    append,
    by_run,
    choose,
    finalists,
    read,
    settings,
)
from evidence.recipe_results import Results
from evidence.tasks import ID_DOMAINS, Classification, Start, Task, between, classification, distance
from evidence.training import Knobs, OnStep, Trained
from ftp_optax import averaged_params
from vision.errors import UserError
from vision.networks import Params
from vision.progress import make_console, track


class Problem(NamedTuple):
    """A task of the study: what it counts with in a mean over tasks, and what it is, which may depend on the seed."""

    family: str
    task: Callable[[int], Task]

    def start(self, seed: int) -> Start:
        """Its data and foundation model."""
        return self.task(seed).start(seed)


SCORED = 100  # test images of each OOD style of the emoji, at most: scoring takes longer than training


class FewScored(Classification):
    """With at most some OOD test images of each style."""

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        start = super().start(seed, on_step)
        few = lambda domain: domain.at(stratified_order(domain.labels, seed)[:SCORED])
        fewer = {name: few(domain) for name, domain in start.data.ood.items()}
        return replace(start, data=replace(start.data, ood=fewer))


class WithCorruptions(Classification):
    """With corrupted ID test images among what is held out."""

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        start = super().start(seed, on_step)
        data = start.data
        worse = {kind: corrupted_domain(data.id_test, kind, SEVERITY, seed) for kind in CORRUPTIONS}
        groups = {**data.ood_groups, "held out": (*data.ood_groups["held out"], *worse)}
        return replace(start, data=replace(data, ood={**data.ood, **worse}, ood_groups=groups))


def drawn_style(seed: int) -> str:
    """The third style of the emoji: drawn for each seed from those that no table of this project was made on."""
    styles = [name for name in STYLES if name not in (ID_DOMAINS["emoji"], "noto")]
    return styles[int(hashlib.sha256(f"recipe {seed}".encode()).hexdigest(), 16) % len(styles)]


def _one(family: str, task: Task) -> Problem:
    return Problem(family, lambda seed: task)


def _emoji(style: str | None = None, **changes: Any) -> Task:
    return FewScored(**vars(classification("emoji", style, **changes)))


PROBLEMS: dict[str, Problem] = {
    "digits": _one("digits", classification("digits")),
    "digits-long": _one("digits", classification("digits", epochs=120, batch_size=8)),
    "digits-vit": _one("digits", classification("digits", backbone="vit")),
    "digits-1": _one("few labels", classification("digits", share=0.01)),
    "digits-5": _one("few labels", classification("digits", share=0.05)),
    "digits-20": _one("few labels", classification("digits", share=0.2)),
    "emoji-5": _one("few labels", _emoji(share=0.05)),
    "fashion": _one("fashion", WithCorruptions(**vars(classification("fashion")))),
    "emoji": _one("emoji", _emoji()),
    "emoji-noto": _one("emoji", _emoji("noto")),
    "emoji-drawn": Problem("emoji", lambda seed: _emoji(drawn_style(seed))),
    "dense": _one("dense", scenes_task("emoji")),
}  # by name

SMALLEST_PROBLEMS = {"digits": _one("digits", classification("digits", smallest=True))}


@dataclass(frozen=True)
class Options(Evidence):
    """Chooses one setting for all tasks, and reports on other seeds."""

    tasks: tuple[str, ...] = tuple(PROBLEMS)  # Which tasks to run; the choice and the tables are over all of them.
    methods: tuple[str, ...] = tuple(GRID)  # What is compared.
    # choose runs the grid on the seeds that choose, and tabulates nothing; report runs what they chose on others.
    stage: Literal["all", "choose", "report"] = "all"
    # Seeds of the report. 0 to 2 choose; 10 to 13 judge what is recommended.
    seeds: tuple[int, ...] = tuple(range(3, 14))  # pyright: ignore[reportIncompatibleVariableOverride]

    def study(self) -> "Study":
        """What is run, and where its rows are."""
        small = self.smallest
        return Study(
            SMALLEST_PROBLEMS if small else PROBLEMS,
            SMALLEST if small else self.methods,
            choosing=(0,) if small else (0, 1, 2),
            reporting=(1, 2, 3) if small else self.seeds,
            judging=(3,) if small else (10, 11, 12, 13),
            file=self.results / "recipe.jsonl",
        )

    def fill(self) -> None:
        study, console = self.study(), make_console()
        tasks = tuple(study.problems) if self.smallest else self.tasks
        if unknown := [task for task in tasks if task not in study.problems]:
            raise UserError(f"--tasks {unknown[0]}: unknown; the tasks are {', '.join(study.problems)}")
        told = lambda row: f"{row.task} {row.seed}: {row.setting.method}, {row.seconds:.0f} s"
        if self.stage != "report":
            with track(console, "choose", unit="runs") as update:
                study.run_grid(tasks, lambda done, total, row: update(done, told(row), total=total))
        if self.stage != "choose":
            choice = study.choice()
            with track(console, "report", unit="runs") as update:
                study.run_chosen(choice, tasks, lambda done, total, row: update(done, told(row), total=total))

    def tell(self) -> None:
        if self.stage != "choose":
            study = self.study()
            found, judged, both = study.report(study.choice())
            self.write("recipe", recipe_results.tables(found, both))
            self.write("recipe_summary", recipe_results.summary(found, judged, both))
            recipe_results.draw_tasks(both, self.results / "recipe_tasks.png")
            recipe_results.draw(found, self.results / "recipe.png")


OnRow = Callable[[int, int, Row], None]  # called with runs done, runs in all, and the last row
Key = tuple[str, int, Setting]
Wanted = Callable[[Row], Mapping[str, Iterable[float]]]
"""From a run's validation scores to the shares, by kind of weights, that test images score."""


@dataclass(frozen=True)
class Study:
    """The grid on the seeds that choose, then what they chose on the others; no run is made twice."""

    problems: Mapping[str, Problem]  # all tasks, over which is chosen
    methods: tuple[str, ...]
    choosing: Sequence[int]  # seeds
    reporting: Sequence[int]
    judging: Sequence[int]  # of the seeds that report, those of what is recommended alone
    file: Path

    def run_grid(self, tasks: Sequence[str], on_row: OnRow) -> None:
        """Runs what the choice lacks on some tasks: first the whole grid on one seed, then what is left of it on the
        others. No test image is looked at.

        Raises:
            UserError: The grid lacks rows of other tasks.
        """
        self._run(_missing(self._runs(), self._grid(tasks)), None, on_row)
        found = self._runs()
        self._run(_missing(found, self._finals(found, tasks)), None, on_row)

    def choice(self) -> Choice:
        """What the rows choose.

        Raises:
            UserError: Some are missing.
        """
        found = self._runs()
        self._require(found, self._finals(found, self.problems))
        return choose(found, self.problems, self.choosing, self.methods)

    def run_chosen(self, choice: Choice, tasks: Sequence[str], on_row: OnRow) -> None:
        """Runs what the report lacks on some tasks."""
        found, own = self._runs(), lambda seed: choice.recommended() if seed in self.judging else choice
        wanted = [(t, s, setting) for s in self.reporting for t in tasks for setting in _chosen(own(s))]
        self._run([key for key in wanted if not _measured(found, choice, key)], choice, on_row)

    def report(self, choice: Choice) -> tuple[Results, Results, Results]:
        """All candidates; what is recommended, on the seeds that judge it; the same on all seeds.

        Raises:
            UserError: There is no seed with the runs of all tasks.
        """
        found, own = self._runs(), choice.recommended()
        first = [seed for seed in self.reporting if seed not in self.judging]
        last = [seed for seed in self.reporting if seed in self.judging]
        over = lambda choice, seeds: self._results(found, choice, seeds)
        return over(choice, first), over(own, last), over(own, self.reporting)

    def _results(self, found: Runs, choice: Choice, among: Iterable[int]) -> Results:
        chosen = _chosen(choice)
        whole = lambda seed: all(_measured(found, choice, (t, seed, own)) for t in self.problems for own in chosen)
        seeds = [seed for seed in among if whole(seed)]
        if not seeds:
            raise UserError(f"{self.file}: no seed of {among} has the rows of all tasks; run --stage report")
        return Results(found, self.problems, choice, seeds)

    def _grid(self, tasks: Iterable[str]) -> list[Key]:
        """All settings on the first seed."""
        return [(task, self.choosing[0], setting) for task in tasks for setting in (START, *settings(self.methods))]

    def _finals(self, found: Runs, tasks: Iterable[str]) -> list[Key]:
        """The settings that are left on the other seeds."""
        self._require(found, self._grid(self.problems))
        left = finalists(found, self.problems, self.choosing[0], self.methods)
        return [(task, seed, own) for seed in self.choosing[1:] for task in tasks for own in (START, *left)]

    def _require(self, found: Runs, keys: Iterable[Key]) -> None:
        if missing := _missing(found, keys):
            task, seed, setting = missing[0]
            raise UserError(
                f"{self.file}: the choice is over all tasks, and {len(missing)} rows are missing, such as "
                f"{setting.method} on {task}, seed {seed}; run --stage choose"
            )

    def _runs(self) -> Runs:
        return by_run(read(self.file))

    def _run(self, keys: Sequence[Key], choice: Choice | None, on_row: OnRow) -> None:
        """Runs and appends, the foundation model of each task and seed made once; tested where something was chosen."""
        start_of = lru_cache(maxsize=1)(lambda task, seed: self.problems[task].start(seed))
        for done, (name, seed, setting) in enumerate(keys, start=1):
            start, task = start_of(name, seed), self.problems[name].task(seed)
            if setting == START:
                row = start_row(name, task, start, seed, tested=choice is not None)
            else:
                before = self._runs()[name, seed, START]
                wanted = (lambda row: {}) if choice is None else partial(choice.wanted, before)
                row = run(name, task, start, setting, seed, wanted)
            append(self.file, row)
            on_row(done, len(keys), row)


def _missing(found: Runs, keys: Iterable[Key]) -> list[Key]:
    return [key for key in keys if key not in found]


def _chosen(choice: Choice) -> list[Setting]:
    """What is run for the report: several candidates share a run."""
    return [START, *dict.fromkeys([*(setting for setting, _ in choice.settings.values()), *choice.at_the_peers_rate()])]


def _measured(found: Runs, choice: Choice, key: Key) -> bool:
    """Whether a run of the report is there, with all the test scores that the choice asks for."""
    task, seed, setting = key
    row, start = found.get(key), found.get((task, seed, START))
    if row is None or start is None:
        return False
    if setting == START:
        return bool(row.test)
    wanted = choice.wanted(start, row)
    return all(shares <= row.test.get(kind, {}).keys() for kind, shares in wanted.items())


def run(name: str, task: Task, start: Start, setting: Setting, seed: int, wanted: Wanted) -> Row:
    """Trains once and measures: the last weights and their averages, and each one's path back."""
    trained = task.train(start, METHODS[setting.method], Knobs(setting.rate, setting.knob, setting.decay), seed)
    ends, validation = weights(trained), start.data.validation
    at = lambda kind, share: between(ends[kind], start.params, share)
    found: Points = {k: {s: task.score(start, at(k, s), validation) for s in SHARES} for k in KINDS}
    learned = [rows[len(rows) // 2 :].mean() for rows in trained.scalars.values()]
    drift = {kind: distance(params, start.params) for kind, params in ends.items()}
    strength, seconds = float(np.mean(learned)) if learned else None, round(trained.seconds, 1)
    row = Row(name, seed, setting, len(validation), drift, found, strength=strength, seconds=seconds)
    test: Any = {
        kind: {share: test_scores(task, start, at(kind, share)) for share in sorted(shares)}
        for kind, shares in wanted(row).items()
    }
    return replace(row, test=test)


def start_row(name: str, task: Task, start: Start, seed: int, *, tested: bool) -> Row:
    """The foundation model's own row; with scores on test images where those are looked at."""
    validation = {"last": {0.0: task.score(start, start.params, start.data.validation)}}
    test = {"last": {0.0: test_scores(task, start, start.params)}} if tested else {}
    return Row(name, seed, START, len(start.data.validation), {"last": 0.0}, validation, test)


def test_scores(task: Task, start: Start, params: Params) -> Scores:
    """Of some weights on the test sets."""
    data = start.data
    found = {name: task.score(start, params, domain) for name, domain in data.ood.items()}
    seen, held_out = (fmean(found[name] for name in data.ood_groups[group]) for group in ("seen", "held out"))
    return task.score(start, params, data.id_test), seen, held_out


def weights(trained: Trained) -> dict[str, Params]:
    """The weights that a run gives, by kind."""
    outer = trained.opt_state[-1]  # behind the clipping
    found = (trained.params, averaged_params(outer, trained.params), averaged_params(outer.inner_state, trained.params))
    return dict(zip(KINDS, found, strict=True))
