"""One run of the robustness benchmark: a foundation model, one method, one style, and what became of the others."""

import functools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ftp_optax import wise_ft
from robust.experiments import main_backbone
from robust.fashion import fashion_task
from robust.foundation import foundation
from robust.splits import emoji_task
from robust.training import Knobs, OnStep, Recipe, Trained, predictions, train
from vision.data import Task, steps_in
from vision.digits import digits_task
from vision.foundation import pretrained_digits_model
from vision.metrics import accuracy
from vision.networks import Network, Params, split_model

__all__ = ["Build", "Run", "Scores", "Start", "between", "distance", "run", "start"]


class HasParams(Protocol):
    """What a run starts from, as far as the run itself goes."""

    @property
    def params(self) -> Params:
        """The foundation model's parameters."""
        ...


Origin = TypeVar("Origin", bound=HasParams)

Build = Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]
"""From the base optimizer and a knob to the method: `lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu))`."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where all runs of one seed start from.

    Attributes:
        task: The domains.
        network: The fixed part of the foundation model.
        params: The foundation model's parameters.
    """

    task: Task
    network: Network
    params: Params


@dataclass(frozen=True)
class Scores:
    """Accuracy in every domain, as shares.

    Attributes:
        validation: On ID images that choose hyper-parameters.
        id: On ID test images.
        seen: Mean over the OOD domains that the foundation model was trained on.
        held_out: Mean over those that it was not.
        domains: Of each OOD domain.
    """

    validation: float
    id: float
    seen: float
    held_out: float
    domains: Mapping[str, float]

    def columns(self) -> dict[str, Any]:
        """As a row of the results."""
        groups = {"id_accuracy": self.id, "ood_seen_accuracy": self.seen, "ood_held_accuracy": self.held_out}
        return {"validation_accuracy": self.validation, **groups, "domains": dict(self.domains)}


@dataclass(frozen=True, eq=False)
class Run(Generic[Origin]):
    """A finished run.

    Attributes:
        start: Where it started from.
        trained: What it ended with.
        validation: Its score on the ID validation data.
    """

    start: Origin
    trained: Trained
    validation: float

    @functools.cached_property
    def drift(self) -> float:
        """L2 distance of all parameters from the foundation model."""
        return distance(self.trained.params, self.start.params)

    def at(self, alpha: float) -> Params:
        """The point `alpha` of the way from the foundation model to this run: WiSE-FT; exact at both ends."""
        return between(self.trained.params, self.start.params, alpha)

    def cost(self, alpha: float = 1.0) -> dict[str, float]:
        """How far that point is from the foundation model, and what it took to train."""
        return {"drift": alpha * self.drift, "seconds": self.trained.seconds if alpha else 0.0}


_loaded: dict[tuple[str, str, int, str, bool], "Start"] = {}  # the last one: all methods of a seed start from it


def start(
    experiment: str,
    id_domain: str,
    seed: int,
    *,
    backbone: str | None = None,
    smallest: bool = False,
    on_step: OnStep | None = None,
) -> Start:
    """The task and the foundation model of one seed; trained once, then kept in the cache.

    Args:
        experiment: `emoji`, `digits` for the embedded task, or `fashion`.
        id_domain: The style to fine-tune on; `photo` for the others.
        seed: Of the split and of the foundation model.
        backbone: The network; None for the experiment's main one.
        smallest: A few images, to see that it works.
        on_step: Progress, if the foundation model must be trained.

    Raises:
        UserError: The emoji task lacks npm, a package or resvg; Fashion-MNIST is not installed.
    """
    backbone = backbone or main_backbone(experiment)
    key = (experiment, id_domain, seed, backbone, smallest)
    if key not in _loaded:
        task = _task(experiment, id_domain, seed, smallest)
        if backbone == "small-cnn":
            parts = split_model(pretrained_digits_model(task, seed, on_step=on_step))
        else:
            parts = foundation(task, seed, on_step, backbone=backbone, epochs=1 if smallest else None)
        _loaded.clear()
        _loaded[key] = Start(task, *parts)
    return _loaded[key]


def _task(experiment: str, id_domain: str, seed: int, smallest: bool) -> Task:
    if experiment == "digits":
        return digits_task(seed, smallest=smallest)
    return fashion_task(seed) if experiment == "fashion" else emoji_task(seed, id_domain)


def run(
    origin: Start,
    method: Build,
    knobs: Knobs,
    seed: int,
    *,
    epochs: int,
    batch_size: int,
    held_out: bool = False,
    on_step: OnStep | None = None,
) -> Run[Start]:
    """Fine-tunes the foundation model with one method: AdamW, warm-up and cosine decay, gradients clipped to norm 1.

    Args:
        origin: Where to start from.
        method: From AdamW and its knob to the method. Runs with the very same function share its compiled program.
        knobs: Peak learning rate, and the method's knob.
        seed: Of the order of the images.
        epochs: Passes over the fine-tuning images.
        batch_size: Images in a step.
        held_out: Whether the method takes a held-out loss (`tpgm`), which is that of the ID validation images.
        on_step: Progress.
    """
    task = origin.task
    trained = train(
        origin.network,
        origin.params,
        Recipe(method, steps_in(len(task.train), batch_size, epochs)),
        knobs,
        task.train,
        batch_size=batch_size,
        seed=seed,
        augment=task.name == "emoji",  # a digit in the mirror is another sign
        held_out=task.validation if held_out else None,
        on_step=on_step,
    )
    validation = accuracy(predictions(origin.network, trained.params, task.validation), task.validation.labels)
    return Run(origin, trained, validation)


def scores(start: Start, params: Params) -> Scores:
    """Accuracy of some weights everywhere."""
    task = start.task
    measure = lambda domain: accuracy(predictions(start.network, params, domain), domain.labels)
    domains = {name: measure(domain) for name, domain in task.ood.items()}
    mean = lambda group: statistics.fmean(domains[name] for name in task.ood_groups[group])
    return Scores(measure(task.validation), measure(task.id_test), mean("seen"), mean("held out"), domains)


@jax.jit
def between(tuned: Params, anchor: Params, alpha: jax.Array | float) -> Params:
    """The point `alpha` of the way from the anchor to tuned weights: WiSE-FT."""
    return wise_ft(tuned, anchor, alpha)


def distance(params: Params, anchor: Params) -> float:
    """L2 distance of all parameters."""
    gaps = jax.tree.map(lambda new, old: np.sum(np.square(np.asarray(new) - np.asarray(old))), params, anchor)
    return float(jnp.sqrt(sum(jax.tree.leaves(gaps))))
