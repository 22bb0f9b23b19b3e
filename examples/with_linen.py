"""Flax linen: pass the method to `TrainState` like any optimizer.

    python examples/with_linen.py [--smallest]

The parameters that you give to `TrainState.create` are the anchor.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import tyro
from flax.training.train_state import TrainState

from ftp_optax import ftp
from recipes import show
from recipes.digits import Digits, pixels
from vision.data import Example


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = pixels(images)
        for _ in range(2):
            x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(10, name="head")(x)


@partial(jax.jit, donate_argnums=0)
def step(state: TrainState, batch: Example) -> TrainState:
    def loss_fn(params: Any) -> jax.Array:
        logits = state.apply_fn({"params": params}, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    return state.apply_gradients(grads=jax.grad(loss_fn)(state.params))


def train(module: nn.Module, tx: optax.GradientTransformation, params: Any, batches: Iterable[Example]) -> TrainState:
    # a copy, because the step donates its arguments; the anchor is the argument of `create`
    state = TrainState.create(apply_fn=module.apply, params=jax.tree.map(jnp.copy, params), tx=tx)
    for batch in batches:
        state = step(state, batch)
    return state


def main(*, smallest: bool = False) -> None:
    """Pre-trains a linen network, then fine-tunes it without and with `ftp`.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits, module = Digits.load(smallest), Classifier()
    params = jax.jit(module.init)(jax.random.key(0), digits.task.train[0]["image"][None])["params"]
    pretrained = train(module, optax.adam(1e-3), params, digits.pretraining()).params

    plain = train(module, optax.adamw(1e-3), pretrained, digits.fine_tuning())
    tuned = train(module, ftp(optax.adamw(1e-3)), pretrained, digits.fine_tuning())

    weights = {"pre-trained": pretrained, "plain": plain.params, "ftp": tuned.params}
    show.scores({name: digits.score(partial(tuned.apply_fn, {"params": params})) for name, params in weights.items()})
    show.balls(tuned.params, tuned.opt_state, plain.params, pretrained)


if __name__ == "__main__":
    tyro.cli(main)
