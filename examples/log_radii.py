"""Log radii, strengths and drift every few steps from inside the jitted loop: `jax.debug.callback` under `lax.cond`.

    python examples/log_radii.py [--smallest]

The whole training is one compiled program. It calls back when there are values to log, and does not wait for them.
At the end it prints a table that shows which layers are at their radius.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from sklearn.datasets import load_digits

from ftp_optax import drift, ftp, layer_table, radii
from recipes import show

Log = list[tuple[str, float, float, float, float]]


def pixels(*, inverted: bool) -> tuple[jax.Array, jax.Array]:
    """scikit-learn's handwritten digits, black on white or white on black."""
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images / 16, jnp.float32)
    return 1 - images if inverted else images, jnp.asarray(labels)


def logits(params: Any, images: jax.Array) -> jax.Array:
    """Two dense layers."""
    return jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"]) @ params["head"]["kernel"]


def train(
    params: Any,
    tx: optax.GradientTransformation,
    images: jax.Array,
    labels: jax.Array,
    steps: int,
    every: int,
    log: Log,
) -> tuple[Any, Any]:
    """All steps in one `lax.scan`. Every few steps it sends the values of the step to the host."""

    def note(step: np.ndarray, loss: np.ndarray, learned: dict[str, np.ndarray], away: dict[str, np.ndarray]) -> None:
        values = [float(x) for x in learned.values()]
        log.append((str(int(step)), float(loss), min(values), max(values), float(sum(away.values()))))

    def step(carry: tuple[Any, Any], at: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, Any], None]:
        (params, state), (number, batch) = carry, at
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(logits(p, images[batch]), labels[batch]).mean()
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        numbers = number, value, radii(state, params), drift(state, params)
        tell = functools.partial(jax.debug.callback, note, *numbers, ordered=True)
        jax.lax.cond(number % every == 0, tell, lambda: None)
        return (params, state), None

    batches = jax.random.randint(jax.random.key(0), (steps, 32), 0, len(labels))
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, (jnp.arange(1, steps + 1), batches))[0])
    return jax.block_until_ready(run((params, tx.init(params))))


def main(*, smallest: bool = False) -> None:
    """Pre-trains on digits, fine-tunes on inverted digits, and shows the radii during training.

    Args:
        smallest: A quick run, to test that the script works.
    """
    steps = 40 if smallest else 800
    rng = np.random.default_rng(0)
    shapes = {"hidden": {"kernel": (64, 64), "bias": (64,)}, "head": {"kernel": (64, 10)}}
    normal = lambda shape: jnp.asarray(rng.normal(size=shape) / np.sqrt(64), jnp.float32)
    start = jax.tree.map(normal, shapes, is_leaf=lambda x: isinstance(x, tuple))
    log: Log = []
    pretrained, _ = train(start, ftp(optax.adam(3e-3)), *pixels(inverted=False), steps, steps, [])
    tuned, state = train(pretrained, ftp(optax.adam(1e-3)), *pixels(inverted=True), steps, steps // 8, log)
    show.table("During training", ("step", "loss", "least radius", "greatest", "drift, all layers"), log)
    print("Which layers are at their radius")
    Console(width=100).print(layer_table(state, tuned))


if __name__ == "__main__":
    tyro.cli(main)
