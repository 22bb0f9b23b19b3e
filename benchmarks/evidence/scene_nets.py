"""A network that gives every pixel a class and says whether a boundary runs there, on either of two backbones.

It answers two questions a pixel, `(n, height, width, 2, classes)`: which class, and whether boundary (1) or not (0).
The second has but two answers; the others have a logit of minus a billion. So one softmax loss serves both, and the
training of the classification benchmark does for this one.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.efficientnet import EfficientNetLite0

_NEVER = -1e9
_WIDTH, _FINE_WIDTH = 48, 16  # channels of the decoder at strides 4 to 32, and at stride 2
_TAPS = {0: 16, 2: 24, 4: 40, 10: 112, 15: 320}  # channels of EfficientNet-Lite0's last block at each stride, 2 to 32


class EfficientNetStages(nnx.Module):
    """EfficientNet-Lite0 without its classifier: what it has at each stride from 2 to 32."""

    widths = tuple(_TAPS.values())

    def __init__(self, network: EfficientNetLite0) -> None:
        self.stem, self.stem_norm, self.blocks = network.stem, network.stem_norm, network.blocks

    def stages(self, images: jax.Array) -> list[jax.Array]:
        """Features of images of 0..255, finest first."""
        x = nnx.relu6(self.stem_norm(self.stem((images.astype(jnp.float32) - 127.0) / 128.0)))
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                found.append(x)
        return found


class SmallStages(nnx.Module):
    """Two strided convolutions, for runs of seconds."""

    widths = (16, 32)

    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.body = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)

    def stages(self, images: jax.Array) -> list[jax.Array]:
        """Features of images of 0..255, finest first."""
        fine = nnx.relu(self.stem(images.astype(jnp.float32) / 127.5 - 1))
        return [fine, nnx.relu(self.body(fine))]


class Decoder(nnx.Module):
    """A feature pyramid: 1x1 laterals, added from coarse to fine, and 3x3 convolutions at strides 4 and 2."""

    def __init__(self, channels: Sequence[int], num_classes: int, seed: int) -> None:
        generator = np.random.default_rng(seed)

        def conv(inputs: int, outputs: int, size: int, gain: float = 1.0) -> nnx.Conv:
            deviation = math.sqrt(gain / (size * size * inputs))
            draw = lambda key, shape, dtype: jnp.asarray(deviation * generator.standard_normal(shape), dtype)
            return nnx.Conv(inputs, outputs, (size, size), kernel_init=draw, rngs=nnx.Rngs(0))

        finest, *coarser = channels
        self.laterals = nnx.List([conv(inputs, _WIDTH, 1) for inputs in coarser])
        self.mix = conv(_WIDTH, _WIDTH, 3, 2.0)
        self.down = conv(_WIDTH, _FINE_WIDTH, 1)
        self.fine_lateral = conv(finest, _FINE_WIDTH, 1)
        self.fine_mix = conv(_FINE_WIDTH, _FINE_WIDTH, 3, 2.0)
        self.out = conv(_FINE_WIDTH, num_classes + 2, 1, 0.01)  # small: the first answers are even

    def __call__(self, features: Sequence[jax.Array], side: int) -> jax.Array:
        """Logits `(n, side, side, 2, classes)` from the features, finest first."""
        finest, *coarser = features
        *upper, x = [lateral(_unit(feature)) for lateral, feature in zip(self.laterals, coarser, strict=True)]
        for lateral in reversed(upper):
            x = lateral + _doubled(x)[:, : lateral.shape[1], : lateral.shape[2]]
        x = nnx.relu(self.mix(nnx.relu(x)))
        x = nnx.relu(self.fine_lateral(_unit(finest)) + _doubled(self.down(x)))
        x = self.out(nnx.relu(self.fine_mix(x)))
        x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "linear").astype(jnp.float32)
        classes, boundary = x[..., :-2], x[..., -2:]
        unused = jnp.full((*boundary.shape[:-1], classes.shape[-1] - 2), _NEVER)
        return jnp.stack([classes, jnp.concatenate([boundary, unused], axis=-1)], axis=-2)


class SceneNet(nnx.Module):
    """A backbone, and a decoder (`head`) of its stages."""

    def __init__(self, backbone: Any, num_classes: int, seed: int = 0) -> None:
        self.backbone = backbone
        self.head = Decoder(backbone.widths, num_classes, seed)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `(n, side, side, 2, classes)` of images `(n, side, side, 3)` of 0..255."""
        return self.head(self.backbone.stages(images), images.shape[1])


def _unit(x: jax.Array) -> jax.Array:
    """Features of every pixel at root mean square 1: a backbone's differ in size from stage to stage."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def _doubled(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)
