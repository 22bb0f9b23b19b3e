"""Activation functions by the names that configuration files have for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["ACTIVATIONS"]


def _exact_gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * nnx.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _exact_gelu,
    "gelu_python": _exact_gelu,
    "gelu_accurate": nnx.gelu,
    "gelu_fast": nnx.gelu,
    "gelu_new": nnx.gelu,
    "gelu_python_tanh": nnx.gelu,
    "gelu_pytorch_tanh": nnx.gelu,
    "hardswish": nnx.hard_swish,
    "leaky_relu": nnx.leaky_relu,
    "linear": lambda x: x,
    "mish": lambda x: x * jnp.tanh(nnx.softplus(x)),
    "quick_gelu": _quick_gelu,
    "relu": nnx.relu,
    "relu2": lambda x: nnx.relu(x) ** 2,
    "relu6": nnx.relu6,
    "sigmoid": nnx.sigmoid,
    "silu": nnx.silu,
    "swish": nnx.silu,
    "tanh": jnp.tanh,
}
"""By name; gelu is the exact one, with the error function, unless its name says that it is the one with tanh."""
