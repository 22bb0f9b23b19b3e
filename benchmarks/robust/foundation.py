"""The foundation model of the emoji task: ImageNet weights, trained on in six colour styles, then kept in the cache."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust.training import Knobs, OnStep, Recipe, train
from vision.cache import digest, load_arrays, store_arrays
from vision.data import Task, eval_batches, steps_in
from vision.efficientnet import EfficientNetLite0, load_imagenet
from vision.networks import Network, Params, path_of, split_model

__all__ = ["foundation"]

EPOCHS = 5
LEARNING_RATE = 1e-3
BATCH_SIZE = 32

# To be raised when a change of the code makes old cache entries stale.
_VERSION = 1


def foundation(task: Task, seed: int, on_step: OnStep | None = None) -> tuple[Network, Params]:
    """EfficientNet-Lite0 with a head for the task's classes, trained on `task.pretrain`.

    Args:
        task: A task that has pre-training data.
        seed: Of the head's initial weights and of the order of the images.
        on_step: Called after every step with (steps done, steps in all, loss); not called when the cache has the model.

    Returns:
        The fixed part of the model and its parameters.

    Raises:
        UserError: The package with the ImageNet weights is missing or damaged.
    """
    assert task.pretrain is not None, "the emoji task has it"
    model = EfficientNetLite0(len(task.classes), seed=seed)
    load_imagenet(model)
    network, params = split_model(model)
    images = next(eval_batches(task.pretrain, len(task.pretrain)))
    config = {"version": _VERSION, "seed": seed, "epochs": EPOCHS, "rate": LEARNING_RATE, "batch": BATCH_SIZE}
    key = f"emoji-foundation-{digest(images, json.dumps(config))[:32]}"
    weights = load_arrays(key)
    if weights is None:
        params = _train(network, params, task, seed, on_step)
        flat, _ = jax.tree_util.tree_flatten_with_path(params)
        store_arrays(key, {path_of(path): np.asarray(leaf) for path, leaf in flat})
        return network, params
    return network, jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_of(path)]), params)


def _train(network: Network, params: Params, task: Task, seed: int, on_step: OnStep | None) -> Params:
    assert task.pretrain is not None
    recipe = Recipe(_plain, steps_in(len(task.pretrain), BATCH_SIZE, EPOCHS))
    knobs = Knobs(LEARNING_RATE)
    return train(
        network, params, recipe, knobs, task.pretrain, batch_size=BATCH_SIZE, seed=seed, on_step=on_step
    ).params


def _plain(adamw: optax.GradientTransformation, value: object) -> optax.GradientTransformation:
    del value
    return adamw
