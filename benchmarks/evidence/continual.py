"""One task after the other: how much of the earlier ones is left, by method, with one anchor and reanchored.

The same objects in one appearance or style after another: the embedded digits take minutes on one core, the emoji's
three styles an hour. Every method has one knob and three settings of it, chosen on the first seed by the mean accuracy
on validation images of all tasks after the last one. Each run is a row of benchmarks/results/continual.csv, and is not
repeated; trials are in continual_trials.csv. examples/continual.py is the recipe in its shortest form. --smallest: the
digits with little data, one seed and one setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

import style
from evidence import summary, tables
from evidence.command import Evidence, stage
from evidence.emoji import SEEN as COLOUR_STYLES
from evidence.emoji_task import emoji_task, joined
from evidence.figures import legend
from evidence.methods import METHODS, RATE
from evidence.protocol import Study
from evidence.rows import KEY, File, Row
from evidence.tasks import Classification, Settings, Start, between, classification
from evidence.training import Knobs, OnStep
from ftp_optax import reanchor
from style import plt
from vision.data import Domain, steps_in
from vision.digits import SEEN, digits_task
from vision.foundation import pretrained_digits_model
from vision.networks import Params, split_model

COLUMNS = (*KEY, "validation_accuracy", "average_accuracy", "forgetting", "learned_accuracy", "seconds", "accuracies")
"""`accuracies`: a list for each task, those on all tasks after it was learned."""

SEQUENCES = {
    "digits": ("clean", "inverted", "rotated", "coloured", "photo"),
    "emoji": ("six colour styles", "fluent-high-contrast", "openmoji", "emojione-monotone"),
}  # the tasks in turn; the first one is what the foundation model knows

LENGTHS = {"digits": {"epochs": 8, "batch_size": 20}, "emoji": {"epochs": 5, "batch_size": 32}}
_IMAGES = 100  # of each later task of the digits
_SCORES = {
    "all tasks at the end": "average_accuracy",
    "each task when learned": "learned_accuracy",
    "forgetting": "forgetting",
}


class Learner(NamedTuple):
    """A method of learning tasks in turn."""

    method: str  # its name in the main benchmark
    knob: str  # what is chosen beside the learning rate, or the learning rate itself
    values: tuple[float, ...]  # the settings that are tried
    reanchored: bool = False  # whether it is anchored anew, at what it ended with, after each task


def _learner(name: str, values: tuple[float, ...] = ()) -> Learner:
    """A method of the main benchmark, with the settings that it tries if not with others."""
    method = name.removesuffix(", reanchored")
    return Learner(method, METHODS[method].knob, values or METHODS[method].values, reanchored=name != method)


_NAMES = ("vanilla", "l2_sp", "l2_sp, reanchored", "spd", "spd, reanchored", "digrap, reanchored")
_FAST = (0.3, 0.1, 1.0)  # a task is some forty steps: radii must open fast
LEARNERS = {name: _learner(name) for name in _NAMES} | {
    # after each task the model goes back towards what it was before it, to this share of the way
    "wise_ft": Learner("vanilla", "alpha", (0.5, 0.3, 0.7)),
    "ftp": _learner("ftp", _FAST),
    "ftp, reanchored": _learner("ftp, reanchored", _FAST),
    "ftp_scale_free, reanchored": _learner("ftp_scale_free, reanchored", (3.0, 1.0, 10.0)),
}  # by name. Without `reanchored` a method is held near the foundation model through all tasks.


@dataclass(frozen=True)
class Options(Evidence):
    """Learns tasks in turn with every method."""

    # Appearances of the embedded digits, or emoji in three artists' styles.
    experiment: Literal["digits", "emoji"] = "digits"
    methods: tuple[str, ...] = tuple(LEARNERS)  # Which methods.

    def fill(self) -> None:
        task = classification(self.experiment, smallest=self.smallest)
        length = LENGTHS[task.experiment] | ({"epochs": 1} if self.smallest else {})
        study = Study(
            task=InTurn(**vars(replace(task, **length))),
            results=File(self.results / "continual.csv", COLUMNS),
            tried=1 if self.smallest else 3,
            methods=LEARNERS,
        )
        study.run_missing(self.methods, self.range(), stage)

    def tell(self) -> None:
        for group, found in summary.groups(self.read("continual.csv", COLUMNS)).items():
            names, name = SEQUENCES[group.experiment], f"continual-{group.experiment}"
            ends = tables.values(found, lambda row: {title: row[column] for title, column in _SCORES.items()})
            by_task = tables.values(
                found, lambda row, names=names: dict(zip(names, row["accuracies"][-1], strict=True))
            )
            self.write(name, f"{tables.by_condition(ends)}\n{tables.by_condition(by_task)}")
            _draw(found, ends, self.results / f"{name}.png")


@dataclass(frozen=True, eq=False)
class TaskSequence(Start):
    """A foundation model and what is to be learned after it; no task sees another one's images."""

    train: Mapping[str, Domain]  # the images of each later task, in turn
    validation: Mapping[str, Domain]  # images of every task, the foundation model's first, to choose settings by
    test: Mapping[str, Domain]  # images of every task, for the report


class Learned(NamedTuple):
    """The models before the first task and after each, their validation score at the end, and the time they took."""

    models: list[Params]
    validation: float
    seconds: float

    def at(self, _: float) -> list[Params]:
        """All of them: there is no path between a foundation model and one run."""
        return self.models

    def cost(self, _: float = 1.0) -> dict[str, float]:
        """What a row says of the training."""
        return {"seconds": self.seconds}


@dataclass(frozen=True, kw_only=True)
class InTurn(Classification):
    """The tasks of one experiment in turn; its foundation model begins."""

    def start(self, seed: int, on_step: OnStep | None = None) -> TaskSequence:
        digits = self.experiment == "digits"
        return digits_sequence(seed, self.smallest, on_step) if digits else emoji_sequence(seed, on_step)

    def columns(self, start: Any, params: Any) -> Row:
        matrix = [[self.score(start, model, domain) for domain in start.test.values()] for model in params]
        return {self.validation: self._judged(start, params[-1])} | metrics(np.array(matrix)) | {"accuracies": matrix}

    def tune(self, start: Any, method: Any, knobs: Settings, seed: int, on_step: OnStep | None = None) -> Any:
        """Learns the tasks in turn, each for as many steps as the epochs over the longest take.

        The optimizer's state goes on through all.
        """
        learner, method, params, opt_state = method, METHODS[method.method], start.params, None
        steps = steps_in(max(map(len, start.train.values())), self.batch_size, self.epochs)
        numbers = Knobs(knobs[RATE], knobs.get(method.knob, 0.0))
        models, seconds = [params], 0.0
        for number, domain in enumerate(start.train.values()):
            if number and learner.reanchored:
                opt_state = reanchor(opt_state, params)
            here = replace(start, params=params, data=replace(start.data, train=domain))
            how: Any = {"opt_state": opt_state, "on_step": on_step}
            done = self.train(here, method, numbers, 1000 * number + seed, steps, **how)
            opt_state = done.opt_state
            params = between(done.params, params, knobs["alpha"]) if learner.knob == "alpha" else done.params
            models.append(params)
            seconds += done.seconds
        return Learned(models, self._judged(start, params), seconds)

    def _judged(self, start: TaskSequence, params: Params) -> float:
        """The mean accuracy on validation images of all tasks."""
        return fmean(self.score(start, params, domain) for domain in start.validation.values())


def digits_sequence(seed: int, smallest: bool = False, on_step: OnStep | None = None) -> TaskSequence:
    """A small network that knows clean digits, then a hundred images each of four other appearances."""
    task = digits_task(seed, smallest=smallest)
    assert task.pretrain is not None, "the digits have it"
    places = np.split(np.arange(len(task.pretrain)), len(SEEN))
    domains = {name: task.pretrain.at(own) for name, own in zip(SEEN, places, strict=True)}
    # the last quarter of the digits, the same ones in each appearance, is for validation
    learned, kept = np.split(places[0], [len(places[0]) - len(places[0]) // 4])
    first, *later = SEQUENCES["digits"]
    task = replace(task, pretrain=domains[first].at(learned))
    network, params = split_model(pretrained_digits_model(task, seed, on_step=on_step))
    every = {**domains, "photo": task.train}
    validation = {name: domain.at(kept) for name, domain in domains.items()} | {"photo": task.validation}
    return TaskSequence(
        task,
        network,
        params,
        train={name: every[name].at(np.arange(min(_IMAGES, len(every[name])))) for name in later},
        validation={name: validation[name] for name in (first, *later)},
        test={name: task.id_test if name == "photo" else task.ood[name] for name in (first, *later)},
    )


def emoji_sequence(seed: int, on_step: OnStep | None = None) -> TaskSequence:
    """EfficientNet-Lite0 that knows six colour styles, then three other styles."""
    first, *later = SEQUENCES["emoji"]
    tasks = {name: emoji_task(seed, name) for name in (*COLOUR_STYLES, *later)}
    mixed = lambda part: joined(first, [getattr(tasks[name], part) for name in COLOUR_STYLES])
    return TaskSequence(
        **vars(classification("emoji", later[0]).start(seed, on_step)),
        train={name: tasks[name].train for name in later},
        validation={first: mixed("validation")} | {name: tasks[name].validation for name in later},
        test={first: mixed("id_test")} | {name: tasks[name].id_test for name in later},
    )


def metrics(matrix: np.ndarray) -> dict[str, float]:
    """Means over tasks of accuracies: after the last task, and on each later task just after it was learned.

    Forgetting is how far each task but the last fell from its best since it was learned (Chaudhry et al. 2018).
    `matrix[i, j]`: on task j after task i.
    """
    fallen = [matrix[task:-1, task].max() - matrix[-1, task] for task in range(len(matrix) - 1)]
    return {
        "average_accuracy": float(matrix[-1].mean()),
        "forgetting": float(np.mean(fallen)),
        "learned_accuracy": float(np.diag(matrix)[1:].mean()),
    }


def _draw(found: Sequence[Row], ends: tables.Values, path: Path) -> None:
    """What is left of the first task after each one, and what each method ends with for what it learns.

    Bars are those of `summary.gap`: intervals of the differences to plain fine-tuning.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5), layout="constrained")
    titles = "each task when learned", "all tasks at the end"
    for method, cells in ends.items():
        matrices = np.array([row["accuracies"] for row in found if row["method"] == method])
        look = style.of(method)
        left.plot(100 * matrices[:, :, 0].mean(0), lw=1, ls="--" if "reanchored" in method else "-", **look)
        x, y = (summary.estimate(list(cells[title].values())).mean for title in titles)
        x_bar, y_bar = (summary.gap(cells[title], ends["vanilla"][title]).half or 0.0 for title in titles)
        right.errorbar(x, y, xerr=x_bar, yerr=y_bar, lw=0.6, ls="", label=method, **look)
    names = SEQUENCES[found[0]["experiment"]]
    left.set_xticks(range(len(names)), names, fontsize=9)
    style.label(left, "after learning", f"accuracy on {names[0]} (%)")
    style.label(right, "accuracy on each task when learned, mean (%)", "accuracy on all tasks at the end, mean (%)")
    legend(right)
    style.save(figure, path)
