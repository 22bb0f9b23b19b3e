"""ResNet (He et al. 2016): basic blocks and bottlenecks, v1 and v1.5."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from pretrained.activations import ACTIVATIONS
from pretrained.layers import BaseBlock, conv, through
from pretrained.transformer import Outputs
from vision.batch_norm import BatchNorm

__all__ = ["ResNet", "ResNetConfig"]


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet.

    Attributes:
        stem: Channels before the first stage.
        widths: Channels after each stage.
        depths: Blocks in each stage.
        bottleneck: Whether a block is 1x1, 3x3 with a quarter of the channels, 1x1; or 3x3 twice.
        activation: A name in `ACTIVATIONS`, of the stem and at each block's end.
        inner_activation: Likewise, between a block's convolutions.
        first_stride: Of the first stage; all others halve the map.
        stride_first: A bottleneck has its stride in the first 1x1 (v1), not in the 3x3 (v1.5).
        pooled_axes: Whether `pooled` keeps the axes of height and width, of size 1.
    """

    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottleneck: bool
    activation: str = "relu"
    inner_activation: str = "relu"
    first_stride: int = 1
    stride_first: bool = False
    pooled_axes: bool = False


class ConvNorm(nnx.Module):
    """A square convolution without bias, and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        self.conv = conv(inputs, outputs, (size, size), stride=(stride, stride), padding=size // 2, bias=False)
        self.norm = BatchNorm(outputs, epsilon=1e-5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Block(BaseBlock):
    """Two or three convolutions, added to the input; a 1x1 on the input where its shape is another."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: ResNetConfig) -> None:
        self.activation, self.inner_activation = config.activation, config.inner_activation
        if config.bottleneck:
            inner = outputs // 4
            first, second = (stride, 1) if config.stride_first else (1, stride)
            convs = [ConvNorm(inputs, inner, 1, first), ConvNorm(inner, inner, 3, second), ConvNorm(inner, outputs, 1)]
        else:
            convs = [ConvNorm(inputs, outputs, 3, stride), ConvNorm(outputs, outputs, 3)]
        self.convs = nnx.List(convs)
        if inputs != outputs or stride != 1:
            self.shortcut = ConvNorm(inputs, outputs, 1, stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        *convs, last = self.convs
        y = x
        for conv_norm in convs:
            y = ACTIVATIONS[self.inner_activation](conv_norm(y))
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        return ACTIVATIONS[self.activation](last(y) + shortcut)


class ResNet(nnx.Module):
    """A 7x7 stem, a maximum pooling, and stages of blocks."""

    def __init__(self, config: ResNetConfig) -> None:
        self.config = config
        self.stem = ConvNorm(3, config.stem, 7, 2)
        stages, inputs = [], config.stem
        for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stride = 2 if index else config.first_stride
            first = Block(inputs, width, stride, config)
            stages.append(nnx.List([first, *(Block(width, width, 1, config) for _ in range(depth - 1))]))
            inputs = width
        self.stages = nnx.List(stages)

    def __call__(self, pixels: jax.Array) -> Outputs:
        """The last map `(n, channels, height, width)` and its mean, of normalised images `(n, height, width, 3)`."""
        x = self._map(pixels)
        pooled = x.mean((1, 2), keepdims=True).transpose(0, 3, 1, 2)
        return Outputs(x.transpose(0, 3, 1, 2), pooled if self.config.pooled_axes else pooled[:, :, 0, 0])

    def features(self, pixels: jax.Array) -> jax.Array:
        """What a classifier reads, `(n, features)`."""
        return self._map(pixels).mean((1, 2))

    def project(self, pooled: jax.Array | None) -> None:
        """None: there is no projection."""
        del pooled

    def _map(self, pixels: jax.Array) -> jax.Array:
        x = ACTIVATIONS[self.config.activation](self.stem(pixels))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
        for stage in self.stages:
            x = through(stage, x)
        return x
