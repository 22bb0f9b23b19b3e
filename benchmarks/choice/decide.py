"""What chooses what: from ID validation scores of a few seeds to one setting for all tasks, and to one candidate."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from choice.grid import AVERAGES, PEER, Setting, settings
from choice.problems import Problem, family_weights
from choice.rows import START, Points, Row
from choice.runs import SHARES
from ftp_optax import smallest_share

__all__ = ["RULES", "Candidate", "Choice", "candidates", "choose", "own_share"]

RULES = ("none", "own", "fixed")
"""Where on the way from the foundation model to a candidate's weights: at its end, at a point that each run's own
validation images choose, or at one for all tasks."""

Runs = Mapping[tuple[str, int, Setting], Row]


class Candidate(NamedTuple):
    """What can be recommended.

    Attributes:
        method: A key of `choice.grid.METHODS`.
        averaged: Whether its weights are an average, or the last ones.
        rule: One of `RULES`.
    """

    method: str
    averaged: bool
    rule: str

    def __str__(self) -> str:
        parts = ["averaged"] * self.averaged + [f"WiSE-FT {self.rule}"] * (self.rule != "none")
        return ", ".join([self.method, *parts])


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        settings: By method and whether it is averaged: its setting and the kind of its weights.
        shares: The `fixed` share of each.
        scores: The mean validation score of every candidate.
        primary: The candidate on which success is judged.
    """

    settings: Mapping[tuple[str, bool], tuple[Setting, str]]
    shares: Mapping[tuple[str, bool], float]
    scores: Mapping[Candidate, float]
    primary: Candidate

    def at(self, candidate: Candidate, start: Row, row: Row) -> tuple[str, float]:
        """The kind of a run's weights that a candidate takes, and its share; 0 is the foundation model."""
        key = candidate[:2]
        _, kind = self.settings[key]
        if candidate.rule == "own":
            return kind, own_share(start.validation, row.validation, kind, row.images)
        return kind, 1.0 if candidate.rule == "none" else self.shares[key]

    def wanted(self, start: Row, setting: Setting, images: int, validation: Points) -> dict[str, set[float]]:
        """The shares, by kind of weights, at which a run of the report is measured; for the peer its whole path."""
        found: dict[str, set[float]] = {}
        for key, (own, kind) in self.settings.items():
            if own == setting:
                some = {1.0, self.shares[key], own_share(start.validation, validation, kind, images)}
                found.setdefault(kind, set()).update(SHARES if setting.method == PEER else some - {0.0})
        return found


def candidates(methods: Iterable[str]) -> list[Candidate]:
    """All of them: each method with its last weights or an average, and each rule."""
    return [Candidate(*parts) for parts in itertools.product(methods, (False, True), RULES)]


def own_share(start: Points, validation: Points, kind: str, images: int) -> float:
    """The smallest share that a run's own validation images cannot tell from the best one."""
    points = {0.0: start["last"][0.0], **validation[kind]}
    return smallest_share(list(points), list(points.values()), images)


def choose(runs: Runs, problems: Mapping[str, Problem], seeds: Sequence[int], methods: Sequence[str]) -> Choice:
    """Chooses on the validation scores of some seeds.

    Raises:
        KeyError: A run is missing.
    """
    mean = _Mean(runs, problems, seeds)
    found, shares = {}, {}
    for key in itertools.product(methods, (False, True)):
        method, averaged = key
        pairs = itertools.product(settings((method,)), AVERAGES if averaged else ("last",))
        # max takes the first of equals
        setting, kind = max(pairs, key=lambda own: (mean.score(*own, 1.0), -mean.drift(*own)))
        found[key], shares[key] = (setting, kind), _fixed_share(mean, setting, kind)
    chosen = Choice(found, shares, {}, Candidate(PEER, False, "none"))
    every = [_Standing(chosen, one, mean) for one in candidates(methods)]
    best = max(every, key=lambda one: one.score)
    level = [one for one in every if one.score >= best.score - best.error]
    primary = min(level, key=lambda one: one.distance).candidate
    return Choice(found, shares, {one.candidate: one.score for one in every}, primary)


class _Mean:
    """Means over seeds and tasks, every family counting alike."""

    def __init__(self, runs: Runs, problems: Mapping[str, Problem], seeds: Sequence[int]) -> None:
        self.runs, self.seeds, self.weights = runs, seeds, family_weights(problems)

    def over(self, value: "Mapping[tuple[str, int], float]") -> float:
        """Of one number for each task and seed."""
        return sum(w * fmean(value[task, seed] for seed in self.seeds) for task, w in self.weights.items())

    def of(self, setting: Setting) -> dict[tuple[str, int], Row]:
        """A setting's rows."""
        return {(task, seed): self.runs[task, seed, setting] for task in self.weights for seed in self.seeds}

    def score(self, setting: Setting, kind: str, share: float) -> float:
        """Of the validation scores."""
        return self.over({key: row.validation[kind][share] for key, row in self.of(setting).items()})

    def drift(self, setting: Setting, kind: str) -> float:
        """Of the distances from the foundation models."""
        return self.over({key: row.drift[kind] for key, row in self.of(setting).items()})

    def error(self, scores: Mapping[tuple[str, int], float]) -> float:
        """The standard error of a mean of validation scores, each one a share of its images."""
        images = {key: row.images for key, row in self.of(START).items()}
        variance = lambda key: scores[key] * (1 - scores[key]) / images[key]
        parts = ((w / len(self.seeds)) ** 2 * variance((t, s)) for t, w in self.weights.items() for s in self.seeds)
        return math.sqrt(sum(parts))


def _fixed_share(mean: _Mean, setting: Setting, kind: str) -> float:
    scores = {share: mean.score(setting, kind, share) for share in SHARES}
    best = max(SHARES, key=scores.__getitem__)
    error = mean.error({key: row.validation[kind][best] for key, row in mean.of(setting).items()})
    return min(share for share in SHARES if scores[share] >= scores[best] - error)


class _Standing:
    """How a candidate stands in validation."""

    def __init__(self, choice: Choice, candidate: Candidate, mean: _Mean) -> None:
        self.candidate = candidate
        starts, peers = mean.of(START), mean.of(choice.settings[PEER, False][0])
        rows = mean.of(choice.settings[candidate[:2]][0])
        at = {key: choice.at(candidate, starts[key], row) for key, row in rows.items()}
        found = {
            key: rows[key].validation[kind][share] if share else starts[key].validation["last"][0.0]
            for key, (kind, share) in at.items()
        }
        self.score, self.error = mean.over(found), mean.error(found)
        # of runs as different as these, distances compare as shares of plain fine-tuning's
        gone = {key: share * rows[key].drift[kind] for key, (kind, share) in at.items()}
        self.distance = mean.over({key: gone[key] / max(peers[key].drift["last"], 1e-12) for key in gone})
