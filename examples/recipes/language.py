"""A small character language model with scanned layers, and two texts that come with Python."""

import codecs
import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from pydoc_data import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["Params", "Texts", "init", "load_texts", "logits", "loss", "train", "windows"]

Params = Any
"""`embedding`, `head` and `blocks`. The first axis of every leaf of `blocks` is the layer."""

CHARACTERS = 96  # the printable characters of ASCII, and one number for all others
CONTEXT, WIDTH, HEADS, LAYERS = 48, 64, 4, 4


class Texts(NamedTuple):
    """The texts as integers.

    Attributes:
        manual: The language reference that `help()` shows, for the pre-training.
        manual_held_out: Its last part, which measures forgetting.
        zen: The Zen of Python, for the fine-tuning.
    """

    manual: np.ndarray
    manual_held_out: np.ndarray
    zen: np.ndarray


def load_texts() -> Texts:
    """Both texts, from the standard library."""
    with contextlib.redirect_stdout(io.StringIO()):  # importing `this` prints it
        import this
    manual = _encode(" ".join(" ".join(topics.topics[name].split()) for name in sorted(topics.topics)))
    return Texts(manual[:-10_000], manual[-10_000:], _encode(" ".join(codecs.decode(this.s, "rot13").split())))


def _encode(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32) - 32
    return np.where((codes >= 0) & (codes < CHARACTERS - 1), codes, CHARACTERS - 1)


def windows(text: np.ndarray, steps: int, batch_size: int = 8) -> Iterator[np.ndarray]:
    """Random parts of a text, `(batch, CONTEXT + 1)`."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        starts = rng.integers(0, len(text) - CONTEXT, batch_size)
        yield text[starts[:, None] + np.arange(CONTEXT + 1)]


@jax.jit
def init(key: jax.Array) -> Params:
    """Parameters of an untrained model."""
    normal = lambda index, *shape: jax.random.normal(jax.random.fold_in(key, index), shape) / shape[-2] ** 0.5
    return {
        "embedding": {"embedding": normal(0, CHARACTERS, WIDTH)},
        "position": {"embedding": normal(1, CONTEXT, WIDTH)},
        "blocks": {
            "qkv": {"kernel": normal(2, LAYERS, WIDTH, 3 * WIDTH)},
            "out": {"kernel": normal(3, LAYERS, WIDTH, WIDTH)},
            "up": {"kernel": normal(4, LAYERS, WIDTH, 2 * WIDTH)},
            "down": {"kernel": normal(5, LAYERS, 2 * WIDTH, WIDTH)},
        },
        "head": {"kernel": normal(6, WIDTH, CHARACTERS)},
    }


def logits(params: Params, tokens: jax.Array) -> jax.Array:
    """Scores of the next character after each of `tokens (batch, CONTEXT)`."""

    def block(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
        heads = jnp.split((_normalized(x) @ layer["qkv"]["kernel"]).reshape(*x.shape[:2], HEADS, -1), 3, axis=-1)
        x += jax.nn.dot_product_attention(*heads, is_causal=True).reshape(x.shape) @ layer["out"]["kernel"]
        return x + jax.nn.gelu(_normalized(x) @ layer["up"]["kernel"]) @ layer["down"]["kernel"], None

    x = params["embedding"]["embedding"][tokens] + params["position"]["embedding"]
    # One traced block serves all layers, so the compile time does not depend on their number.
    x, _ = jax.lax.scan(block, x, params["blocks"])
    return _normalized(x) @ params["head"]["kernel"]


def _normalized(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


@jax.jit
def loss(params: Params, pieces: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next character."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, pieces[:, :-1]), pieces[:, 1:]).mean()


def train(
    tx: optax.GradientTransformation,
    params: Any,
    pieces: Iterator[np.ndarray],
    loss_fn: Callable[[Any, jax.Array], jax.Array] = loss,
) -> tuple[Any, Any]:
    """Trains. Returns the parameters and the optimizer state."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, batch: jax.Array) -> tuple[Any, Any]:
        updates, opt_state = tx.update(jax.grad(loss_fn)(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, params)  # the step donates its arguments
    opt_state = tx.init(params)
    for batch in pieces:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state
