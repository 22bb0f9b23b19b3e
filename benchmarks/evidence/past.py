"""What the papers leave open, measured: radii without a unit, better hyper-gradients, a DiGraP that acts.

The digits take about half an hour on two cores, the emoji some hours. Every trial is a row of
benchmarks/results/past_the_papers.csv; one that is there is not run again. (Those of 0.1.0 saw the images in another
random order.) --smallest: a few tiny runs.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

import style
from evidence.command import Evidence, stage
from evidence.methods import ALL
from evidence.rows import File
from evidence.summary import SCORES
from evidence.tasks import Classification, classification, distance
from evidence.training import Knobs
from style import plt
from vision.data import ArrayDomain
from vision.errors import UserError
from writer import markdown

METHODS = {
    "vanilla": ALL["vanilla"],
    "ftp": ALL["ftp"],
    "ftp exact": ALL["ftp_exact"],
    "ftp smoothed": ALL["ftp_smoothed"],
    "ftp scale-free": ALL["ftp_scale_free"],
    "digrap": ALL["digrap"],
    "digrap from 0.5": ALL["digrap_from_0.5"],
    "digrap from 1": ALL["digrap_from_1"],
    "digrap fixed": ALL["digrap_fixed"],
    "digrap after adam": ALL["digrap"]._replace(after_adam=True),
    "digrap after adam from 1": ALL["digrap_from_1"]._replace(after_adam=True),
    "digrap after adam fixed": ALL["digrap_fixed"]._replace(after_adam=True),
    "digrap+ftp": ALL["ftp+digrap"],
}  # by the name that tables show. The knob is the learning rate of the learned scalars, or the fixed strength.

SCALE_KNOBS = {"vanilla": 0.0, "ftp": 0.03, "ftp scale-free": 1.0}
"""Settings of about the same strength at the standard point; the question is whether it stays the same elsewhere."""

_BATCH = 32  # whatever the batch, a run takes the steps of so many images each


@dataclass(frozen=True)
class Trial:
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
    def trial(self) -> "Trial":
        """What was asked for, of a row too."""
        return Trial(*(getattr(self, field.name) for field in dataclasses.fields(Trial)))

    @property
    def setting(self) -> "Trial":
        """The same, whatever the seed."""
        return dataclasses.replace(self.trial, seed=0)

    @property
    def label(self) -> str:
        """The method as a table names it."""
        return f"{self.method}, held-out every {self.judge_every}" if self.judge_every else self.method


@dataclass(frozen=True)
class Result(Trial):
    """A trial and what came of it."""

    validation_accuracy: float = 0.0
    id_accuracy: float = 0.0
    ood_seen_accuracy: float = 0.0
    ood_held_accuracy: float = 0.0
    drift: float = 0.0  # the l2 norm of the whole displacement
    scalar: float = 0.0  # the mean of the learned radii or strengths over layers and the second half of the run
    seconds: float = 0.0

    @property
    def ood(self) -> float:
        """The mean of seen and held out."""
        return (self.ood_seen_accuracy + self.ood_held_accuracy) / 2


Question = Literal["scale", "judges", "strengths"]


@dataclass(frozen=True)
class Options(Evidence):
    """Measures what the papers leave open."""

    # Which questions: do settings carry over, which hyper-gradient, when does DiGraP act.
    questions: tuple[Question, ...] = ("scale", "judges", "strengths")
    # The embedded task, or the emoji benchmark, whose drawings npm fetches.
    experiment: Literal["digits", "emoji"] = "digits"
    methods: tuple[str, ...] = tuple(METHODS)  # Which methods to run; the tables have all.
    seeds: int = 3  # Number of seeds, from 0.

    def fill(self) -> None:
        file = results_file(self.results)
        for trial in dict.fromkeys(trial for question in self.questions for trial in self.trials(question)):
            row = dataclasses.asdict(trial)
            if trial.method in self.methods and row not in file:
                with stage(f"{trial.task}, {trial.label} {trial.knob:g}, seed {trial.seed}") as on_step:
                    file.append(row | run(trial, self.smallest, on_step))

    def trials(self, question: Question) -> list[Trial]:
        """All of a question; smallest a few at the standard point."""
        found = list(QUESTIONS[question](self.experiment, range(self.seeds)))
        if self.smallest:
            found = [t for t in found if t == Trial(t.task, t.method, t.knob, 0, judge_every=t.judge_every)][:5]
        return found

    def tell(self) -> None:
        there = {row.trial: row for row in read(self.results)}
        for question in self.questions:
            wanted = dict.fromkeys(self.trials(question))
            if missing := [trial for trial in wanted if trial not in there]:
                raise UserError(f"past_the_papers.csv lacks {len(missing)} of {len(wanted)} trials of {question}")
            rows, name = [there[trial] for trial in wanted], f"past_{question}_{self.experiment}"
            self.write(name, _scale_table(rows, self.experiment) if question == "scale" else _table(rows))
            draw: Callable[..., Any] = {"scale": _draw_scale, "judges": _draw_judges, "strengths": _draw_strengths}[
                question
            ]
            figure = draw(rows, self.experiment)
            style.save(figure, self.results / f"{name}.png")


# which trials answer which question


def scale_axes(task: str) -> dict[str, list[dict[str, float]]]:
    """By axis, the points along it: what differs from the standard point, which is the empty one."""
    if task == "emoji":  # pre-trained weights come in one width; a step on 128 images takes too long
        axes: dict[str, list[dict[str, float]]] = {
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
        for points in scale_axes(task).values():
            for point in points:
                for method, knob in SCALE_KNOBS.items():
                    yield Trial(task, method, knob, seed, **point)  # pyright: ignore[reportArgumentType]


def _judges(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Which hyper-gradient gives the best frontier?"""
    epochs = 10 if task == "emoji" else 15
    knobs = (0.01, 0.1) if task == "emoji" else (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    for seed in seeds:
        yield Trial(task, "vanilla", 0.0, seed, epochs=epochs)
        for knob in knobs:
            for method in ("ftp", "ftp exact", "ftp smoothed"):
                yield Trial(task, method, knob, seed, epochs=epochs)
            for every in (4,) if task == "emoji" else (1, 4):
                yield Trial(task, "ftp", knob, seed, epochs=epochs, judge_every=every)


def _strengths(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """When does DiGraP act, and does it help?"""
    emoji = task == "emoji"
    epochs = 10 if emoji else 15
    learned = ("digrap", "digrap from 1", "digrap after adam", "digrap after adam from 1")
    for seed in seeds:
        for length in (epochs,) if emoji else (15, 60):
            yield Trial(task, "vanilla", 0.0, seed, epochs=length)
            for knob in (0.5,) if emoji else (0.01, 0.1, 0.5, 2.0, 10.0):
                for method in learned if emoji else (*learned, "digrap from 0.5"):
                    yield Trial(task, method, knob, seed, epochs=length)
            for method in ("digrap fixed", "digrap after adam fixed"):
                for knob in (1.0,) if emoji else (0.5, 1.0):
                    yield Trial(task, method, knob, seed, epochs=length)
        for rate in () if emoji else (3e-4, 3e-3):
            yield Trial(task, "vanilla", 0.0, seed, rate=rate)
            for method in ("digrap", "digrap after adam from 1"):
                yield Trial(task, method, 0.5, seed, rate=rate)
        for knob in (0.01, 0.1):
            for method in ("ftp", "digrap+ftp"):
                yield Trial(task, method, knob, seed, epochs=epochs)


QUESTIONS = {"scale": _scale, "judges": _judges, "strengths": _strengths}
"""By name, from a task and seeds to trials. Trials that two questions share are run once."""


# one trial


def results_file(results: Path) -> File:
    """The file of all trials."""
    names = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in (Trial, Result)}
    return File(results / "past_the_papers.csv", names[Result], key=names[Trial])


def read(results: Path) -> list[Result]:
    """All rows."""
    return [Result(**row) for row in results_file(results).read()]


def run(trial: Trial, smallest: bool, on_step: Any = None) -> dict[str, float]:
    """Fine-tunes and evaluates; half of the validation images judge radii, the other half is the validation score's."""
    task: Classification = classification(trial.task, smallest=smallest, width=trial.width, batch_size=trial.batch)
    start, method = task.start(trial.seed), METHODS[trial.method]
    judge, validation = _halves(start.data.validation)
    start = dataclasses.replace(start, data=dataclasses.replace(start.data, validation=validation))
    steps = max(2, round(trial.epochs * len(start.data.train) / _BATCH))
    held_out = {"judge": judge, "judge_every": trial.judge_every} if trial.judge_every else {}
    done = task.train(start, method, Knobs(trial.rate, trial.knob), trial.seed, steps, on_step=on_step, **held_out)
    settled = [rows[len(rows) // 2 :].mean() for rows in done.scalars.values()]
    found = task.columns(start, done.params)
    return {name: found[name] for name in found if name != "domains"} | {
        "drift": distance(done.params, start.params),
        "scalar": float(np.mean(settled)) if settled else 0.0,
        "seconds": done.seconds,
    }


def _halves(domain: Any) -> tuple[ArrayDomain, ArrayDomain]:
    half = len(domain) // 2
    first, second = (
        ArrayDomain(domain.name, domain.images[part], domain.labels[part]) for part in (slice(half), slice(half, None))
    )
    return first, second


# tables and figures

_NUMBERS = ("validation_accuracy", "id_accuracy", "ood_seen_accuracy", "ood_held_accuracy")
_FIELDS = {"learning rate": "rate"}


def grouped(rows: Sequence[Result]) -> dict[Trial, list[Result]]:
    """The seeds of each setting."""
    groups: dict[Trial, list[Result]] = {}
    for row in rows:
        groups.setdefault(row.setting, []).append(row)
    return groups


def mean_of(rows: Sequence[Result], field: str) -> float:
    """The mean over seeds."""
    return fmean(getattr(row, field) for row in rows)


def _shown(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds; of one seed there is no spread to tell."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}" if values else ""


def _table(rows: Sequence[Result]) -> str:
    """One line for each setting."""
    columns, groups = {"knob": "knob", "lr": "rate", "epochs": "epochs"}, grouped(rows)
    varied = {c: f for c, f in columns.items() if len({getattr(trial, f) for trial in groups}) > 1}
    lines = [
        [
            trial.label,
            *(f"{getattr(trial, field):g}" for field in varied.values()),
            *(_shown([100 * getattr(row, name) for row in of], 1) for name in _NUMBERS),
            f"{mean_of(of, 'drift'):.2f}",
            f"{mean_of(of, 'scalar'):.3f}",
        ]
        for trial, of in groups.items()
    ]
    head = ("method", *varied, "validation", *SCORES, "drift", "radius or strength")
    return markdown(head, lines)


def _scale_table(rows: Sequence[Result], task: str) -> str:
    """One line for each point of each axis: how far a run goes, over how far plain fine-tuning goes."""
    groups, lines = grouped(rows), []
    constrained = [method for method in dict.fromkeys(row.method for row in rows) if method != "vanilla"]
    for axis, points in scale_axes(task).items():
        field = _FIELDS.get(axis, axis)
        along = [trial for trial in groups if trial.method == constrained[0] and _on(trial, points)]
        for trial in sorted(along, key=lambda trial: getattr(trial, field)):
            others = (dataclasses.replace(trial, method=name, knob=SCALE_KNOBS[name]) for name in constrained)
            cells = [_shown(_ratios(groups.get(other, []), groups), 2) for other in others]
            lines.append([axis, f"{getattr(trial, field):g}", *cells])
    return markdown(("axis", "value", *constrained), lines)


def _on(trial: Trial, points: Sequence[dict[str, float]]) -> bool:
    """Whether a trial is one of an axis's points."""
    return any(trial == Trial(trial.task, trial.method, trial.knob, 0, **point) for point in points)  # pyright: ignore


def _ratios(rows: Sequence[Result], groups: dict[Trial, list[Result]]) -> list[float]:
    """Each seed's distance over plain fine-tuning's at the same point."""
    free = lambda row: groups[dataclasses.replace(row.setting, method="vanilla", knob=0.0, judge_every=0)]
    return [row.drift / next(other.drift for other in free(row) if other.seed == row.seed) for row in rows]


def _draw_scale(rows: Sequence[Result], task: str) -> Any:
    """Above: how far the constrained run goes, over how far plain fine-tuning goes. Below: what comes of it."""
    groups, axes_of = grouped(rows), scale_axes(task)
    figure, grid = plt.subplots(3, len(axes_of), figsize=(3 * len(axes_of), 7.4), layout="constrained", sharey="row")
    for (top, middle, bottom), (name, points) in zip(grid.T, axes_of.items(), strict=True):
        field = _FIELDS.get(name, name)
        for method in SCALE_KNOBS:
            found = [(t, of) for t, of in groups.items() if t.method == method and _on(t, points)]
            found.sort(key=lambda pair: getattr(pair[0], field))
            x, look = [getattr(t, field) for t, _ in found], style.of(method.replace(" scale-free", "_scale_free"))
            ratios = [_ratios(of, groups) for _, of in found]
            if method != "vanilla":
                top.plot(x, [fmean(r) for r in ratios], label=method, **look)
                low, high = ([pick(r) for r in ratios] for pick in (min, max))
                top.fill_between(x, low, high, color=look["color"], alpha=0.2, lw=0)
            middle.plot(x, [100 * mean_of(of, "id_accuracy") for _, of in found], **look)
            bottom.plot(x, [100 * mean_of(of, "ood") for _, of in found], label=method, **look)
        for axes in (top, middle, bottom):
            axes.set_xscale("log")
            ticks = sorted({getattr(trial, field) for trial in groups if _on(trial, points)})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            style.clean(axes)
        top.set_ylim(0, 1.05)
        bottom.set_xlabel(name)
    grid[0, 0].set_ylabel("distance to the anchor\nover plain fine-tuning's")
    grid[1, 0].set_ylabel("ID accuracy (%)")
    grid[2, 0].set_ylabel("mean OOD accuracy (%)")
    grid[2, 0].legend(frameon=False, fontsize=8)
    shown = "lines: mean over seeds, bands: range" if len({row.seed for row in rows}) > 1 else "one seed"
    figure.suptitle(f"One setting of each, {task}; {shown}", fontsize=10)
    return figure


def _draw_judges(rows: Sequence[Result], task: str) -> Any:
    """The frontier of each hyper-gradient over the radii's learning rate."""
    figure, axes = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
    _frontier(axes, rows, f"Hyper-gradients, {task}: one point a learning rate of the radii")
    return figure


def _frontier(axes: Any, rows: Sequence[Result], title: str) -> None:
    """A line for each method over its knob."""
    for name in dict.fromkeys(row.label for row in rows):
        groups = sorted(grouped([row for row in rows if row.label == name]).items(), key=lambda pair: pair[0].knob)
        points = [[100 * mean_of(of, field) for _, of in groups] for field in ("id_accuracy", "ood")]
        look = style.of(name) if name == "vanilla" else {"marker": "o", "ms": 5}
        axes.plot(*points, label=name, **look)
    style.label(axes, "ID test accuracy (%)", "mean of OOD seen and OOD held out (%)")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _draw_strengths(rows: Sequence[Result], task: str) -> Any:
    """Left: how strong DiGraP gets. Right: what comes of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    at_rate = [row for row in rows if row.rate == 1e-3]
    learned = [r for r in at_rate if "digrap" in r.method and "fixed" not in r.method and "ftp" not in r.method]
    lengths, shortest = sorted({row.epochs for row in learned}), min(row.epochs for row in rows)
    for name, colour in zip(dict.fromkeys(row.method for row in learned), style.COLOURS, strict=False):
        for length, dashes in zip(lengths, ("-", "--"), strict=False):
            groups = grouped([row for row in learned if row.method == name and row.epochs == length])
            points = sorted((trial.knob, mean_of(of, "scalar")) for trial, of in groups.items())
            x, y = zip(*points, strict=True) if points else ((), ())
            left.plot(x, y, dashes, color=colour, marker="o", ms=4, label=f"{name}, {length:g} epochs")
    left.set_xscale("log")
    left.set_ylim(-0.02, 1.02)
    style.label(left, "mu, the learning rate of the strengths", "mean strength in the second half")
    left.legend(frameon=False, fontsize=7)
    _frontier(right, [row for row in at_rate if row.epochs == shortest], f"{task}, {shortest:g} epochs")
    return figure
