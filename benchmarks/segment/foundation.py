"""The foundation model for scenes: a decoder trained on what a backbone that stays as it is sees in them.

Trained as a whole on the few scenes there are, the network found the objects but not their classes. The backbone knows
the classes already; the decoder learns to say where they are, which asks for larger steps than the backbone would
survive. What the backbone sees in the scenes does not change meanwhile, and is computed once.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robust.training import OnStep, in_batches
from vision.data import ArrayDomain
from vision.networks import Network, Params

__all__ = ["trained_decoder"]

_BATCH_SIZE = 24
_RATE = 5e-3
_SEEN_AT_ONCE = 96  # scenes


def trained_decoder(
    network: Network, params: Params, scenes: ArrayDomain, steps: int, seed: int, on_step: OnStep | None = None
) -> Params:
    """Trains the decoder, `head`, by AdamW with warm-up and cosine decay.

    Args:
        network: The fixed part of a model with `features` and `head`.
        params: Its parameters; left untouched.
        scenes: What to train on.
        steps: How long.
        seed: Of the order of the scenes.
        on_step: Progress.

    Returns:
        The parameters with the trained decoder.
    """
    see = jax.jit(lambda images: network.model(params).features(images))
    seen, side = in_batches(see, scenes.images, _SEEN_AT_ONCE), scenes.images.shape[1]
    rate = optax.warmup_cosine_decay_schedule(0.0, _RATE, max(1, steps // 10), max(2, steps))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.0))

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(head: Params, state: Any, features: list[jax.Array], labels: jax.Array) -> tuple[Params, Any, jax.Array]:
        def loss(head: Params) -> jax.Array:
            logits = network.model({**params, "head": head}).head(features, side)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(head)
        updates, state = tx.update(grads, state, head)
        return optax.apply_updates(head, updates), state, value

    head = jax.tree.map(jnp.copy, params["head"])
    state, order = tx.init(head), np.random.default_rng(seed)
    for done in range(1, steps + 1):
        drawn = order.choice(len(scenes), min(_BATCH_SIZE, len(scenes)), replace=False)
        head, state, value = update(head, state, [level[drawn] for level in seen], scenes.labels[drawn])
        if on_step is not None:
            on_step(done, steps, float(value))
    return {**params, "head": head}
