"""The tasks that the experiments run on: arrays on the device, and a pre-trained model to start from."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from robust.finetune import start as emoji_origin
from vision.data import ArrayDomain, Domain, Example, Task, eval_batches
from vision.digits import digits_task
from vision.foundation import pretrained_digits_model
from vision.networks import Network, Params, split_model

__all__ = ["Start", "digits_start", "emoji_start", "shortened"]

Arrays = tuple[jax.Array, jax.Array]
"""Images, uint8, and labels, int32."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where every run of one task and seed starts from.

    The validation images are halved: one half judges radii, the other chooses hyper-parameters.

    Attributes:
        name: The task's name.
        network: The fixed part of the model.
        params: The pre-trained parameters.
        augmented: Whether training images are shifted and mirrored at random.
        train: Images to fine-tune on.
        judge: ID images for held-out hyper-gradients, in no other use.
        validation: ID images for choosing hyper-parameters.
        tests: Test domains by name, the ID domain first.
        groups: Names of OOD domains by group.
    """

    name: str
    network: Network
    params: Params
    augmented: bool
    train: Arrays
    judge: Arrays
    validation: Domain
    tests: Mapping[str, Domain]
    groups: Mapping[str, tuple[str, ...]]


@functools.lru_cache(maxsize=4)
def digits_start(seed: int, width: float = 1.0, smallest: bool = False) -> Start:
    """The embedded task of the main job, its small network `width` times as wide."""
    task = digits_task(seed, smallest=smallest)
    network, params = split_model(pretrained_digits_model(task, seed, width=width))
    return _start(task, network, params)


@functools.lru_cache(maxsize=4)
def emoji_start(seed: int) -> Start:
    """EfficientNet-Lite0 and the emoji of ten artists; npm fetches the drawings."""
    origin = emoji_origin("emoji", "fluent-high-contrast", seed)
    return _start(origin.task, origin.network, origin.params, augmented=True)


def _start(task: Task, network: Network, params: Params, augmented: bool = False) -> Start:
    images, labels = arrays(task.validation)
    half = len(labels) // 2
    return Start(
        name=task.name,
        network=network,
        params=params,
        augmented=augmented,
        train=arrays(task.train),
        judge=(images[:half], labels[:half]),
        validation=ArrayDomain("validation", np.asarray(images[half:]), np.asarray(labels[half:])),
        tests={"ID": task.id_test, **task.ood},
        groups=task.ood_groups,
    )


def arrays(domain: Domain) -> Arrays:
    """All of a domain on the device."""
    whole: Example = next(eval_batches(domain, len(domain)))
    return jnp.asarray(np.asarray(whole["image"])), jnp.asarray(np.asarray(whole["label"]))


def shortened(start: Start, images: int) -> Start:
    """The task with fewer images to train on."""
    return dataclasses.replace(start, train=(start.train[0][:images], start.train[1][:images]))
