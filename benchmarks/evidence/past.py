"""What the papers leave open, measured: radii without a unit, better hyper-gradients, a DiGraP that acts.

The digits take about half an hour on two cores, the emoji some hours. Every trial is a row of
benchmarks/results/past_the_papers.csv; one that is there is not run again. (Those of 0.1.0 saw the images in another
random order.) --smallest: a few tiny runs.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np

import style
from evidence.command import Evidence, stage
from evidence.figures import legend
from evidence.methods import ALL
from evidence.rows import File, Row
from evidence.summary import SCORES
from evidence.tasks import classification, distance
from evidence.training import Knobs
from style import plt
from vision.errors import UserError
from writer import markdown

_NAMES = ("vanilla", "ftp", "ftp_exact", "ftp_smoothed", "digrap", "digrap_from_0.5", "digrap_from_1", "digrap_fixed")
METHODS = {name.replace("_", " "): ALL[name] for name in _NAMES}
METHODS |= {"ftp scale-free": ALL["ftp_scale_free"], "digrap+ftp": ALL["ftp+digrap"]}
METHODS |= {
    name.replace("digrap", "digrap after adam"): METHODS[name]._replace(after_adam=True)
    for name in ("digrap", "digrap from 1", "digrap fixed")
}
"""By the name that tables show. The knob is the learning rate of the learned scalars, or the fixed strength."""

SCALE_KNOBS = {"vanilla": 0.0, "ftp": 0.03, "ftp scale-free": 1.0}
"""Settings of about the same strength at the standard point; the question is whether it stays the same elsewhere."""

_AFTER = " after adam"
_BATCH = 32  # whatever the batch, a run takes the steps of so many images each


class Trial(NamedTuple):
    """What is varied."""

    task: str
    method: str  # a name in `METHODS`
    knob: float
    seed: int
    rate: float = 1e-3
    epochs: float = 15
    batch: int = _BATCH
    judge_every: int = 0  # steps between two held-out gradients for the radii; 0 for none at all
    width: float = 1.0  # of the network, as a multiple

    @property
    def label(self) -> str:
        """The method as a table names it."""
        return f"{self.method}, held-out every {self.judge_every}" if self.judge_every else self.method


ACCURACIES = ("validation_accuracy", *SCORES.values())
COLUMNS = (*Trial._fields, *ACCURACIES, "drift", "scalar", "seconds")
"""`drift`: the l2 norm of the whole displacement; `scalar`: the mean of the learned radii or strengths over layers and
the second half of the run."""

Found = Mapping[Trial, Sequence[Row]]
"""The rows of each setting, a trial at seed 0, seed by seed."""


@dataclass(frozen=True)
class Options(Evidence):
    """Measures what the papers leave open."""

    # The embedded task, or the emoji benchmark, whose drawings npm fetches: of the latter the first question alone.
    experiment: Literal["digits", "emoji"] = "digits"
    methods: tuple[str, ...] = tuple(METHODS)  # Which methods to run; the tables have all.
    seeds: int = 3  # Number of seeds, from 0.

    def fill(self) -> None:
        file = results_file(self.results)
        for trial in dict.fromkeys(trial for trials in self.trials().values() for trial in trials):
            if trial.method in self.methods and trial._asdict() not in file:
                with stage(f"{trial.task}, {trial.label} {trial.knob:g}, seed {trial.seed}") as on_step:
                    file.append(trial._asdict() | run(trial, self.smallest, on_step))

    def trials(self) -> dict[str, list[Trial]]:
        """All of each question; smallest a few at the standard point."""
        asked = QUESTIONS if self.experiment == "digits" else ("scale",)
        found = {name: list(QUESTIONS[name].trials(self.experiment, range(self.seeds))) for name in asked}
        if self.smallest:
            standard = lambda t: t == Trial(*t[:3], seed=0, judge_every=t.judge_every)
            found = {name: list(filter(standard, trials))[:5] for name, trials in found.items()}
        return found

    def tell(self) -> None:
        there = read(self.results)
        for name, wanted in self.trials().items():
            if missing := [trial for trial in wanted if trial not in there]:
                raise UserError(f"past_the_papers.csv lacks {len(missing)} of {len(wanted)} trials of {name}")
            found = by_setting({trial: there[trial] for trial in wanted})
            self.write(f"past_{name}_{self.experiment}", QUESTIONS[name].table(found, self.experiment))
            figure = QUESTIONS[name].figure(found, self.experiment)
            style.save(figure, self.results / f"past_{name}_{self.experiment}.png")


# which trials answer which question

AXES: dict[str, dict[str, tuple[float, ...]]] = {
    "digits": {
        "rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        "epochs": (15 / 4, 15, 60),
        "batch": (8, 32, 128),
        "width": (0.5, 1.0, 2.0),
    },
    # pre-trained weights come in one width; a step on 128 images takes too long
    "emoji": {"rate": (1e-4, 1e-3, 1e-2), "epochs": (2.5, 10), "batch": (8, 32)},
}
"""By task the fields of a trial that are varied, one at a time from the standard point."""

_EPOCHS = {"digits": 15, "emoji": 10}  # at the standard point


def along(task: str, field: str, method: str, seed: int = 0) -> list[Trial]:
    """A method's trials along an axis."""
    standard = Trial(task, method, SCALE_KNOBS[method], seed, epochs=_EPOCHS[task])
    return [standard._replace(**{field: value}) for value in AXES[task][field]]


def _scale(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Does one setting mean the same for other learning rates, run lengths, batches and widths?"""
    for seed, field, method in itertools.product(seeds, AXES[task], SCALE_KNOBS):
        yield from along(task, field, method, seed)


def _judges(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Which hyper-gradient gives the best frontier?"""
    for seed in seeds:
        yield Trial(task, "vanilla", 0.0, seed)
        for knob in (3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
            for method in ("ftp", "ftp exact", "ftp smoothed"):
                yield Trial(task, method, knob, seed)
            for every in (1, 4):
                yield Trial(task, "ftp", knob, seed, judge_every=every)


LEARNED_STRENGTHS = ("digrap", "digrap from 1", "digrap after adam", "digrap after adam from 1", "digrap from 0.5")


def _strengths(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """When does DiGraP act, and does it help?"""
    for seed in seeds:
        for epochs in (15, 60):
            yield Trial(task, "vanilla", 0.0, seed, epochs=epochs)
            for knob in (0.01, 0.1, 0.5, 2.0, 10.0):
                for method in LEARNED_STRENGTHS:
                    yield Trial(task, method, knob, seed, epochs=epochs)
            for method in ("digrap fixed", "digrap after adam fixed"):
                for knob in (0.5, 1.0):
                    yield Trial(task, method, knob, seed, epochs=epochs)
        for rate in (3e-4, 3e-3):
            yield Trial(task, "vanilla", 0.0, seed, rate=rate)
            for method in ("digrap", "digrap after adam from 1"):
                yield Trial(task, method, 0.5, seed, rate=rate)
        for knob in (0.01, 0.1):
            for method in ("ftp", "digrap+ftp"):
                yield Trial(task, method, knob, seed)


# one trial


def results_file(results: Path) -> File:
    """The file of all trials."""
    return File(results / "past_the_papers.csv", COLUMNS, key=Trial._fields)


def read(results: Path) -> dict[Trial, Row]:
    """All rows by trial; `ood` is the mean of seen and held out."""
    ood = lambda row: (row["ood_seen_accuracy"] + row["ood_held_accuracy"]) / 2
    rows = results_file(results).read()
    return {Trial(*(row[name] for name in Trial._fields)): row | {"ood": ood(row)} for row in rows}


def run(trial: Trial, smallest: bool, on_step: Any = None) -> Row:
    """Fine-tunes and evaluates; half of the validation images judge radii, the other half is the validation score's."""
    task = classification(trial.task, smallest=smallest, width=trial.width, batch_size=trial.batch)
    start, method = task.start(trial.seed), METHODS[trial.method]
    images = start.data.validation
    judge, validation = (images.at(half) for half in np.split(np.arange(len(images)), [len(images) // 2]))
    start = replace(start, data=replace(start.data, validation=validation))
    steps = max(2, round(trial.epochs * len(start.data.train) / _BATCH))
    held_out = {"judge": judge, "judge_every": trial.judge_every} if trial.judge_every else {}
    done = task.train(start, method, Knobs(trial.rate, trial.knob), trial.seed, steps, on_step=on_step, **held_out)
    settled = [rows[len(rows) // 2 :].mean() for rows in done.scalars.values()]
    return task.columns(start, done.params) | {
        "drift": distance(done.params, start.params),
        "scalar": float(np.mean(settled)) if settled else 0.0,
        "seconds": done.seconds,
    }


# tables and figures


def by_setting(found: Mapping[Trial, Row]) -> dict[Trial, list[Row]]:
    """The rows of each setting, accuracies in percent; `ratio`: the drift over plain fine-tuning's at that point."""
    grouped: dict[Trial, list[Row]] = {}
    for trial, row in found.items():
        plain = found[trial._replace(method="vanilla", knob=0.0, judge_every=0)]
        shown = {name: 100 * row[name] for name in (*ACCURACIES, "ood")} | {"ratio": row["drift"] / plain["drift"]}
        grouped.setdefault(trial._replace(seed=0), []).append(row | shown)
    return grouped


def mean(rows: Sequence[Row], column: str) -> float:
    """Over the seeds."""
    return fmean(row[column] for row in rows)


def _shown(rows: Sequence[Row], column: str, digits: int) -> str:
    """Mean and standard deviation over seeds; of one seed there is no spread to tell."""
    spread = f" ± {stdev(row[column] for row in rows):.{digits}f}" if len(rows) > 1 else ""
    return f"{mean(rows, column):.{digits}f}{spread}"


def _table(found: Found, _: str) -> str:
    """One line for each setting."""
    columns = {"knob": "knob", "lr": "rate", "epochs": "epochs"}
    varied = {c: f for c, f in columns.items() if len({getattr(one, f) for one in found}) > 1}
    lines = [
        [
            one.label,
            *(f"{getattr(one, field):g}" for field in varied.values()),
            *(_shown(rows, name, 1) for name in ACCURACIES),
            f"{mean(rows, 'drift'):.2f}",
            f"{mean(rows, 'scalar'):.3f}",
        ]
        for one, rows in found.items()
    ]
    return markdown(("method", *varied, "validation", *SCORES, "drift", "radius or strength"), lines)


def _axis(field: str) -> str:
    return "learning rate" if field == "rate" else field


def _scale_table(found: Found, task: str) -> str:
    """One line for each point of each axis: how far a run goes, over how far plain fine-tuning goes."""
    lines, constrained = [], [method for method in SCALE_KNOBS if method != "vanilla"]
    for field in AXES[task]:
        for same in zip(*(along(task, field, method) for method in constrained), strict=True):
            if found.keys() >= set(same):
                cells = (_shown(found[one], "ratio", 2) for one in same)
                lines.append([_axis(field), f"{getattr(same[0], field):g}", *cells])
    return markdown(("axis", "value", *constrained), lines)


_PANELS = {
    "ratio": "distance to the anchor\nover plain fine-tuning's",
    "id_accuracy": "ID accuracy (%)",
    "ood": "mean OOD accuracy (%)",
}


def _draw_scale(found: Found, task: str) -> Any:
    """Above: how far the constrained run goes, over how far plain fine-tuning goes. Below: what comes of it."""
    size = (2.4 * len(AXES[task]), 7.4)
    figure, grid = plt.subplots(3, len(AXES[task]), figsize=size, layout="constrained", sharex="col", sharey="row")
    for line, (column, label) in zip(grid, _PANELS.items(), strict=True):
        for axes, (field, values) in zip(line, AXES[task].items(), strict=True):
            for method in list(SCALE_KNOBS)[column == "ratio" :]:
                points = [one for one in along(task, field, method) if one in found]
                x, look = [getattr(one, field) for one in points], style.of(method)
                axes.plot(x, [mean(found[one], column) for one in points], label=method, **look)
                if column == "ratio":
                    range_of = [[pick(row[column] for row in found[one]) for one in points] for pick in (min, max)]
                    axes.fill_between(x, *range_of, color=look["color"], alpha=0.2, lw=0)
            axes.set_xscale("log")
            named = values[::2] if len(values) > 3 else values  # more names would overlap
            axes.set_xticks(values, [f"{value:g}" if value in named else "" for value in values])
            axes.minorticks_off()
            axes.margins(x=0.1)
            style.label(axes, _axis(field) if column == "ood" else "", label if axes is line[0] else "")
    grid[0, 0].set_ylim(0, 1.05)
    legend(grid[2, 0])
    several = any(len(rows) > 1 for rows in found.values())
    shown = "lines: mean over seeds, bands: range" if several else "one seed"
    figure.suptitle(f"One setting of each, {task}; {shown}", fontsize=10)
    return figure


def _draw_judges(found: Found, task: str) -> Any:
    """The frontier of each hyper-gradient over the radii's learning rate."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    _frontier(axes, found)
    axes.set_title(f"Hyper-gradients, {task}: one point a learning rate of the radii", fontsize=10)
    axes.legend(frameon=False)
    return figure


def _frontier(axes: Any, found: Found) -> None:
    """A line for each method over its knob."""
    for name in dict.fromkeys(one.label for one in found):
        by_knob = sorted((one for one in found if one.label == name), key=lambda one: one.knob)
        points = [[mean(found[one], column) for one in by_knob] for column in ("id_accuracy", "ood")]
        axes.plot(*points, label=name.replace(_AFTER, ""), **style.of(name.replace(_AFTER, "")))
    style.label(axes, "ID test accuracy (%)", "mean OOD accuracy (%)")


def _draw_strengths(found: Found, task: str) -> Any:
    """Above: how strong DiGraP gets. Below: what comes of it. Left: before the base optimizer. Right: after Adam."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 7.6), layout="constrained", sharey="row")
    lengths = sorted({one.epochs for one in found})
    for (top, bottom), after in zip(grid.T, (False, True), strict=True):
        here = [
            one for one in found if one.rate == 1e-3 and (one.method == "vanilla" or (_AFTER in one.method) == after)
        ]
        learned = [one for one in here if one.method in LEARNED_STRENGTHS]
        for name in dict.fromkeys(one.method for one in learned):
            for length, dashes in zip(lengths, ("-", "--"), strict=False):
                same = (one for one in learned if (one.method, one.epochs) == (name, length))
                by_knob = sorted(same, key=lambda one: one.knob)
                x, y = [one.knob for one in by_knob], [mean(found[one], "scalar") for one in by_knob]
                top.plot(x, y, dashes, **style.of(name.replace(_AFTER, "")))
        top.set_xscale("log")
        style.label(top, "mu, the learning rate of the strengths", "" if after else "mean strength in the second half")
        top.set_title("between Adam and the learning rate" if after else "before AdamW, as released", fontsize=10)
        _frontier(bottom, {one: found[one] for one in here if one.epochs == lengths[0]})
    handles, names = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    shown = ", ".join(f"{s}: {length:g} epochs" for s, length in zip(("solid", "dashed"), lengths, strict=False))
    figure.suptitle(f"DiGraP, {task}. Strengths, {shown}. Accuracies, {lengths[0]:g} epochs.", fontsize=10)
    return figure


class Question(NamedTuple):
    """What answers it; table and figure are of rows and a task."""

    trials: Callable[[str, Sequence[int]], Iterator[Trial]]  # from a task and seeds
    table: Callable[[Found, str], str]
    figure: Callable[[Found, str], Any]


QUESTIONS = {
    "scale": Question(_scale, _scale_table, _draw_scale),
    "judges": Question(_judges, _table, _draw_judges),
    "strengths": Question(_strengths, _table, _draw_strengths),
}
"""By name. Trials that two questions share are run once."""
