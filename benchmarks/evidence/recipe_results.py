"""What the seeds of the report say: differences to plain fine-tuning, which criteria hold; tables and a figure."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import style
from evidence.figures import legend
from evidence.recipe_choice import (
    PEER,
    SHARES,
    START,
    Candidate,
    Choice,
    Runs,
    Scores,
    Setting,
    candidates,
    family_weights,
)
from evidence.summary import SCORES, Estimate, estimate
from style import plt
from writer import markdown

_SIZES = {"own": 4, "best": 5, "fixed": 6, "none": 8}  # of markers, by rule
COLUMNS = tuple(SCORES)
BASE = Candidate(PEER, "last", "none")  # what all are compared with


class Criterion(NamedTuple):
    """One of the conditions of success."""

    words: str
    found: str
    holds: bool


@dataclass(frozen=True, eq=False)
class Results:
    """The report's seeds."""

    runs: Runs  # the rows by what was run
    problems: Mapping[str, Any]  # the tasks
    choice: Choice  # what was chosen on other seeds
    seeds: Sequence[int]  # those of which every task has every run

    def scores(self, candidate: Candidate, task: str, seed: int) -> Scores:
        """Of one candidate on test images."""
        start = self.runs[task, seed, START]
        row = self.runs[task, seed, self.choice.settings[candidate[:2]][0]]
        kind, share = self.choice.at(candidate, start, row)
        return row.test[kind][share] if share else start.test["last"][0.0]

    def mean(self, candidate: Candidate, seed: int, tasks: Iterable[str] = ()) -> Scores:
        """Over some tasks, all by default, every family counting alike."""
        return self._mean({task: self.scores(candidate, task, seed) for task in tasks or self.problems})

    def difference(self, candidate: Candidate, column: int, tasks: Iterable[str] = ()) -> Estimate:
        """To the peer in points, paired by seed: of the mean over some tasks, all by default."""
        of = lambda one, seed: self.mean(one, seed, tasks)[column]
        return estimate([of(candidate, seed) - of(BASE, seed) for seed in self.seeds])

    def worst(self, candidate: Candidate) -> tuple[float, str, str]:
        """The lowest of its differences on single tasks; the task and the score."""
        gap = lambda task, column: self.difference(candidate, column, [task]).mean
        return min((gap(task, c), task, title) for task in self.problems for c, title in enumerate(COLUMNS))

    def last(self, setting: Setting, column: int) -> Estimate:
        """The last weights of a setting, whatever chose it, minus the peer's."""
        of = lambda seed: self._mean({t: self.runs[t, seed, setting].test["last"][1.0] for t in self.problems})[column]
        return estimate([of(seed) - self.mean(BASE, seed)[column] for seed in self.seeds])

    def path(self, seed: int) -> list[Scores]:
        """Plain fine-tuning averaged and interpolated, from the foundation model on; means over tasks."""
        setting, kind = self.choice.settings[PEER, "averaged"]
        points = [self._mean({task: self.runs[task, seed, START].test["last"][0.0] for task in self.problems})]
        own = {task: self.runs[task, seed, setting].test[kind] for task in self.problems}
        return points + [self._mean({task: scores[share] for task, scores in own.items()}) for share in SHARES]

    def gap(self, candidate: Candidate, column: int) -> Estimate:
        """How far a candidate is above that path at its own ID score, in points."""
        return estimate([above_the_frontier(self.mean(candidate, s), self.path(s), column) for s in self.seeds])

    def criteria(self) -> list[Criterion]:
        """The plan's five, of the primary candidate."""
        own = self.choice.primary
        means = [self.difference(own, column) for column in range(3)]
        gaps = [self.gap(own, column) for column in (1, 2)]
        lowest, task, title = self.worst(own)
        sure = lambda found, least: found.mean >= least and found.clear
        words = "{} at least {} points above, interval without zero"
        above = lambda c, least: Criterion(words.format(COLUMNS[c], least), f"{means[c]:+}", sure(means[c], least))
        on_worst, both = f"{lowest:+.1f} on `{task}`, {title}", f"{gaps[0]:+} and {gaps[1]:+}"
        frontier = "at equal ID above plain fine-tuning averaged and interpolated, intervals without zero"
        return [
            Criterion("ID not more than 0.3 points below", f"{means[0]:+}", means[0].mean >= -0.3),
            above(1, 3),
            above(2, 2),
            Criterion("no task more than 1 point below, in any score", on_worst, lowest >= -1),
            Criterion(frontier, both, all(gap.mean > 0 and gap.clear for gap in gaps)),
        ]

    def _mean(self, of: Mapping[str, Scores]) -> Scores:
        weights = family_weights({task: self.problems[task] for task in of})
        first, second, third = (sum(weights[task] * scores[i] for task, scores in of.items()) for i in range(3))
        return first, second, third


def above_the_frontier(scores: Scores, path: Sequence[Scores], column: int) -> float:
    """An OOD score minus the best of a path with at least the same ID score."""
    level = scores[0]
    reached = [point[column] for point in path if point[0] >= level]
    for one, other in itertools.pairwise(path):
        if min(one[0], other[0]) < level < max(one[0], other[0]):
            along = (level - one[0]) / (other[0] - one[0])
            reached.append((1 - along) * one[column] + along * other[column])
    best = max(reached) if reached else max(path, key=lambda point: point[0])[column]
    return scores[column] - best


# tables and figures


def compared(found: Results) -> dict[str, Candidate]:
    """What the page compares with plain fine-tuning, by name."""
    return {"recipe": found.choice.primary, "without FTP": Candidate(PEER, "any", "best")}


def summary(found: Results, judged: Results, both: Results) -> str:
    """What is recommended and its peer, on all tasks and in each family; and which of the plan's conditions hold for it
    and for the plan's own candidate."""
    families = dict.fromkeys(problem.family for problem in both.problems.values())
    every = {"all": [*both.problems]}
    every |= {family: [task for task, one in both.problems.items() if one.family == family] for family in families}
    by_family = _compared(both, {f"{name} ({len(tasks)})": tasks for name, tasks in every.items()})
    asked = [(judged, "recipe"), (both, "recipe"), (found, "plan's candidate")]
    head = [f"{name}, seeds {of.seeds[0]} to {of.seeds[-1]}" for of, name in asked]
    told = lambda one: f"{one.found}: {'yes' if one.holds else 'no'}"
    answers = zip(*(of.criteria() for of, _ in asked), strict=True)
    lines = [[own[0].words, *map(told, own)] for own in answers]
    conditions = markdown(["condition of success", *head], lines, left=4)
    names = f"The recipe is `{both.choice.primary}`, over {len(both.seeds)} seeds."
    return f"{by_family}\n{names} The candidate of the plan is `{found.choice.primary}`.\n\n{conditions}"


def _compared(found: Results, rows: Mapping[str, Iterable[str]]) -> str:
    """The recipe and its peer on some tasks a row."""
    shown = compared(found)
    head = ["tasks", *(f"{name}: {column}" for name in shown for column in COLUMNS)]
    cells = lambda tasks: [found.difference(one, c, tasks).difference for one in shown.values() for c in range(3)]
    return markdown(head, [[name, *cells(tasks)] for name, tasks in rows.items()])


def draw_tasks(found: Results, path: Path) -> None:
    """A forest plot: the mean over all tasks and each task in a row, a panel for each score."""
    rows = {"mean over tasks": list(found.problems)} | {task: [task] for task in found.problems}
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 0.42 * len(rows) + 1.9), layout="constrained", sharey=True)
    for column, axes in enumerate(panels):
        for offset, (name, one) in zip((-0.14, 0.14), compared(found).items(), strict=True):
            gaps = [found.difference(one, column, tasks) for tasks in rows.values()]
            means, halves = [gap.mean for gap in gaps], [gap.half or 0 for gap in gaps]
            look = style.of(one.method) | {"ms": 6, "lw": 1.4, "ls": "", "label": name}
            axes.errorbar(means, [place + offset for place in range(len(rows))], xerr=halves, **look)
        axes.axvline(0, color="#444444", lw=1)
        axes.axhline(0.5, color="#bbbbbb", lw=0.7)
        axes.set_title(COLUMNS[column], fontsize=11)
        axes.set_xlabel("points above plain fine-tuning")
        style.clean(axes)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].invert_yaxis()
    legend(panels[0])
    figure.suptitle(verdict(found), fontsize=11)
    style.save(figure, path)


def verdict(found: Results) -> str:
    """On how many tasks the recipe is measurably above plain fine-tuning, and below it, by score."""
    gaps = [[found.difference(found.choice.primary, column, [task]) for task in found.problems] for column in range(3)]
    count = lambda own, sign: sum(gap.clear and sign * gap.mean > 0 for gap in own)
    told = [f"{name} better on {count(g, 1)}, worse on {count(g, -1)}" for name, g in zip(COLUMNS, gaps, strict=True)]
    counts = f"{len(found.problems)} tasks, {len(found.seeds)} seeds"
    return f"The recipe against plain fine-tuning on {counts}\n{'; '.join(told)}"


def tables(found: Results, both: Results) -> str:
    """All candidates; then what is recommended and its peer by task."""
    parts = [
        f"Seeds {', '.join(map(str, found.seeds))}. Points above `{BASE}` on the mean over tasks, paired by seed. "
        "*Worst*: the task and score\non which a candidate is worst.\n",
        _all(found),
        f"The recipe by task, seeds {', '.join(map(str, both.seeds))}:\n",
        _compared(both, {f"`{task}`": [task] for task in both.problems}),
        "Last weights, and their learned strengths or radii as means over layers and the second half of the runs. "
        "DiGraP\nis here at the setting of `plain` too.\n",
        _learned(found),
    ]
    return "\n".join(parts)


def all_candidates(found: Results) -> list[Candidate]:
    """Those of the methods that are reported."""
    return candidates(dict.fromkeys(method for method, _ in found.choice.settings))


def _all(found: Results) -> str:
    """A line for each candidate."""
    lines = []
    for one in all_candidates(found):
        setting, kind = found.choice.settings[one[:2]]
        average = f", {kind}" if one.weights == "averaged" else ""
        share = f", share {found.choice.shares[one.weights]}" if one.rule == "fixed" else ""
        gaps = [found.difference(one, column).difference for column in range(3)]
        above = [found.gap(one, column).difference for column in (1, 2)]
        lowest, task, title = found.worst(one)
        validation, worst = f"{100 * found.choice.scores[one]:.1f}", f"{lowest:+.1f} `{task}`, {title}"
        lines.append([f"`{one}`", _words(setting) + average + share, validation, *gaps, *above, worst])
    frontier = ("seen above the frontier", "held out above the frontier")
    return markdown(["candidate", "setting", "validation", *COLUMNS, *frontier, "worst"], lines, left=2)


def _learned(found: Results) -> str:
    own = [setting for (_, weights), (setting, _) in found.choice.settings.items() if weights == "last"]
    lines = []
    for one in dict.fromkeys([*own, *found.choice.at_the_peers_rate()]):
        rows = [found.runs[task, seed, one] for task in found.problems for seed in found.seeds]
        if known := [row.strength for row in rows if row.strength is not None]:
            gaps = [found.last(one, column).difference for column in range(3)]
            learned = [f"{of(known):.3g}" for of in (fmean, min, max)]
            lines.append([f"`{one.method}`", _words(one), *gaps, *learned])
    return markdown(("method", "setting", *COLUMNS, "mean", "least", "most"), lines, left=2)


def _words(setting: Setting) -> str:
    knob = f", knob {setting.knob:g}" if setting.knob else ""
    return f"{setting.rate:g}, {'cosine' if setting.decay else 'constant'}{knob}"


def draw(found: Results, path: Path) -> None:
    """ID against OOD, each minus the peer: open markers are last weights, filled ones averages; the line is the path of
    plain fine-tuning averaged and interpolated."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 5.4), layout="constrained", sharex=True)
    base = [fmean(found.mean(BASE, seed)[column] for seed in found.seeds) for column in range(3)]
    paths, named = (
        [found.path(seed) for seed in found.seeds],
        (found.choice.primary, found.choice.recommended().primary),
    )
    for axes, column in zip(panels, (1, 2), strict=True):
        at = lambda point, column: 100 * (fmean(own[point][column] for own in paths) - base[column])
        points = range(1, len(paths[0]))  # without the foundation model, which is far away
        axes.plot([at(p, 0) for p in points], [at(p, column) for p in points], "-", color="#444444", lw=1)
        for one in all_candidates(found):
            look = style.of(one.method)
            across, up = (found.difference(one, c) for c in (0, column))
            bars = {"xerr": across.half, "yerr": up.half} if one in named and up.half else {}
            label = one.method if one.weights == "averaged" and one.rule == "none" else None
            fill = {"last": "white", "averaged": look["color"], "any": "#dddddd"}[one.weights]
            look |= {"ms": _SIZES[one.rule], "mfc": fill}
            axes.errorbar(across.mean, up.mean, **bars, ls="", lw=1, label=label, **look)
        axes.axhline(0, color="#bbbbbb", lw=0.7)
        axes.axvline(0, color="#bbbbbb", lw=0.7)
        style.label(axes, f"ID, points above {BASE}", f"{COLUMNS[column]}, points above {BASE}")
    legend(panels[1])
    figure.suptitle(f"One setting for all tasks, {len(found.seeds)} seeds", fontsize=11)
    style.save(figure, path)
