"""A task: data, a network that knows a part of it, and scores. The classification tasks, and one run on any of them."""

import functools
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from evidence.emoji_task import emoji_task
from evidence.fashion import fashion_task
from evidence.few_labels import few_labels, images_kept
from evidence.foundation import foundation
from evidence.methods import METHODS, RATE, Method
from evidence.rows import Row
from evidence.training import Knobs, OnStep, Recipe, Trained, predictions, train
from ftp_optax import wise_ft
from vision.data import Domain, steps_in
from vision.data import Task as Data
from vision.digits import digits_task
from vision.errors import UserError
from vision.foundation import pretrained_digits_model
from vision.metrics import accuracy
from vision.networks import Network, Params, split_model

Settings = dict[str, float]  # hyper-parameters: the learning rate, and the method's own knob if that is another


@dataclass(frozen=True, eq=False)
class Start:
    """Where all runs of one seed start from."""

    data: Data
    network: Network  # the fixed part of the foundation model
    params: Params  # the foundation model's parameters


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: where it started, what it ended with, and its score on the ID validation data."""

    start: Start
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


@jax.jit
def between(tuned: Params, anchor: Params, alpha: jax.Array | float) -> Params:
    """The point `alpha` of the way from the anchor to tuned weights: WiSE-FT."""
    return wise_ft(tuned, anchor, alpha)


def distance(params: Params, anchor: Params) -> float:
    """L2 distance of all parameters."""
    gaps = jax.tree.map(lambda new, old: np.sum(np.square(np.asarray(new) - np.asarray(old))), params, anchor)
    return float(jnp.sqrt(sum(jax.tree.leaves(gaps))))


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Data, network and scores: what a benchmark says, and the protocol asks for."""

    experiment: str
    id_domain: str  # that is fine-tuned on
    backbone: str  # the foundation model's network
    epochs: int
    batch_size: int
    augment: bool = False  # whether training images are shifted and mirrored
    smallest: bool = False  # little data and few epochs, to see that everything works

    validation: ClassVar[str] = "validation_accuracy"  # the column by which settings are chosen

    @property
    def title(self) -> str:
        """What the names of runs in the progress begin with."""
        return self.experiment

    @abstractmethod
    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        """The data and the foundation model of one seed; trained once, then kept in the cache.

        Raises:
            UserError: Something that the data or the network needs is not installed.
        """

    def score(self, start: Start, params: Params, domain: Domain) -> float:
        """Of some weights on one domain, in 0..1."""
        return accuracy(predictions(start.network, params, domain), domain.labels)

    def columns(self, start: Start, params: Params) -> Row:
        """The scores of some weights everywhere."""
        data = start.data
        domains = {name: self.score(start, params, domain) for name, domain in data.ood.items()}
        mean = lambda group: statistics.fmean(domains[name] for name in data.ood_groups[group])
        return {
            self.validation: self.score(start, params, data.validation),
            "id_accuracy": self.score(start, params, data.id_test),
            "ood_seen_accuracy": mean("seen"),
            "ood_held_accuracy": mean("held out"),
            "domains": domains,
        }

    def tune(self, start: Start, method: Method, knobs: Settings, seed: int, on_step: OnStep | None = None) -> Run:
        """Fine-tunes with one method: AdamW, warm-up and cosine decay, gradients clipped to norm 1."""
        if method.probe_first:
            # as many passes over the images as the others, halved between the probe and fine-tuning
            half = replace(self, epochs=max(1, self.epochs // 2))
            probe = half.tune(start, METHODS["linear_probe"], knobs, seed, on_step)
            probed = replace(start, params=probe.trained.params)
            tuned = half.tune(probed, method._replace(probe_first=False), knobs, seed, on_step)
            took = probe.trained.seconds + tuned.trained.seconds
            return replace(tuned, start=start, trained=replace(tuned.trained, seconds=took))
        trained = self.train(start, method, Knobs(knobs[RATE], knobs.get(method.knob, 0.0)), seed, on_step=on_step)
        return Run(start, trained, self.score(start, trained.params, start.data.validation))

    def train(self, start: Start, method: Method, knobs: Knobs, seed: int, steps: int = 0, **how: Any) -> Trained:
        """One training, of all epochs or of some steps; `how` is for `training.train`."""
        data = start.data
        steps = steps or steps_in(len(data.train), self.batch_size, self.epochs)
        held_out = data.validation if method.held_out else None
        recipe = Recipe(method.build, steps, method.after_adam)
        same = {"batch_size": self.batch_size, "seed": seed, "augment": self.augment, "held_out": held_out}
        return train(start.network, start.params, recipe, knobs, data.train, **same, **how)  # pyright: ignore


ID_DOMAINS = {"emoji": "fluent-high-contrast", "digits": "photo", "fashion": "photo"}
"""The domain that is fine-tuned on, where none is asked for."""

_BACKBONES = {
    "emoji": ("efficientnet-lite0", "resnet", "vit"),
    "digits": ("small-cnn", "resnet", "vit"),
    "fashion": ("small-cnn",),
}  # the main one first
_LENGTHS: dict[str, dict[str, Any]] = {
    "emoji": {"epochs": 10, "batch_size": 32, "augment": True},  # a digit in the mirror is another sign
    "digits": {"epochs": 15, "batch_size": 64},
    "fashion": {"epochs": 15, "batch_size": 64},
}
_EPOCHS_AT_SMALLEST = 4


def main_backbone(name: str) -> str:
    """The network of an experiment where none is asked for; that of emoji for what is made of them."""
    return _BACKBONES.get(name, _BACKBONES["emoji"])[0]


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Emoji, digits or garments: one style or rendering is fine-tuned on, the others are tested."""

    share: float = 1.0  # of the fine-tuning labels
    width: float = 1.0  # of the digits' small network, as a multiple

    @property
    def title(self) -> str:
        return self.experiment if self.share == 1 else f"{self.experiment}, {100 * self.share:g} % of the labels"

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        start = _classifier(replace(self, epochs=0, batch_size=0, share=1.0), seed, on_step)
        return replace(start, data=few_labels(start.data, self.share, seed))

    def columns(self, start: Start, params: Params) -> Row:
        return super().columns(start, params) | {"images": images_kept(len(start.data.train), self.share)}


def classification(
    name: str, id_domain: str | None = None, *, backbone: str | None = None, smallest: bool = False, **changes: Any
) -> Classification:
    """A classification task as the main benchmark runs it, but for changes of its fields.

    Smallest is the digits with little data, whatever the name: it must run without any download.

    Raises:
        UserError: The experiment has no such backbone.
    """
    name = "digits" if smallest else name
    id_domain = id_domain if id_domain and not smallest else ID_DOMAINS[name]
    backbone = backbone or main_backbone(name)
    if backbone not in _BACKBONES[name]:
        raise UserError(f"{name}: no backbone {backbone!r}; choose from {', '.join(_BACKBONES[name])}")
    length: dict[str, Any] = _LENGTHS[name] | ({"epochs": _EPOCHS_AT_SMALLEST} if smallest else {}) | changes
    return Classification(experiment=name, id_domain=id_domain, backbone=backbone, smallest=smallest, **length)


_last: dict[tuple[Classification, int], Start] = {}  # all methods of a seed start from it


def _classifier(task: Classification, seed: int, on_step: OnStep | None) -> Start:
    if (task, seed) not in _last:
        _last.clear()
        makers: dict[str, Callable[[], Data]] = {
            "emoji": lambda: emoji_task(seed, task.id_domain),
            "digits": lambda: digits_task(seed, smallest=task.smallest),
            "fashion": lambda: fashion_task(seed),
        }
        data = makers[task.experiment]()
        if task.backbone == "small-cnn":
            parts = split_model(pretrained_digits_model(data, seed, width=task.width, on_step=on_step))
        else:
            parts = foundation(data, seed, on_step, backbone=task.backbone, epochs=int(task.smallest))
        _last[task, seed] = Start(data, *parts)
    return _last[task, seed]
