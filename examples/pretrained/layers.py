"""Layers of all families. Their initial values are never used: models are built in the abstract, filled from files."""

from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx

__all__ = ["BaseBlock", "conv", "layer_norm", "linear", "through"]


class BaseBlock(nnx.Module):
    """A block of a deep model. While `remat` is set, its inside is computed again in the backward pass, not kept."""

    remat: bool = False


def through(blocks: Iterable[Any], x: jax.Array, *args: Any) -> jax.Array:
    """What comes out of the last block: each is called with the output of that before it, and all with `args`."""
    for block in blocks:
        x = _again(block, x, *args) if block.remat else block(x, *args)
    return x


@nnx.remat
def _again(block: Any, x: jax.Array, *args: Any) -> jax.Array:
    return block(x, *args)


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nnx.Linear:
    """A dense layer."""
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))


def conv(
    inputs: int, outputs: int, size: tuple[int, int], *, stride: tuple[int, int], padding: int = 0, bias: bool = True
) -> nnx.Conv:
    """A convolution, padded with this many zeros on each side as torch does it."""
    return nnx.Conv(
        inputs, outputs, size, strides=stride, padding=padding, use_bias=bias,
        kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0),
    )  # fmt: skip


def layer_norm(width: int, epsilon: float) -> nnx.LayerNorm:
    """Layer normalisation of the last axis, its variance computed in two passes as torch does it."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=nnx.Rngs(0))
