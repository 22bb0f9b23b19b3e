"""What chooses what: from ID validation scores of a few seeds to one setting for all tasks, and to one candidate."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from evidence.methods import ALL, Method
from evidence.rows import rounded
from ftp_optax import averaged

SHARES = (0.3, 0.5, 0.7, 0.9, 1.0)  # where on the way from the foundation model to a run's weights they are measured
AVERAGES = ("uniform", "polynomial")
KINDS = ("last", *AVERAGES)  # the weights that one run gives
PEER = "plain"

GRID: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    PEER: ((3e-4, 1e-3, 3e-3), (0.0,)),
    "ftp": ((1e-3, 3e-3), (0.01, 0.03, 0.1)),
    "ftp_exact": ((1e-3, 3e-3), (0.03,)),
    "ftp_scale_free": ((1e-3, 3e-3), (0.3, 1.0)),
    "ftp_layer_scale": ((1e-3, 3e-3), (0.1, 0.3)),
    "l2_sp": ((1e-3,), (0.01, 0.1)),
    "tpgm": ((1e-3,), (0.01,)),
    "digrap_from_1": ((1e-3,), (0.01,)),
    "digrap_fixed": ((1e-3,), (0.5,)),
    "digrap_window": ((1e-3,), (0.95,)),
    "digrap_held_out": ((1e-3,), (0.05,)),
}  # by method: peak learning rates, and values of the one knob, a single 0 where there is none

FORMS = (
    ("ftp", "ftp_exact", "ftp_scale_free", "ftp_layer_scale"),
    ("digrap_from_1", "digrap_fixed", "digrap_window", "digrap_held_out"),
)  # of one method; two of each are reported

SMALLEST = (PEER, "ftp", "digrap_held_out")


def _within_averages(method: Method) -> Method:
    build = method.build
    return method._replace(build=lambda adamw, knob: averaged(averaged(build(adamw, knob), kind="polynomial")))


METHODS = {name: _within_averages(ALL["vanilla" if name == PEER else name]) for name in GRID}
"""By name, each within both averages; the peer is plain fine-tuning."""


class Setting(NamedTuple):
    """What is run on every task."""

    method: str  # a key of `METHODS`
    rate: float  # the peak learning rate
    decay: float  # 1 for cosine decay, 0 for a constant rate
    knob: float  # the method's own


START = Setting("start", 0.0, 0.0, 0.0)
"""Stands for the foundation model, which has a row of its own in each task and seed."""


def settings(methods: Iterable[str] = GRID) -> list[Setting]:
    """The grid: every method at all its rates and knobs, with cosine decay and without."""
    points = ((name, *GRID[name]) for name in methods)
    return [
        Setting(name, *point) for name, rates, knobs in points for point in itertools.product(rates, (1.0, 0.0), knobs)
    ]


# the rows: a line of JSON for each run

Scores = tuple[float, float, float]
"""ID, mean over the OOD domains that the foundation model has seen, and over those held out from it."""

Points = dict[str, dict[float, float]]
"""Scores by kind of weights and by share of the way from the foundation model to them."""


@dataclass(frozen=True)
class Row:
    """What came of one run."""

    task: str  # a key of `choice.problems.PROBLEMS`
    seed: int  # of split, foundation model, subset and order
    setting: Setting  # what was run
    images: int  # how many validation images (of `dense`, scenes) there are
    drift: dict[str, float]  # the l2 distance of each kind of weights from the foundation model
    validation: Points  # scores on ID validation images
    # scores on the test sets; of the seeds that choose there are none
    test: dict[str, dict[float, Scores]] = field(default_factory=dict)
    # the mean of the learned radii or strengths over layers and the second half of the run, if any
    strength: float | None = None
    seconds: float = 0.0  # of training, compilation included


def read(path: Path) -> list[Row]:
    """All rows of a file; none if there is no file. A line that a crash cut short is no row."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [_row(json.loads(line)) for line in lines if line.endswith("}")]


def by_run(rows: Iterable[Row]) -> dict[tuple[str, int, Setting], Row]:
    """The rows by what was run; a later one of the same run replaces an earlier one."""
    return {(row.task, row.seed, row.setting): row for row in rows}


def append(path: Path, row: Row) -> None:
    """Adds a row, in one write, so that two processes may fill one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {name: value for name, value in asdict(row).items() if value not in (None, {})}
    setting = dict(zip(Setting._fields, line.pop("setting"), strict=True))
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(rounded({**setting, **line}, 6)) + "\n")


def _row(line: Mapping[str, object]) -> Row:
    own = {name: line[name] for name in line if name not in Setting._fields}
    setting = Setting(*(line[name] for name in Setting._fields))  # pyright: ignore[reportArgumentType]
    for name in ("validation", "test"):
        own[name] = {kind: _by_share(points) for kind, points in own.get(name, {}).items()}  # pyright: ignore
    return Row(setting=setting, **own)  # pyright: ignore[reportArgumentType]


def _by_share(points: Mapping[str, object]) -> dict[float, object]:
    return {float(share): tuple(value) if isinstance(value, list) else value for share, value in points.items()}


# from rows to a choice

RULES = ("none", "own", "best", "fixed")
"""Where on the way from the foundation model to a candidate's weights: at its end; at a point that each run's own
validation images choose, the nearest within one standard error of the best score, or the nearest that has it; or at one
point for all tasks."""

ERRORS = {"own": 1.0, "best": 0.0}  # how many standard errors below the best score a rule lets a point be

WEIGHTS = {"last": ("last",), "averaged": AVERAGES, "any": KINDS}
"""Which of a run's weights a candidate takes; of `any` the run's own validation images choose."""

Runs = Mapping[tuple[str, int, Setting], Row]


class Candidate(NamedTuple):
    """What can be recommended."""

    method: str  # a key of `METHODS`
    weights: str  # a key of `WEIGHTS`
    rule: str  # one of `RULES`

    def __str__(self) -> str:
        parts = [self.weights] * (self.weights != "last") + [f"WiSE-FT {self.rule}"] * (self.rule != "none")
        return ", ".join([self.method, *parts])


@dataclass(frozen=True)
class Choice:
    """What was chosen."""

    # by method and weights, of what is reported: its setting, and the kind of weights that is best at share 1
    settings: Mapping[tuple[str, str], tuple[Setting, str]]
    shares: Mapping[str, float]  # the peer's `fixed` share, by weights: no other has that rule
    scores: Mapping[Candidate, float]  # the mean validation score of every candidate
    primary: Candidate  # the candidate on which success is judged

    def recommended(self) -> "Choice":
        """The same of the candidate with the best validation score and the peer alone: seeds of their own judge it."""
        best = max((one for one in self.scores if one[:2] in self.settings), key=self.scores.__getitem__)
        own = {key: self.settings[key] for key in self.settings if key[0] in (PEER, best.method)}
        return replace(self, settings=own, primary=best)

    def at(self, candidate: Candidate, start: Row, row: Row) -> tuple[str, float]:
        """The kind of a run's weights that a candidate takes, and its share; 0 is the foundation model."""
        method, weights, rule = candidate
        _, kind = self.settings[method, weights]
        if rule in ERRORS:
            return nearest(start, row, WEIGHTS[weights] if weights == "any" else (kind,), ERRORS[rule])
        return kind, 1.0 if rule == "none" else self.shares[weights]

    def at_the_peers_rate(self) -> list[Setting]:
        """DiGraP, its first form, at the rate and decay of plain fine-tuning: what does the method itself do?"""
        peer, own = self.settings[PEER, "last"][0], dict.fromkeys(setting for setting, _ in self.settings.values())
        return [one._replace(rate=peer.rate, decay=peer.decay) for one in own if one.method in FORMS[1]][:1]

    def wanted(self, start: Row, row: Row) -> dict[str, set[float]]:
        """The shares, by kind of weights, at which a run of the report is measured; for the peer its whole path."""
        found: dict[str, set[float]] = {"last": {1.0}} if row.setting in self.at_the_peers_rate() else {}
        for one in candidates([row.setting.method]):
            own, kind = self.settings[one[:2]]
            if own == row.setting:
                kind, share = self.at(one, start, row)
                found.setdefault(kind, set()).update(SHARES if one.method == PEER else {share} - {0.0})
        return {kind: shares for kind, shares in found.items() if shares}


def candidates(methods: Iterable[str]) -> list[Candidate]:
    """All of them: the peer with all weights and rules; of the others, what a user would compare with it."""
    peers = [(weights, rule) for weights in WEIGHTS for rule in RULES if weights != "any" or rule in ERRORS]
    others = [(weights, rule) for weights in WEIGHTS for rule in ("own" if weights == "any" else "none", "best")]
    return [Candidate(method, *own) for method in methods for own in (peers if method == PEER else others)]


def nearest(start: Row, row: Row, kinds: Sequence[str], errors: float) -> tuple[str, float]:
    """Kind and share of the point nearest to the foundation model, of those with a validation score within some
    standard errors of the best one: `ftp_optax.smallest_share` for several kinds of weights."""
    scores = {("last", 0.0): start.validation["last"][0.0]}
    scores |= {(kind, share): score for kind in kinds for share, score in row.validation[kind].items()}
    best = max(scores.values())
    level = best - errors * math.sqrt(best * (1 - best) / row.images)
    return min((p for p, score in scores.items() if score >= level), key=lambda p: p[1] * row.drift[p[0]])


def finalists(runs: Runs, problems: Mapping[str, Any], seed: int, methods: Iterable[str]) -> list[Setting]:
    """The settings that further seeds run: of each method the best third on the first seed, by its best weights."""
    mean = _Mean(runs, problems, (seed,))
    order = lambda setting: max(mean.standing(setting, kind) for kind in KINDS)
    found: list[Setting] = []
    for method in methods:
        own = sorted(settings((method,)), key=order, reverse=True)
        found += own[: math.ceil(len(own) / 3)]
    return found


def choose(runs: Runs, problems: Mapping[str, Any], seeds: Sequence[int], methods: Sequence[str]) -> Choice:
    """Chooses on the validation scores of some seeds."""
    mean = _Mean(runs, problems, seeds)
    left = finalists(runs, problems, seeds[0], methods)
    # max takes the first of equals
    best = lambda pairs: max(pairs, key=lambda own: mean.standing(*own))
    found = {}
    for method in methods:
        own = [setting for setting in left if setting.method == method]
        if method != PEER:
            own = [best(itertools.product(own, KINDS))[0]]
        for weights, kinds in WEIGHTS.items():
            found[method, weights] = best(itertools.product(own, kinds))
    shares = {weights: _fixed_share(mean, *found[PEER, weights]) for weights in WEIGHTS}
    chosen = Choice(found, shares, {}, Candidate(PEER, "last", "none"))
    every = [_Standing(chosen, one, mean) for one in candidates(methods)]
    scores = {one.candidate: one.score for one in every}
    reported = reported_methods(scores, methods)
    best = max(every, key=lambda one: one.score)
    level = [one for one in every if one.score >= best.score - best.error and one.candidate.method in reported]
    primary = min(level, key=lambda one: one.distance).candidate
    return Choice({key: found[key] for key in found if key[0] in reported}, shares, scores, primary)


def reported_methods(scores: Mapping[Candidate, float], methods: Iterable[str]) -> list[str]:
    """The methods of the report: of several forms of one, that with the best last weights, and that with the best
    point of any weights."""
    dropped: set[str] = set()
    for forms in FORMS:
        own = [form for form in forms if form in methods]
        for_last, for_any = (
            max(own, key=lambda form: scores[Candidate(form, *rest)], default=None)
            for rest in (("last", "none"), ("any", "best"))
        )
        dropped |= set(own) - {for_last, for_any}
    return [method for method in methods if method not in dropped]


def family_weights(problems: Mapping[str, Any]) -> dict[str, float]:
    """What each task counts in a mean over tasks: the mean over families of the means within them."""
    families = [problem.family for problem in problems.values()]
    return {name: 1 / (len(set(families)) * families.count(one.family)) for name, one in problems.items()}


class _Mean:
    """Means over seeds and tasks, every family counting alike."""

    def __init__(self, runs: Runs, problems: Mapping[str, Any], seeds: Sequence[int]) -> None:
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

    def standing(self, setting: Setting, kind: str) -> tuple[float, float]:
        """By which a setting and its weights are chosen: their score, and of equals the nearness to the start."""
        return self.score(setting, kind, 1.0), -self.drift(setting, kind)

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
