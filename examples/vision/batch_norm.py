"""Batch normalisation for fine-tuning: the pre-trained statistics stay."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class FrozenBatchNorm(nnx.Module):
    """Batch normalisation by the pre-trained statistics; scale and bias are trained.

    `nnx.BatchNorm` would switch to batch statistics at `model.train()`. Fine-tuning on small
    batches of another domain must not: the statistics belong to the pre-trained features.

    Args:
        channels: of the last axis.
        epsilon: added to the variance.
        dtype: of scale and bias; the statistics are float32.
    """

    def __init__(self, channels: int, *, epsilon: float, dtype: jax.typing.DTypeLike = jnp.float32) -> None:
        self.epsilon = epsilon
        self.scale = nnx.Param(jax.device_put(np.ones(channels, dtype)))
        self.bias = nnx.Param(jax.device_put(np.zeros(channels, dtype)))
        self.mean = nnx.BatchStat(jax.device_put(np.zeros(channels, np.float32)))
        self.var = nnx.BatchStat(jax.device_put(np.ones(channels, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean, var = jax.lax.stop_gradient((self.mean[...], self.var[...]))
        # Folded to one multiply-add in float32, so that bfloat16 rounds the result only.
        factor = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (self.bias[...] - mean * factor)).astype(x.dtype)
