"""The foundation models: a network trained on `task.pretrain`, then kept in the cache.

EfficientNet-Lite0 starts from its ImageNet weights, the other networks from nothing.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from evidence.backbones import create_backbone
from evidence.methods import METHODS
from evidence.training import Knobs, OnStep, Recipe, train
from vision.cache import digest, load_arrays, store_arrays
from vision.data import Task, eval_batches, steps_in
from vision.efficientnet import EfficientNetLite0, load_imagenet
from vision.networks import Network, Params, path_of, split_model


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
    task: Task, seed: int, on_step: OnStep | None = None, *, backbone: str = "efficientnet-lite0", epochs: int = 0
) -> tuple[Network, Params]:
    """A network with a head for the task's classes, trained on `task.pretrain` as long as suits them, or `epochs`."""
    assert task.pretrain is not None, "tasks of the benchmark have it"
    training = _TRAINING[task.name, backbone]
    training = training._replace(epochs=epochs or training.epochs)
    network, params = split_model(_initial(task, backbone, seed))
    images = next(eval_batches(task.pretrain, len(task.pretrain)))
    config = {"version": _VERSION, "seed": seed, **training._asdict()}
    name = "emoji-foundation" if backbone == "efficientnet-lite0" else f"{task.name}-foundation-{backbone}"
    key = f"{name}-{digest(images, json.dumps(config))[:32]}"
    same = {"batch_size": training.batch, "seed": seed, "augment": task.name == "emoji", "on_step": on_step}
    recipe = Recipe(METHODS["vanilla"].build, steps_in(len(task.pretrain), training.batch, training.epochs))
    make = lambda: train(network, params, recipe, Knobs(training.rate), task.pretrain, **same).params  # pyright: ignore
    return network, cached(key, params, make)


def cached(key: str, params: Params, make: Callable[[], Params]) -> Params:
    """Parameters like those given, from the cache, or made and kept there."""
    weights = load_arrays(key)
    if weights is None:
        made = make()
        store_arrays(key, flat(made))
        return made
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_of(path)]), params)


def flat(params: Params) -> dict[str, np.ndarray]:
    """Arrays by path."""
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _initial(task: Task, backbone: str, seed: int) -> nnx.Module:
    if backbone != "efficientnet-lite0":
        return create_backbone(backbone, len(task.classes), task.image_size, seed)
    model = EfficientNetLite0(len(task.classes), seed=seed)
    load_imagenet(model)
    return model
