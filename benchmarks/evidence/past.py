"""What the papers leave open, measured: radii without a unit, better hyper-gradients, a DiGraP that acts.

The digits take about half an hour on two cores, the emoji some hours. Every trial is a row of
benchmarks/results/past_the_papers.csv; one that is there is not run again. (Those of 0.1.0 saw the images in another
random order.) --smallest: a few tiny runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np

import style
from evidence.command import Evidence, stage
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
    def setting(self) -> "Trial":
        """The same, whatever the seed."""
        return self._replace(seed=0)

    @property
    def label(self) -> str:
        """The method as a table names it."""
        return f"{self.method}, held-out every {self.judge_every}" if self.judge_every else self.method


ACCURACIES = ("validation_accuracy", *SCORES.values())
COLUMNS = (*Trial._fields, *ACCURACIES, "drift", "scalar", "seconds")
"""`drift`: the l2 norm of the whole displacement; `scalar`: the mean of the learned radii or strengths over layers and
the second half of the run."""

Found = Mapping[Trial, Row]


@dataclass(frozen=True)
class Options(Evidence):
    """Measures what the papers leave open."""

    # Which questions: do settings carry over, which hyper-gradient, when does DiGraP act. Of the emoji the first.
    questions: tuple[Literal["scale", "judges", "strengths"], ...] = ("scale", "judges", "strengths")
    # The embedded task, or the emoji benchmark, whose drawings npm fetches.
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
        asked = self.questions if self.experiment == "digits" else ("scale",)
        found = {question: list(QUESTIONS[question](self.experiment, range(self.seeds))) for question in asked}
        if self.smallest:
            standard = lambda t: t == Trial(*t[:3], seed=0, judge_every=t.judge_every)
            found = {question: list(filter(standard, trials))[:5] for question, trials in found.items()}
        return found

    def tell(self) -> None:
        there = read(self.results)
        for question, wanted in self.trials().items():
            if missing := [trial for trial in wanted if trial not in there]:
                raise UserError(f"past_the_papers.csv lacks {len(missing)} of {len(wanted)} trials of {question}")
            found, name = {trial: there[trial] for trial in wanted}, f"past_{question}_{self.experiment}"
            self.write(name, _scale_table(found, self.experiment) if question == "scale" else _table(found))
            style.save(FIGURES[question](found, self.experiment), self.results / f"{name}.png")


# which trials answer which question


def scale_axes(task: str) -> dict[str, list[dict[str, Any]]]:
    """By axis, the points along it, in order: what differs from the standard point, which is the empty one."""
    if task == "emoji":  # pre-trained weights come in one width; a step on 128 images takes too long
        axes: dict[str, list[dict[str, Any]]] = {
            "learning rate": [{"rate": 1e-4}, {}, {"rate": 1e-2}],
            "epochs": [{"epochs": 2.5}, {"epochs": 10}],
            "batch": [{"batch": 8}, {}],
        }
        return {name: [{"epochs": 10} | point for point in points] for name, points in axes.items()}
    return {
        "learning rate": [{"rate": 1e-4}, {"rate": 3e-4}, {}, {"rate": 3e-3}, {"rate": 1e-2}],
        "epochs": [{"epochs": 15 / 4}, {}, {"epochs": 60}],
        "batch": [{"batch": 8}, {}, {"batch": 128}],
        "width": [{"width": 0.5}, {}, {"width": 2.0}],
    }


def _scale(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Does one setting mean the same for other learning rates, run lengths, batches and widths?"""
    for seed in seeds:
        for point in (point for points in scale_axes(task).values() for point in points):
            for method, knob in SCALE_KNOBS.items():
                yield Trial(task, method, knob, seed, **point)


def _judges(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Which hyper-gradient gives the best frontier?"""
    for seed in seeds:
        yield Trial(task, "vanilla", 0.0, seed)
        for knob in (3e-3, 1e-2, 3e-2, 1e-1, 3e-1):
            for method in ("ftp", "ftp exact", "ftp smoothed"):
                yield Trial(task, method, knob, seed)
            for every in (1, 4):
                yield Trial(task, "ftp", knob, seed, judge_every=every)


def _strengths(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """When does DiGraP act, and does it help?"""
    learned = ("digrap", "digrap from 1", "digrap after adam", "digrap after adam from 1", "digrap from 0.5")
    for seed in seeds:
        for epochs in (15, 60):
            yield Trial(task, "vanilla", 0.0, seed, epochs=epochs)
            for knob in (0.01, 0.1, 0.5, 2.0, 10.0):
                for method in learned:
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


QUESTIONS = {"scale": _scale, "judges": _judges, "strengths": _strengths}
"""By name, from a task and seeds to trials. Trials that two questions share are run once."""


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


def settings(found: Found) -> list[Trial]:
    """What was run, whatever the seed."""
    return list(dict.fromkeys(trial.setting for trial in found))


def of_seeds(found: Found, setting: Trial, column: str) -> list[float]:
    """One number of each seed of a setting."""
    return [row[column] for trial, row in found.items() if trial.setting == setting]


def percent(found: Found, setting: Trial, column: str) -> float:
    """An accuracy, the mean over seeds."""
    return 100 * fmean(of_seeds(found, setting, column))


def _ratios(found: Found, setting: Trial) -> list[float]:
    """Each seed's distance over plain fine-tuning's at the same point."""
    free = lambda trial: found[trial._replace(method="vanilla", knob=0.0)]
    return [row["drift"] / free(trial)["drift"] for trial, row in found.items() if trial.setting == setting]


def _shown(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds; of one seed there is no spread to tell."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}" if values else ""


def _table(found: Found) -> str:
    """One line for each setting."""
    columns = {"knob": "knob", "lr": "rate", "epochs": "epochs"}
    varied = {c: f for c, f in columns.items() if len({getattr(trial, f) for trial in found}) > 1}
    lines = [
        [
            one.label,
            *(f"{getattr(one, field):g}" for field in varied.values()),
            *(_shown([100 * value for value in of_seeds(found, one, name)], 1) for name in ACCURACIES),
            f"{fmean(of_seeds(found, one, 'drift')):.2f}",
            f"{fmean(of_seeds(found, one, 'scalar')):.3f}",
        ]
        for one in settings(found)
    ]
    return markdown(("method", *varied, "validation", *SCORES, "drift", "radius or strength"), lines)


def _along(found: Found, task: str, method: str, points: Sequence[dict[str, Any]]) -> list[Trial]:
    """A method's settings along an axis, of those that were run."""
    wanted = (Trial(task, method, SCALE_KNOBS[method], seed=0, **point) for point in points)
    return [setting for setting in wanted if setting in settings(found)]


def _place(axis: str, setting: Trial) -> float:
    return setting.rate if axis == "learning rate" else getattr(setting, axis)


def _scale_table(found: Found, task: str) -> str:
    """One line for each point of each axis: how far a run goes, over how far plain fine-tuning goes."""
    lines, constrained = [], [method for method in SCALE_KNOBS if method != "vanilla"]
    for axis, points in scale_axes(task).items():
        for same in zip(*(_along(found, task, method, points) for method in constrained), strict=True):
            lines.append([axis, f"{_place(axis, same[0]):g}", *(_shown(_ratios(found, one), 2) for one in same)])
    return markdown(("axis", "value", *constrained), lines)


def _draw_scale(found: Found, task: str) -> Any:
    """Above: how far the constrained run goes, over how far plain fine-tuning goes. Below: what comes of it."""
    axes_of = scale_axes(task)
    size = (2.4 * len(axes_of), 7.4)
    figure, grid = plt.subplots(3, len(axes_of), figsize=size, layout="constrained", sharex="col", sharey="row")
    for (top, middle, bottom), (name, points) in zip(grid.T, axes_of.items(), strict=True):
        x: list[float] = []
        for method in SCALE_KNOBS:
            along = _along(found, task, method, points)
            x, look = [_place(name, one) for one in along], style.of(method)
            if method != "vanilla":
                ratios = [_ratios(found, one) for one in along]
                top.plot(x, [fmean(r) for r in ratios], **look)
                top.fill_between(
                    x, [min(r) for r in ratios], [max(r) for r in ratios], color=look["color"], alpha=0.2, lw=0
                )
            middle.plot(x, [percent(found, one, "id_accuracy") for one in along], **look)
            bottom.plot(x, [percent(found, one, "ood") for one in along], label=method, **look)
        for axes in (top, middle, bottom):
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{tick:g}" if i % 2 == 0 or len(x) < 4 else "" for i, tick in enumerate(x)])
            axes.minorticks_off()
            axes.margins(x=0.1)
            style.clean(axes)
        top.set_ylim(0, 1.05)
        bottom.set_xlabel(name)
    grid[0, 0].set_ylabel("distance to the anchor\nover plain fine-tuning's")
    grid[1, 0].set_ylabel("ID accuracy (%)")
    grid[2, 0].set_ylabel("mean OOD accuracy (%)")
    figure.legend(*grid[2, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    shown = "lines: mean over seeds, bands: range" if len({trial.seed for trial in found}) > 1 else "one seed"
    figure.suptitle(f"One setting of each, {task}; {shown}", fontsize=10)
    return figure


def _draw_judges(found: Found, task: str) -> Any:
    """The frontier of each hyper-gradient over the radii's learning rate."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    _frontier(axes, found)
    axes.set_title(f"Hyper-gradients, {task}: one point a learning rate of the radii", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _frontier(axes: Any, found: Found) -> None:
    """A line for each method over its knob."""
    for name in dict.fromkeys(trial.label for trial in found):
        along = sorted((one for one in settings(found) if one.label == name), key=lambda one: one.knob)
        points = [[percent(found, one, column) for one in along] for column in ("id_accuracy", "ood")]
        axes.plot(*points, label=name.replace(_AFTER, ""), **style.of(name.replace(_AFTER, "")))
    style.label(axes, "ID test accuracy (%)", "mean OOD accuracy (%)")


_AFTER = " after adam"


def _draw_strengths(found: Found, task: str) -> Any:
    """Above: how strong DiGraP gets. Below: what comes of it. Left: before the base optimizer. Right: after Adam."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 7.6), layout="constrained", sharey="row")
    at_rate = {trial: row for trial, row in found.items() if trial.rate == 1e-3}
    lengths = sorted({trial.epochs for trial in found})
    for (top, bottom), after in zip(grid.T, (False, True), strict=True):
        here = {t: row for t, row in at_rate.items() if t.method == "vanilla" or (_AFTER in t.method) == after}
        learned = [t for t in settings(here) if t.method.startswith("digrap") and t.method not in _NOT_LEARNED]
        for name in dict.fromkeys(one.method for one in learned):
            for length, dashes in zip(lengths, ("-", "--"), strict=False):
                along = sorted((t for t in learned if (t.method, t.epochs) == (name, length)), key=lambda t: t.knob)
                x, y = [one.knob for one in along], [fmean(of_seeds(found, one, "scalar")) for one in along]
                top.plot(x, y, dashes, **style.of(name.replace(_AFTER, "")))
        top.set_xscale("log")
        style.label(top, "mu, the learning rate of the strengths", "" if after else "mean strength in the second half")
        top.set_title("between Adam and the learning rate" if after else "before AdamW, as released", fontsize=10)
        _frontier(bottom, {trial: row for trial, row in here.items() if trial.epochs == lengths[0]})
    handles, names = grid[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    shown = ", ".join(f"{s}: {length:g} epochs" for s, length in zip(("solid", "dashed"), lengths, strict=False))
    figure.suptitle(f"DiGraP, {task}. Strengths, {shown}. Accuracies, {lengths[0]:g} epochs.", fontsize=10)
    return figure


_NOT_LEARNED = ("digrap fixed", "digrap after adam fixed", "digrap+ftp")


FIGURES: dict[str, Callable[[Found, str], Any]] = {
    "scale": _draw_scale,
    "judges": _draw_judges,
    "strengths": _draw_strengths,
}  # by question
