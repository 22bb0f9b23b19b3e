"""The pre-trained model of the digits task: trained in seconds, then kept in the cache."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

from vision.cache import digest, load_arrays, store_arrays
from vision.data import Domain, Example, Task, eval_batches, steps_in, train_batches
from vision.models import SmallCNN

__all__ = ["pretrained_digits_model"]

MODEL = "small-cnn"
EPOCHS = 12
LEARNING_RATE = 2e-3
BATCH_SIZE = 64

_OPTIMIZER = optax.adam(LEARNING_RATE)

# To be raised when a change of the code (not of the constants above, nor of the data) makes old cache entries stale.
_VERSION = 1

OnStep = Callable[[int, int, float], None]
Weights = dict[str, np.ndarray]


def pretrained_digits_model(
    task: Task,
    seed: int,
    *,
    width: float = 1.0,
    dtype: DTypeLike = jnp.float32,
    cache: bool = True,
    on_step: OnStep | None = None,
) -> nnx.Module:
    """The small CNN, pre-trained on `task.pretrain`.

    Training is in float32 whatever `dtype` is, so that one cached result serves all: the finished weights are cast.

    Args:
        task: A task that has pre-training data.
        seed: Of the initial weights and of the order of the examples.
        width: Factor on the channels of the hidden layers.
        dtype: Of the parameters and of the computation of the model that is returned.
        cache: Whether to take the weights from the cache (see `vision.cache`) and to put them there.
        on_step: Called after every step with (steps done, steps in all, loss); not called when the cache has the model.

    Returns:
        The model, ready to be fine-tuned.

    Raises:
        ValueError: If the task has no pre-training data.
    """
    if task.pretrain is None:
        raise ValueError(f"task {task.name!r} has no pre-training data.")
    num_classes = len(task.classes)
    # The structure alone: initialising weights that are about to be replaced takes longer than reading the cache.
    model = nnx.eval_shape(lambda: SmallCNN(num_classes, width=width, dtype=dtype, rngs=nnx.Rngs(seed)))
    key = _cache_key(task.pretrain, num_classes, seed, width)
    weights = load_arrays(key) if cache else None
    if weights is None or not _fits(weights, model):
        weights = _train(SmallCNN(num_classes, width=width, rngs=nnx.Rngs(seed)), task.pretrain, seed, on_step)
        if cache:
            store_arrays(key, weights)
    nnx.update(model, _to_state(weights, dtype))
    return model


def _cache_key(domain: Domain, num_classes: int, seed: int, width: float) -> str:
    """Changes with everything that the result depends on, the training images themselves included."""
    config = {
        "version": _VERSION,
        "model": MODEL,
        "classes": num_classes,
        "seed": seed,
        "epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH_SIZE,
    } | ({} if width == 1 else {"width": width})
    images = next(eval_batches(domain, len(domain)))
    return f"digits-{MODEL}-{digest(images, json.dumps(config))[:32]}"


def _train(model: nnx.Module, domain: Domain, seed: int, on_step: OnStep | None) -> Weights:
    graph, params = nnx.split(model, nnx.Param)
    opt_state = _OPTIMIZER.init(params)
    num_steps = steps_in(len(domain), BATCH_SIZE, EPOCHS)
    batches = train_batches(domain, BATCH_SIZE, seed=seed, num_steps=num_steps)
    for done, batch in enumerate(batches, start=1):
        params, opt_state, loss = _step(params, opt_state, batch, graph)
        if on_step is not None:
            on_step(done, num_steps, float(loss))
    return {name: np.asarray(leaf[...]) for name, leaf in _by_name(params).items()}


# A Python loop round one jitted step: on CPU a convolution inside `lax.scan` is 25 times slower.
@partial(jax.jit, donate_argnums=(0, 1), static_argnums=3)
def _step(params: nnx.State, opt_state: optax.OptState, batch: Example, graph: Any) -> tuple[Any, Any, jax.Array]:
    def loss_fn(params: nnx.State) -> jax.Array:
        logits = nnx.merge(graph, params)(batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = _OPTIMIZER.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def _by_name(params: nnx.State) -> dict[str, nnx.Variable]:
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(params)}


def _fits(weights: Weights, model: nnx.Module) -> bool:
    expected = {name: leaf.shape for name, leaf in _by_name(nnx.state(model, nnx.Param)).items()}
    return {name: array.shape for name, array in weights.items()} == expected


def _to_state(weights: Weights, dtype: DTypeLike) -> nnx.State:
    flat = [(tuple(name.split("/")), nnx.Param(jnp.asarray(array, dtype))) for name, array in weights.items()]
    return nnx.from_flat_state(flat)
