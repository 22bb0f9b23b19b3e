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

    def share(self, candidate: Candidate) -> tuple[float, float]:
        """The smallest and the largest share that a candidate took."""
        setting = self.choice.settings[candidate[:2]][0]
        found = [
            self.choice.at(candidate, self.runs[task, seed, START], self.runs[task, seed, setting])[1]
            for task in self.problems
            for seed in self.seeds
        ]
        return min(found), max(found)

    def mean(self, candidate: Candidate, seed: int, tasks: Iterable[str] = ()) -> Scores:
        """Over some tasks, all by default, every family counting alike."""
        return self._mean({task: self.scores(candidate, task, seed) for task in tasks or self.problems})

    def difference(self, candidate: Candidate, column: int, tasks: Iterable[str] = ()) -> Estimate:
        """To the peer in points, paired by seed: of the mean over some tasks, all by default."""
        of = lambda one, seed: self.mean(one, seed, tasks)[column]
        return estimate([of(candidate, seed) - of(BASE, seed) for seed in self.seeds])

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
        on_tasks = {
            (task, title): self.difference(own, column, [task]).mean
            for task in self.problems
            for column, title in enumerate(COLUMNS)
        }
        worst = min(on_tasks, key=on_tasks.__getitem__)
        sure = lambda found, least: found.mean >= least and found.clear
        both, lowest = f"{gaps[0]:+} and {gaps[1]:+}", on_tasks[worst]
        on_worst = f"{lowest:+.1f} on `{worst[0]}`, {worst[1]}"
        frontier = "at equal ID above plain fine-tuning averaged and interpolated, intervals without zero"
        return [
            Criterion("ID not more than 0.3 points below", f"{means[0]:+}", means[0].mean >= -0.3),
            Criterion("OOD seen at least 3 points above, interval without zero", f"{means[1]:+}", sure(means[1], 3)),
            Criterion(
                "OOD held out at least 2 points above, interval without zero", f"{means[2]:+}", sure(means[2], 2)
            ),
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


def summary(found: Results) -> str:
    """The recipe and its peer, on all tasks and in each family; and which of the plan's conditions hold."""
    families = {problem.family: [] for problem in found.problems.values()}
    for task, problem in found.problems.items():
        families[problem.family].append(task)
    every = {"all": [*found.problems]} | families
    criteria = [[one.words, one.found, "yes" if one.holds else "no"] for one in found.criteria()]
    conditions = markdown(("condition of success", "found", "holds"), criteria, left=2)
    by_family = _compared(found, {f"{name} ({len(tasks)})": tasks for name, tasks in every.items()})
    return f"{by_family}\nThe recipe is `{found.choice.primary}`, over {len(found.seeds)} seeds.\n\n{conditions}"


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


def tables(found: Results) -> str:
    """All candidates; then the recipe and its peer by task."""
    head, lines = _all(found, all_candidates(found))
    parts = [
        f"Seeds {', '.join(map(str, found.seeds))}. Points above `{BASE}` on the mean over tasks, paired by seed. "
        "*Worst*: the task and score\non which a candidate is worst.\n",
        markdown(head, lines, left=3),
        _compared(found, {f"`{task}`": [task] for task in found.problems}),
        "Means of the learned strengths or radii over layers and the second half of the runs:\n",
        _strengths(found),
    ]
    return "\n".join(parts)


def all_candidates(found: Results) -> list[Candidate]:
    """Those of the methods that are reported."""
    return candidates(dict.fromkeys(method for method, _ in found.choice.settings))


def _all(found: Results, every: list[Candidate]) -> tuple[list[str], list[list[str]]]:
    """A line for each candidate."""
    lines = []
    for one in every:
        setting, kind = found.choice.settings[one[:2]]
        knob = f", knob {setting.knob:g}" if setting.knob else ""
        average = f", {kind}" if one.weights == "averaged" else ""
        words = f"{setting.rate:g}, {'cosine' if setting.decay else 'constant'}{knob}{average}"
        least, most = found.share(one)
        gaps = [found.difference(one, column) for column in range(3)]
        worst = min(
            (found.difference(one, c, [task]).mean, task, COLUMNS[c]) for task in found.problems for c in range(3)
        )
        above = [found.gap(one, column) for column in (1, 2)]
        share, validation = f"{least:g}" if least == most else f"{least:g} to {most:g}", found.choice.scores[one]
        shown = [gap.difference for gap in (*gaps, *above)]
        last = f"{worst[0]:+.1f} `{worst[1]}`, {worst[2]}"
        lines.append([f"`{one}`", words, share, f"{100 * validation:.1f}", *shown, last])
    frontier = ("seen above the frontier", "held out above the frontier")
    return ["candidate", "setting", "share", "validation", *COLUMNS, *frontier, "worst"], lines


def _strengths(found: Results) -> str:
    lines = []
    for (method, weights), (setting, _) in found.choice.settings.items():
        rows = [found.runs[task, seed, setting] for task in found.problems for seed in found.seeds]
        known = [row.strength for row in rows if row.strength is not None]
        if known and weights == "last":
            lines.append([f"`{method}`", f"{fmean(known):.3g}", f"{min(known):.3g}", f"{max(known):.3g}"])
    return markdown(("method", "mean", "least", "most"), lines)


def draw(found: Results, path: Path) -> None:
    """ID against OOD, each minus the peer: open markers are last weights, filled ones averages; the line is the path of
    plain fine-tuning averaged and interpolated."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 5.4), layout="constrained", sharex=True)
    base = [fmean(found.mean(BASE, seed)[column] for seed in found.seeds) for column in range(3)]
    paths = [found.path(seed) for seed in found.seeds]
    for axes, column in zip(panels, (1, 2), strict=True):
        at = lambda point, column: 100 * (fmean(own[point][column] for own in paths) - base[column])
        points = range(1, len(paths[0]))  # without the foundation model, which is far away
        axes.plot([at(p, 0) for p in points], [at(p, column) for p in points], "-", color="#444444", lw=1)
        for one in all_candidates(found):
            look = style.of(one.method)
            across, up = (found.difference(one, c) for c in (0, column))
            bars = {"xerr": across.half, "yerr": up.half} if one == found.choice.primary and up.half else {}
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
