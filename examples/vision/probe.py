"""A linear probe: the head alone, trained on features that are computed once."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from vision.data import Domain, Reading, eval_batches, steps_in

__all__ = ["linear_probe"]

_BATCH_SIZE = 64
_LEARNING_RATE = 1e-2


class Featured(Protocol):
    """A model that tells what its head reads."""

    def features(self, images: jax.Array) -> jax.Array: ...


def linear_probe(
    model: Featured,
    domain: Domain,
    classes: int,
    *,
    epochs: int,
    seed: int,
    reading: Reading = Reading(),
    on_step: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel `(features, classes)` and bias of a head trained on frozen features, with Adam and cosine decay.

    Features are standardised while the head is trained, so that one learning rate fits all models, and the result is
    that of the features as they are.

    Args:
        model: Whose features; they are computed once.
        domain: The training images.
        classes: Their number.
        epochs: Passes over the features.
        seed: Of the order.
        reading: How the images are read.
        on_step: Called after every batch of features and every epoch with (done, in all, last loss).
    """
    batches = steps_in(len(domain), _BATCH_SIZE, 1)
    total = batches + epochs
    features, labels = _features(model, domain, reading, lambda done: on_step(done, total, 0.0))
    mean, deviation = _standardise(features)

    steps = steps_in(len(labels), _BATCH_SIZE, 1)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps * epochs))
    params = {"kernel": jnp.zeros((features.shape[1], classes)), "bias": jnp.zeros(classes)}
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            logits = x @ params["kernel"] + params["bias"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    generator, loss = np.random.default_rng(seed), 0.0
    for epoch in range(epochs):
        # one shape for all batches, so that the step compiles once; the last is filled up from the front
        order = np.resize(generator.permutation(len(labels)), steps * _BATCH_SIZE)
        for rows in order.reshape(steps, _BATCH_SIZE):
            params, state, loss = step(params, state, features[rows], labels[rows])
        on_step(batches + epoch + 1, total, float(loss))
    kernel = np.asarray(params["kernel"]) / deviation[:, None]
    return kernel, np.asarray(params["bias"]) - mean @ kernel


def _standardise(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes off the mean and divides by the deviation, in place; returns both.

    A feature that does not vary beyond rounding is left at zero: its errors, blown up, would get large weights.
    """
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    features -= mean
    deviation = np.sqrt(np.square(features).mean(0, dtype=np.float64)).astype(np.float32)
    deviation = np.where(deviation > 1e-5 * np.abs(mean), deviation, np.inf)
    features /= deviation
    return mean, deviation


def _features(
    model: Any, domain: Domain, reading: Reading, on_batch: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """All features, float32 `(n, features)`, and labels."""
    graph, state = nnx.split(model)
    compute = jax.jit(lambda state, images: nnx.merge(graph, state).features(images).astype(jnp.float32))
    parts, labels = [], []
    for done, batch in enumerate(eval_batches(domain, _BATCH_SIZE, reading=reading), start=1):
        real = batch["weight"] > 0
        parts.append(np.asarray(compute(state, batch["image"]))[real])
        labels.append(batch["label"][real])
        on_batch(done)
    return np.concatenate(parts), np.concatenate(labels)
