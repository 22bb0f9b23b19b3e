"""Two networks that give every pixel a class and say whether a boundary runs there.

Both answer two questions a pixel, `(n, height, width, 2, classes)`: which class, and whether boundary (1) or not (0).
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

from vision.efficientnet import STAGES, EfficientNetLite0, load_imagenet

_NEVER = -1e9
WIDTH = 48  # of the decoder at strides 4 to 32, in channels

_FINE_WIDTH = 16  # at stride 2


def _tapped() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The last block at each stride from 2 to 32, and its channels."""
    blocks, channels, last = [], [], -1
    for stage, following in zip(STAGES, (*STAGES[1:], None), strict=True):
        last += stage.repeats
        if following is None or following.stride == 2:
            blocks.append(last)
            channels.append(stage.channels)
    return tuple(blocks), tuple(channels)


_TAPS, _TAP_CHANNELS = _tapped()


class Decoder(nnx.Module):
    """A feature pyramid: 1x1 laterals, added from coarse to fine, and 3x3 convolutions at strides 4 and 2."""

    def __init__(self, channels: Sequence[int], num_classes: int, width: int, fine_width: int, seed: int) -> None:
        generator = np.random.default_rng(seed)

        def conv(inputs: int, outputs: int, size: int, gain: float = 1.0) -> nnx.Conv:
            deviation = math.sqrt(gain / (size * size * inputs))
            draw = lambda key, shape, dtype: jnp.asarray(deviation * generator.standard_normal(shape), dtype)
            return nnx.Conv(inputs, outputs, (size, size), kernel_init=draw, rngs=nnx.Rngs(0))

        finest, *coarser = channels
        self.laterals = nnx.List([conv(inputs, width, 1) for inputs in coarser])
        self.mix = conv(width, width, 3, 2.0)
        self.down = conv(width, fine_width, 1)
        self.fine_lateral = conv(finest, fine_width, 1)
        self.fine_mix = conv(fine_width, fine_width, 3, 2.0)
        self.out = conv(fine_width, num_classes + 2, 1, 0.01)  # small: the first answers are even

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


class _Decoded(nnx.Module):
    """Features of a network, and a decoder (`head`) of them."""

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `(n, side, side, 2, classes)` of images `(n, side, side, 3)` of 0..255."""
        own: Any = self
        return own.head(own.features(images), images.shape[1])


class SceneNet(_Decoded):
    """EfficientNet-Lite0 of ImageNet without its classifier, and a fresh decoder."""

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        self.backbone = EfficientNetLite0(1, seed=seed)
        load_imagenet(self.backbone)
        for unused in ("top", "top_norm", "head"):  # of the classifier
            delattr(self.backbone, unused)
        self.head = Decoder(_TAP_CHANNELS, num_classes, WIDTH, _FINE_WIDTH, seed)

    def features(self, images: jax.Array) -> list[jax.Array]:
        """What the decoder is given, finest first."""
        net = self.backbone
        x = (images.astype(jnp.float32) - 127.0) / 128.0
        x = nnx.relu6(net.stem_norm(net.stem(x)))
        taps = []
        for index, block in enumerate(net.blocks):
            x = block(x)
            if index in _TAPS:
                taps.append(x)
        return taps


class SmallSceneNet(_Decoded):
    """Two strided convolutions and the same decoder, for scenes of digits: 30 thousand parameters."""

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Conv(3, 16, (3, 3), strides=2, rngs=rngs)
        self.body = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = Decoder((16, 32), num_classes, 32, 16, seed)

    def features(self, images: jax.Array) -> list[jax.Array]:
        """What the decoder is given, finest first."""
        fine = nnx.relu(self.stem(images.astype(jnp.float32) / 127.5 - 1))
        return [fine, nnx.relu(self.body(fine))]


def _unit(x: jax.Array) -> jax.Array:
    """Features of every pixel at root mean square 1: a backbone's differ in size from stage to stage."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def _doubled(x: jax.Array) -> jax.Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)
