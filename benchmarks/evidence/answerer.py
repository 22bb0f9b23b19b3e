"""A network that answers questions about pictures: a vision tower, a reader of words, and a fusion of both.

A tower is a vision network whose features, so many `channels`, are kept by place: 4x4 cells.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from evidence.scene_nets import EfficientNetStages, SmallStages
from evidence.wordings import LENGTH
from vision.efficientnet import TOP_CHANNELS, EfficientNetLite0

_PLACES = 4  # rows and columns of cells
_HEADS = 4


class EfficientNetTower(EfficientNetStages):
    """EfficientNet-Lite0 headless: at 64 pixels 4x4 cells of 112 channels, and for each 2x2 of them one of 1280."""

    channels = EfficientNetStages.widths[-2] + TOP_CHANNELS

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__(network)
        self.top, self.top_norm = network.top, network.top_norm

    def __call__(self, images: jax.Array) -> jax.Array:
        """Cells `(n, 16, channels)` of uint8 images `(n, 64, 64, 3)`."""
        *_, fine, last = self.stages(images)
        coarse = nnx.relu6(self.top_norm(self.top(last)))
        return _cells(jnp.concatenate([fine, coarse.repeat(2, axis=1).repeat(2, axis=2)], axis=-1))


class SmallTower(SmallStages):
    """For runs of seconds: 8x8 places of 32-pixel images, averaged to 4x4 cells."""

    channels = SmallStages.widths[-1]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Cells `(n, 16, channels)` of uint8 images `(n, 32, 32, 3)`."""
        return _cells(nnx.avg_pool(self.stages(images)[-1], (2, 2), (2, 2)))


class _Init:
    """Initial weights drawn by NumPy: jax.random would compile a program for each shape."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, shape: Sequence[int], scale: float) -> jax.Array:
        return jax.device_put((scale * self._generator.standard_normal(shape)).astype(np.float32))

    def kernel(self, inputs: int) -> Any:
        """An initializer for a layer of so many inputs: variance 1 / inputs."""
        return lambda key, shape, dtype, *_: self.normal(shape, 1 / math.sqrt(inputs))

    def linear(self, inputs: int, outputs: int) -> nnx.Linear:
        return nnx.Linear(inputs, outputs, kernel_init=self.kernel(inputs), rngs=nnx.Rngs(0))


class _Block(nnx.Module):
    """A transformer block, norms first."""

    def __init__(self, width: int, draw: _Init) -> None:
        rngs = nnx.Rngs(0)
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(_HEADS, width, decode=False, kernel_init=draw.kernel(width), rngs=rngs)
        self.up, self.down = draw.linear(width, 2 * width), draw.linear(2 * width, width)

    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=real[:, None, None, :])
        return x + self.down(nnx.relu(self.up(self.norm2(x))))


class Answerer(nnx.Module):
    """Reads the question, then attends to its words and the picture's cells in one sequence, then answers."""

    def __init__(self, tower: Any, num_words: int, num_answers: int, *, width: int, depth: int, seed: int = 0) -> None:
        draw, rngs = _Init(seed), nnx.Rngs(0)
        embedding_init = lambda key, shape, dtype: draw.normal(shape, 0.1)
        self.tower = tower
        self.look = draw.linear(tower.channels, width)
        self.places = nnx.Param(draw.normal((_PLACES**2, width), 0.1))
        self.words = nnx.Embed(num_words + 1, width, embedding_init=embedding_init, rngs=rngs)
        self.order = nnx.Param(draw.normal((LENGTH, width), 0.1))
        self.reader = _Block(width, draw)
        self.fusion = nnx.List([_Block(width, draw) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = draw.linear(width, num_answers)

    def __call__(self, seen: Mapping[str, jax.Array]) -> jax.Array:
        """Logits `(n, questions, num_answers)` of `pixels` `(n, side, side, 3)`, `words` `(n, questions, LENGTH)`."""
        count, questions = seen["words"].shape[:2]
        tokens = seen["words"].reshape(count * questions, LENGTH)
        real = tokens > 0
        read = self.reader(self.words(tokens) + self.order[...], real)
        viewed = jnp.repeat(self.look(self.tower(seen["pixels"])) + self.places[...], questions, axis=0)
        both = jnp.concatenate([read, viewed], axis=1)
        valid = jnp.concatenate([real, jnp.ones(viewed.shape[:2], bool)], axis=1)
        for block in self.fusion:
            both = block(both, valid)
        last = self.norm(both[:, :LENGTH])
        fused = (last * real[..., None]).sum(1) / jnp.maximum(real.sum(1), 1)[:, None]  # the mean of the words
        return self.head(fused.reshape(count, questions, -1))


def _cells(features: jax.Array) -> jax.Array:
    return features.reshape(features.shape[0], _PLACES**2, features.shape[-1])
