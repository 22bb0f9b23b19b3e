"""The protocol: the grid on the seeds that choose, then what they chose on the others; no run is made twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from choice import rows
from choice.decide import Choice, Runs, choose
from choice.grid import Setting, settings
from choice.problems import Problem
from choice.results import Results
from choice.rows import START, Row
from choice.runs import run, start_row
from robust.finetune import Start
from vision.errors import UserError

__all__ = ["OnRow", "Study"]

OnRow = Callable[[int, int, Row], None]
"""Called with runs done, runs in all, and the last row."""

Key = tuple[str, int, Setting]


@dataclass(frozen=True)
class Study:
    """What is run, and where its rows are.

    Attributes:
        problems: All tasks, over which is chosen.
        methods: What is compared.
        choosing: Seeds that choose.
        reporting: Seeds that are reported.
        file: Of the rows.
    """

    problems: Mapping[str, Problem]
    methods: tuple[str, ...]
    choosing: Sequence[int]
    reporting: Sequence[int]
    file: Path

    def run_grid(self, tasks: Sequence[str], on_row: OnRow) -> None:
        """Runs what the choice lacks on some tasks. No test image is looked at."""
        wanted = [(t, s, setting) for s in self.choosing for t in tasks for setting in self._grid()]
        found = self._runs()
        self._run([key for key in wanted if key not in found], None, on_row)

    def choice(self) -> Choice:
        """What the rows choose.

        Raises:
            UserError: Some are missing.
        """
        found = self._runs()
        every = [(t, s, setting) for s in self.choosing for t in self.problems for setting in self._grid()]
        if missing := [key for key in every if key not in found]:
            task, seed, setting = missing[0]
            raise UserError(
                f"{self.file}: the choice is over all tasks, and {len(missing)} of {len(every)} rows are missing, such "
                f"as {setting.method} on {task}, seed {seed}; run --stage choose"
            )
        return choose(found, self.problems, self.choosing, self.methods)

    def run_chosen(self, choice: Choice, tasks: Sequence[str], on_row: OnRow) -> None:
        """Runs what the report lacks on some tasks."""
        found = self._runs()
        wanted = [(t, s, setting) for s in self.reporting for t in tasks for setting in _chosen(choice)]
        self._run([key for key in wanted if not _measured(found, choice, key)], choice, on_row)

    def results(self, choice: Choice) -> Results:
        """The report of the seeds that have all runs of all tasks.

        Raises:
            UserError: There is no such seed.
        """
        found = self._runs()
        whole = lambda seed: all(
            _measured(found, choice, (t, seed, own)) for t in self.problems for own in _chosen(choice)
        )
        seeds = [seed for seed in self.reporting if whole(seed)]
        if not seeds:
            raise UserError(f"{self.file}: no seed of the report has the rows of all tasks; run --stage report")
        return Results(found, self.problems, choice, seeds)

    def _grid(self) -> list[Setting]:
        return [START, *settings(self.methods)]

    def _runs(self) -> Runs:
        return rows.by_run(rows.read(self.file))

    def _run(self, keys: Sequence[Key], choice: Choice | None, on_row: OnRow) -> None:
        """Runs and appends, the foundation model of each task and seed made once; tested where something was chosen."""
        start_of = lru_cache(maxsize=1)(lambda task, seed: self.problems[task].start(seed))
        for done, (task, seed, setting) in enumerate(keys, start=1):
            row = self._row(start_of(task, seed), task, seed, setting, choice)
            rows.append(self.file, row)
            on_row(done, len(keys), row)

    def _row(self, start: Start, task: str, seed: int, setting: Setting, choice: Choice | None) -> Row:
        problem = self.problems[task]
        if setting == START:
            return start_row(task, problem, start, seed, tested=choice is not None)
        before = self._runs()[task, seed, START]
        wanted = (lambda row: {}) if choice is None else partial(choice.wanted, before)
        return run(task, problem, start, setting, seed, wanted)


def _chosen(choice: Choice) -> list[Setting]:
    """What is run for the report: several candidates share a run."""
    return [START, *dict.fromkeys(setting for setting, _ in choice.settings.values())]


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
