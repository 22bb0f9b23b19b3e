"""Layers of all families. Their initial values are never used: models are built in the abstract, filled from files."""

from flax import nnx

__all__ = ["conv", "layer_norm", "linear"]


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
