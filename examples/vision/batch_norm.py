"""Batch normalisation for fine-tuning: the pre-trained statistics stay, or follow the training images."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class BatchNorm(nnx.Module):
    """Batch normalisation by running statistics; while it is `live`, by the batch's own, which move the running ones.

    It is not live unless asked, whatever `model.train()` says: the statistics belong to the pre-trained features, and
    small batches of another domain are a poor estimate. Live ones are as in torch: the batch's variance is the biased
    one, what the running one moves to is unbiased.

    Args:
        channels: of the last axis.
        epsilon: added to the variance.
        momentum: share of the batch's statistics in the running ones.
        dtype: of scale and bias; the statistics are float32.
    """

    STATISTICS: ClassVar = ("mean", "var")
    live: bool = False

    def __init__(
        self, channels: int, *, epsilon: float, momentum: float = 0.1, dtype: jax.typing.DTypeLike = jnp.float32
    ) -> None:
        self.epsilon, self.momentum = epsilon, momentum
        self.scale = nnx.Param(jax.device_put(np.ones(channels, dtype)))
        self.bias = nnx.Param(jax.device_put(np.zeros(channels, dtype)))
        self.mean = nnx.BatchStat(jax.device_put(np.zeros(channels, np.float32)))
        self.var = nnx.BatchStat(jax.device_put(np.ones(channels, np.float32)))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean, var = self._follow(x) if self.live else jax.lax.stop_gradient((self.mean[...], self.var[...]))
        # Folded to one multiply-add in float32, so that bfloat16 rounds the result only.
        factor = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return (x * factor + (self.bias[...] - mean * factor)).astype(x.dtype)

    def _follow(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The batch's mean and variance, after moving the running ones towards them."""
        x = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        mean, var = x.mean(axes), x.var(axes)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            running[...] += self.momentum * (jax.lax.stop_gradient(batch) - running[...])
        return mean, var
