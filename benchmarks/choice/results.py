"""What the seeds of the report say: scores, differences to plain fine-tuning, and which criteria of success hold."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from choice.decide import Candidate, Choice, Runs
from choice.grid import PEER
from choice.problems import Problem, Scores, family_weights
from choice.rows import START
from choice.runs import SHARES
from robust.summary import Estimate, estimate

__all__ = ["BASE", "COLUMNS", "Criterion", "Results", "above_the_frontier"]

COLUMNS = ("ID", "OOD seen", "OOD held out")
BASE = Candidate(PEER, "last", "none")
"""What all are compared with."""


class Criterion(NamedTuple):
    """One of the conditions of success."""

    words: str
    found: str
    holds: bool


@dataclass(frozen=True, eq=False)
class Results:
    """The report's seeds.

    Attributes:
        runs: The rows by what was run.
        problems: The tasks.
        choice: What was chosen on other seeds.
        seeds: Those of which every task has every run.
    """

    runs: Runs
    problems: Mapping[str, Problem]
    choice: Choice
    seeds: Sequence[int]

    def scores(self, candidate: Candidate, task: str, seed: int) -> Scores:
        """Of one candidate on test images."""
        start = self.runs[task, seed, START]
        row = self.runs[task, seed, self.choice.settings[candidate[:2]][0]]
        kind, share = self.choice.at(candidate, start, row)
        return row.test[kind][share] if share else start.test["last"][0.0]

    def share(self, candidate: Candidate) -> tuple[float, float]:
        """The smallest and the largest share that a candidate took."""
        setting = self.choice.settings[candidate[:2]][0]
        found = [
            self.choice.at(candidate, self.runs[task, seed, START], self.runs[task, seed, setting])[1]
            for task in self.problems
            for seed in self.seeds
        ]
        return min(found), max(found)

    def mean(self, candidate: Candidate, seed: int) -> Scores:
        """Over tasks, every family counting alike."""
        return self._mean({task: self.scores(candidate, task, seed) for task in self.problems})

    def difference(self, candidate: Candidate, column: int, task: str | None = None) -> Estimate:
        """To the peer in points, paired by seed: on one task, or on the mean over all."""
        of = lambda one, seed: self.mean(one, seed) if task is None else self.scores(one, task, seed)
        return estimate([of(candidate, seed)[column] - of(BASE, seed)[column] for seed in self.seeds])

    def path(self, seed: int) -> list[Scores]:
        """Plain fine-tuning averaged and interpolated, from the foundation model on; means over tasks."""
        setting, kind = self.choice.settings[PEER, "averaged"]
        points = [self._mean({task: self.runs[task, seed, START].test["last"][0.0] for task in self.problems})]
        for share in SHARES:
            points.append(
                self._mean({task: self.runs[task, seed, setting].test[kind][share] for task in self.problems})
            )
        return points

    def gap(self, candidate: Candidate, column: int) -> Estimate:
        """How far a candidate is above that path at its own ID score, in points."""
        return estimate([above_the_frontier(self.mean(candidate, s), self.path(s), column) for s in self.seeds])

    def criteria(self) -> list[Criterion]:
        """The plan's five, of the primary candidate."""
        own = self.choice.primary
        means = [self.difference(own, column) for column in range(3)]
        gaps = [self.gap(own, column) for column in (1, 2)]
        on_tasks = {
            (task, title): self.difference(own, column, task).mean
            for task in self.problems
            for column, title in enumerate(COLUMNS)
        }
        worst = min(on_tasks, key=on_tasks.__getitem__)
        sure = lambda found, least: found.mean >= least and found.clear
        both = f"{gaps[0]:+} and {gaps[1]:+}"
        return [
            Criterion("ID not more than 0.3 points below", f"{means[0]:+}", means[0].mean >= -0.3),
            Criterion("OOD seen at least 3 points above, surely", f"{means[1]:+}", sure(means[1], 3)),
            Criterion("OOD held out at least 2 points above, surely", f"{means[2]:+}", sure(means[2], 2)),
            Criterion(
                "no task more than 1 point below, in any score",
                f"{on_tasks[worst]:+.1f} on `{worst[0]}`, {worst[1]}",
                on_tasks[worst] >= -1,
            ),
            Criterion(
                "at equal ID above plain fine-tuning averaged and interpolated, seen and held out, surely",
                both,
                all(gap.mean > 0 and gap.clear for gap in gaps),
            ),
        ]

    def _mean(self, of: Mapping[str, Scores]) -> Scores:
        weights = family_weights(self.problems)
        first, second, third = (sum(weights[task] * scores[i] for task, scores in of.items()) for i in range(3))
        return first, second, third


def above_the_frontier(scores: Scores, path: Sequence[Scores], column: int) -> float:
    """An OOD score minus the best of a path with at least the same ID score.

    Args:
        scores: Of what is compared.
        path: Points, joined by straight lines in their order.
        column: 1 for OOD seen, 2 for held out.
    """
    level = scores[0]
    reached = [point[column] for point in path if point[0] >= level]
    for one, other in itertools.pairwise(path):
        if min(one[0], other[0]) < level < max(one[0], other[0]):
            along = (level - one[0]) / (other[0] - one[0])
            reached.append((1 - along) * one[column] + along * other[column])
    best = max(reached) if reached else max(path, key=lambda point: point[0])[column]
    return scores[column] - best
