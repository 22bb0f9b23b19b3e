"""Plain pytrees: a network that is a nested dict of arrays, and one training step for all methods.

    python examples/with_pytrees.py [--smallest]

It compares three methods from the same pre-trained weights. `digrap` may learn to remove nothing.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from ftp_optax import digrap, ftp, strengths
from recipes import show
from recipes.digits import Digits, pixels
from vision.data import Example

Params = Any
"""A nested dict: `params["head"]["kernel"]` is an array."""


@jax.jit
def init(key: jax.Array) -> Params:
    sizes = {"first": (768, 128), "second": (128, 128), "head": (128, 10)}
    kernel = jax.nn.initializers.he_normal()
    keys = jax.random.split(key, len(sizes))
    return {
        name: {"kernel": kernel(k, shape), "bias": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, sizes.items(), strict=True)
    }


def apply(params: Params, images: jax.Array) -> jax.Array:
    x = pixels(images)
    for name in ("first", "second"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def train(tx: optax.GradientTransformation, params: Params, batches: Iterable[Example]) -> tuple[Params, Any]:
    # Arguments and results have the same order, and the first two are donated. So XLA updates both in place and does
    # not copy the anchor in the optimizer state.
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
        def loss_fn(params: Params) -> jax.Array:
            logits = apply(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, params)  # donation would destroy the caller's arrays
    opt_state = tx.init(params)
    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state


def main(*, smallest: bool = False) -> None:
    """Fine-tunes one small network with every method.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    pretrained, _ = train(optax.adam(1e-3), init(jax.random.key(0)), digits.pretraining())

    base = optax.adamw(1e-3)
    methods = {
        "plain": base,
        "ftp": ftp(base),
        "digrap": optax.chain(digrap(), base),
    }
    params, states = {"pre-trained": pretrained}, {}
    for name, tx in methods.items():
        params[name], states[name] = train(tx, pretrained, digits.fine_tuning())

    show.scores({name: digits.score(partial(apply, tuned)) for name, tuned in params.items()})
    show.balls(params["ftp"], states["ftp"], params["plain"], pretrained)
    learned = strengths(states["digrap"], params["digrap"])
    show.table("Layers under digrap", ("layer", "strength"), [(path, float(s)) for path, s in learned.items()])


if __name__ == "__main__":
    tyro.cli(main)
