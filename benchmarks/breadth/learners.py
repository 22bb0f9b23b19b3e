"""Methods of learning tasks in turn: each of the main benchmark's, held near the first model or near the last one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from breadth.sequences import TaskSequence
from ftp_optax import reanchor
from robust.finetune import between
from robust.methods import METHODS, RATE
from robust.training import Knobs, OnStep, Recipe, predictions, train
from vision.data import Domain, steps_in
from vision.metrics import accuracy
from vision.networks import Params

__all__ = ["LEARNERS", "Learner", "accuracies", "average", "forgetting", "learn", "learned"]


class Learner(NamedTuple):
    """A method of learning tasks in turn.

    Attributes:
        method: Its name in the main benchmark.
        reanchored: Whether it is anchored anew, at what it ended with, after each task.
        settings: The values of the knob that are tried, if not the main benchmark's.
        alphas: For WiSE-FT: after each task the model goes back towards what it was before it, to this share of the
            way. These are then the knob's values in place of the method's own.
    """

    method: str
    reanchored: bool = False
    settings: tuple[float, ...] = ()
    alphas: tuple[float, ...] = ()

    @property
    def knob(self) -> str:
        """What is chosen beside the learning rate, or the learning rate itself."""
        return "alpha" if self.alphas else METHODS[self.method].knob

    @property
    def values(self) -> tuple[float, ...]:
        """The settings that are tried."""
        return self.alphas or self.settings or METHODS[self.method].values


_FAST = (0.3, 0.1, 1.0)  # a task is some forty steps: radii must open fast
_FAST_SCALE_FREE = (3.0, 1.0, 10.0)

LEARNERS = {
    "vanilla": Learner("vanilla"),
    "wise_ft": Learner("vanilla", alphas=(0.5, 0.3, 0.7)),
    "l2_sp": Learner("l2_sp"),
    "l2_sp, reanchored": Learner("l2_sp", reanchored=True),
    "spd": Learner("spd"),
    "spd, reanchored": Learner("spd", reanchored=True),
    "ftp": Learner("ftp", settings=_FAST),
    "ftp, reanchored": Learner("ftp", reanchored=True, settings=_FAST),
    "ftp_scale_free, reanchored": Learner("ftp_scale_free", reanchored=True, settings=_FAST_SCALE_FREE),
    "digrap, reanchored": Learner("digrap", reanchored=True),
}
"""By name. Without `reanchored` a method is held near the foundation model through all tasks."""


def learn(
    learner: Learner,
    knobs: dict[str, float],
    tasks: TaskSequence,
    seed: int,
    *,
    epochs: int,
    batch_size: int,
    on_step: OnStep | None = None,
) -> list[Params]:
    """The parameters before the first of the tasks and after each of them. The optimizer's state goes on through all.

    Args:
        learner: The method.
        knobs: Its numbers.
        tasks: The foundation model, and what is to be learned.
        seed: Of the order of the images.
        epochs: Passes over the first of the tasks; all others take as many steps.
        batch_size: Images in a step.
        on_step: Progress.
    """
    params, opt_state = tasks.start.params, None
    longest = max(len(domain) for domain in tasks.train.values())
    recipe = Recipe(METHODS[learner.method].build, steps_in(longest, batch_size, epochs))
    models = [params]
    for number, domain in enumerate(tasks.train.values()):
        if number and learner.reanchored:
            opt_state = reanchor(opt_state, params)
        done = train(
            tasks.start.network,
            params,
            recipe,
            Knobs(knobs[RATE], knobs.get(METHODS[learner.method].knob, 0.0)),
            domain,
            batch_size=batch_size,
            seed=1000 * number + seed,
            augment=tasks.start.task.name == "emoji",
            opt_state=opt_state,
            on_step=on_step,
        )
        opt_state = done.opt_state
        params = between(done.params, params, knobs["alpha"]) if learner.alphas else done.params
        models.append(params)
    return models


def accuracies(tasks: TaskSequence, params: Params, domains: Sequence[Domain]) -> list[float]:
    """Accuracy on each of the domains."""
    return [accuracy(predictions(tasks.start.network, params, domain), domain.labels) for domain in domains]


def average(matrix: np.ndarray) -> float:
    """Mean accuracy over all tasks after the last one. `matrix[i, j]`: on task j after task i was learned."""
    return float(matrix[-1].mean())


def forgetting(matrix: np.ndarray) -> float:
    """How far each task but the last fell from its best, on average (Chaudhry et al. 2018).

    The best is over the models since the task was learned: before, there is nothing to forget.
    """
    earlier = range(len(matrix) - 1)
    return float(np.mean([matrix[task:-1, task].max() - matrix[-1, task] for task in earlier]))


def learned(matrix: np.ndarray) -> float:
    """Mean accuracy on each later task just after it was learned."""
    return float(np.diag(matrix)[1:].mean())
