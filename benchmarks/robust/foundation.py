"""The foundation models: a network trained on `task.pretrain`, then kept in the cache.

EfficientNet-Lite0 starts from its ImageNet weights, the other networks from nothing.
"""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from robust.backbones import create_backbone
from robust.training import Knobs, OnStep, Recipe, train
from vision.cache import digest, load_arrays, store_arrays
from vision.data import Task, eval_batches, steps_in
from vision.efficientnet import EfficientNetLite0, load_imagenet
from vision.networks import Network, Params, path_of, split_model

__all__ = ["foundation"]


class _Training(NamedTuple):
    epochs: int
    rate: float
    batch: int


_TRAINING = {
    ("emoji", "efficientnet-lite0"): _Training(5, 1e-3, 32),
    ("emoji", "resnet"): _Training(15, 1e-3, 32),
    ("emoji", "vit"): _Training(15, 1e-3, 32),
    ("digits", "resnet"): _Training(6, 2e-3, 64),
    ("digits", "vit"): _Training(12, 3e-3, 64),
}

# To be raised when a change of the code makes old cache entries stale.
_VERSION = 1


def foundation(
    task: Task,
    seed: int,
    on_step: OnStep | None = None,
    *,
    backbone: str = "efficientnet-lite0",
    epochs: int | None = None,
) -> tuple[Network, Params]:
    """A network with a head for the task's classes, trained on `task.pretrain`.

    Args:
        task: A task that has pre-training data.
        seed: Of the initial weights (EfficientNet-Lite0: of the head's) and of the order of the images.
        on_step: Called after every step with (steps done, steps in all, loss); not called when the cache has the model.
        backbone: The network.
        epochs: Passes over the images, if not as many as suit the network and the task.

    Returns:
        The fixed part of the model and its parameters.

    Raises:
        UserError: The package with the ImageNet weights is missing or damaged.
    """
    assert task.pretrain is not None, "tasks of the benchmark have it"
    training = _TRAINING[task.name, backbone]
    training = training._replace(epochs=epochs or training.epochs)
    network, params = split_model(_initial(task, backbone, seed))
    images = next(eval_batches(task.pretrain, len(task.pretrain)))
    config = {"version": _VERSION, "seed": seed, **training._asdict()}
    key = f"{_name(task, backbone)}-{digest(images, json.dumps(config))[:32]}"
    weights = load_arrays(key)
    if weights is None:
        params = _train(network, params, task, training, seed, on_step)
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        store_arrays(key, {path_of(path): np.asarray(leaf) for path, leaf in flat})
        return network, params
    return network, jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_of(path)]), params)


def _initial(task: Task, backbone: str, seed: int) -> nnx.Module:
    if backbone != "efficientnet-lite0":
        return create_backbone(backbone, len(task.classes), task.image_size, seed)
    model = EfficientNetLite0(len(task.classes), seed=seed)
    load_imagenet(model)
    return model


def _name(task: Task, backbone: str) -> str:
    """Of the file in the cache."""
    return "emoji-foundation" if backbone == "efficientnet-lite0" else f"{task.name}-foundation-{backbone}"


def _train(
    network: Network, params: Params, task: Task, training: _Training, seed: int, on_step: OnStep | None
) -> Params:
    assert task.pretrain is not None
    recipe = Recipe(_plain, steps_in(len(task.pretrain), training.batch, training.epochs))
    return train(
        network,
        params,
        recipe,
        Knobs(training.rate),
        task.pretrain,
        batch_size=training.batch,
        seed=seed,
        augment=task.name == "emoji",
        on_step=on_step,
    ).params


def _plain(adamw: optax.GradientTransformation, value: object) -> optax.GradientTransformation:
    del value
    return adamw
