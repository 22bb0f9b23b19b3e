"""Large batches on a small device, with `optax.MultiSteps` and with `optax.microbatch`.

    python examples/accumulate.py [--smallest]

`MultiSteps` wraps the whole method, so the method gets one gradient per large batch. `microbatch` splits the large
batch inside the function that computes the gradient. Both give the method the same gradients.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ftp_optax import ftp, radii
from recipes import show
from recipes.digits import BATCH_SIZE, Digits
from vision.data import Example
from with_pytrees import Params, apply, init

PARTS = 4
SMALL = BATCH_SIZE // PARTS

Gradient = Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, Params]]


def loss_fn(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, images), labels).mean()


def in_parts(batches: Iterator[Example]) -> Iterator[Example]:
    """Each batch, split into small ones."""
    for batch in batches:
        for part in range(PARTS):
            yield {name: column[part * SMALL : (part + 1) * SMALL] for name, column in batch.items()}


def train(tx: Any, value_and_grad: Gradient, params: Params, batches: Iterator[Example]) -> tuple[Params, Any]:
    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
        _, grads = value_and_grad(params, batch["image"], batch["label"])
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, params)  # the step donates its arguments
    opt_state = tx.init(params)
    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state


def main(*, smallest: bool = False) -> None:
    """Trains on the same large batches: whole, with `MultiSteps` and with `microbatch`.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    whole = jax.value_and_grad(loss_fn)
    pretrained, _ = train(optax.adam(1e-3), whole, init(jax.random.key(0)), digits.pretraining())
    tx = ftp(optax.sgd(1e-2, momentum=0.9))
    mean = optax.microbatching.AccumulationType.MEAN
    cut = optax.microbatch(whole, argnums=(1, 2), microbatch_size=SMALL, accumulator=mean)

    results = {
        "whole": train(tx, whole, pretrained, digits.fine_tuning()),
        "MultiSteps": train(optax.MultiSteps(tx, PARTS), whole, pretrained, in_parts(digits.fine_tuning())),
        "microbatch": train(tx, cut, pretrained, digits.fine_tuning()),
    }
    expected, rows = results["whole"][0], []
    for name, (params, state) in results.items():
        gaps = jax.tree.map(lambda new, old: float(np.abs(np.subtract(new, old)).max()), params, expected)
        greatest = max(radii(state, params).values())
        rows.append((name, digits.score(partial(apply, params)).loss, greatest, max(jax.tree.leaves(gaps))))
    before = digits.score(partial(apply, pretrained)).loss
    header = ("batch", "training loss", "greatest radius", "difference of any weight from whole")
    show.table(f"{PARTS} x {SMALL} images, training loss {before:.4g} before", header, rows)


if __name__ == "__main__":
    tyro.cli(main)
