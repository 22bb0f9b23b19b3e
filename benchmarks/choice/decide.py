"""What chooses what: from ID validation scores of a few seeds to one setting for all tasks, and to one candidate."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from choice.grid import AVERAGES, KINDS, PEER, Setting, settings
from choice.problems import Problem, family_weights
from choice.rows import START, Row
from choice.runs import SHARES

__all__ = ["RULES", "WEIGHTS", "Candidate", "Choice", "candidates", "choose", "nearest"]

RULES = ("none", "own", "best", "fixed")
"""Where on the way from the foundation model to a candidate's weights: at its end; at a point that each run's own
validation images choose, the nearest within one standard error of the best score, or the nearest that has it; or at one
point for all tasks."""

ERRORS = {"own": 1.0, "best": 0.0}
"""How many standard errors below the best score a rule lets a point be."""

WEIGHTS = {"last": ("last",), "averaged": AVERAGES, "any": KINDS}
"""Which of a run's weights a candidate takes; of `any` the run's own validation images choose."""

Runs = Mapping[tuple[str, int, Setting], Row]


class Candidate(NamedTuple):
    """What can be recommended.

    Attributes:
        method: A key of `choice.grid.METHODS`.
        weights: A key of `WEIGHTS`.
        rule: One of `RULES`.
    """

    method: str
    weights: str
    rule: str

    def __str__(self) -> str:
        parts = [self.weights] * (self.weights != "last") + [f"WiSE-FT {self.rule}"] * (self.rule != "none")
        return ", ".join([self.method, *parts])


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        settings: By method and weights: its setting, and the kind of weights that is best at share 1.
        shares: The `fixed` share of each.
        scores: The mean validation score of every candidate.
        primary: The candidate on which success is judged.
    """

    settings: Mapping[tuple[str, str], tuple[Setting, str]]
    shares: Mapping[tuple[str, str], float]
    scores: Mapping[Candidate, float]
    primary: Candidate

    def at(self, candidate: Candidate, start: Row, row: Row) -> tuple[str, float]:
        """The kind of a run's weights that a candidate takes, and its share; 0 is the foundation model."""
        method, weights, rule = candidate
        _, kind = self.settings[method, weights]
        if rule in ERRORS:
            return nearest(start, row, WEIGHTS[weights] if weights == "any" else (kind,), ERRORS[rule])
        return kind, 1.0 if rule == "none" else self.shares[method, weights]

    def wanted(self, start: Row, row: Row) -> dict[str, set[float]]:
        """The shares, by kind of weights, at which a run of the report is measured; for the peer its whole path."""
        found: dict[str, set[float]] = {}
        for one in candidates([row.setting.method]):
            own, kind = self.settings[one[:2]]
            if own == row.setting:
                kind, share = self.at(one, start, row)
                found.setdefault(kind, set()).update(SHARES if one.method == PEER else {share} - {0.0})
        return {kind: shares for kind, shares in found.items() if shares}


def candidates(methods: Iterable[str]) -> list[Candidate]:
    """All of them: each method with each of its weights and each rule; of `any` a rule chooses."""
    every = itertools.product(methods, WEIGHTS, RULES)
    return [Candidate(*parts) for parts in every if parts[1] != "any" or parts[2] in ERRORS]


def nearest(start: Row, row: Row, kinds: Sequence[str], errors: float) -> tuple[str, float]:
    """Kind and share of the point nearest to the foundation model, of those with a validation score within some
    standard errors of the best one: `ftp_optax.smallest_share` for several kinds of weights."""
    scores = {("last", 0.0): start.validation["last"][0.0]}
    scores |= {(kind, share): score for kind in kinds for share, score in row.validation[kind].items()}
    best = max(scores.values())
    level = best - errors * math.sqrt(best * (1 - best) / row.images)
    return min((p for p, score in scores.items() if score >= level), key=lambda p: p[1] * row.drift[p[0]])


def choose(runs: Runs, problems: Mapping[str, Problem], seeds: Sequence[int], methods: Sequence[str]) -> Choice:
    """Chooses on the validation scores of some seeds.

    Raises:
        KeyError: A run is missing.
    """
    mean = _Mean(runs, problems, seeds)
    found, shares = {}, {}
    for key in itertools.product(methods, WEIGHTS):
        method, weights = key
        pairs = [(setting, kind) for setting in settings((method,)) for kind in WEIGHTS[weights]]
        # max takes the first of equals
        setting, kind = max(pairs, key=lambda own: (mean.score(*own, 1.0), -mean.drift(*own)))
        found[key], shares[key] = (setting, kind), _fixed_share(mean, setting, kind)
    chosen = Choice(found, shares, {}, Candidate(PEER, "last", "none"))
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
        starts, peers = mean.of(START), mean.of(choice.settings[PEER, "last"][0])
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
