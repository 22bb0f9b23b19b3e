"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from pretrained.activations import ACTIVATIONS
from pretrained.layers import BaseBlock, conv, layer_norm, linear, through
from pretrained.transformer import Outputs
from vision.depthwise import DepthwiseConv
from vision.errors import UserError

__all__ = ["ConvNeXt", "ConvNeXtConfig"]


@dataclass(frozen=True)
class ConvNeXtConfig:
    """A ConvNeXt.

    Attributes:
        widths: Channels in each stage.
        depths: Blocks in each stage.
        patch: Height and width of the stem's convolution, which is its stride too; every later stage halves the map.
        activation: A name in `ACTIVATIONS`.
        epsilon: Of the layer norms but the last.
        last_epsilon: Of the layer norm after the pooling.
        layer_scale: A factor for each channel of what a block adds.
        response_norm: Leading axes, of size 1, of the global response norm's parameters (V2); None for no such norm.
        hidden: Features of a dense layer with GELU between the pooling and the classifier; None for none.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    patch: tuple[int, int] = (4, 4)
    activation: str = "gelu"
    epsilon: float = 1e-6
    last_epsilon: float = 1e-6
    layer_scale: bool = True
    response_norm: tuple[int, ...] | None = None
    hidden: int | None = None


class GlobalResponseNorm(nnx.Module):
    """A channel is scaled by its norm over the map, relative to the mean of all channels'."""

    def __init__(self, width: int, leading: tuple[int, ...]) -> None:
        self.weight = nnx.Param(jnp.zeros((*leading, width)))
        self.bias = nnx.Param(jnp.zeros((*leading, width)))

    def __call__(self, x: jax.Array) -> jax.Array:
        squares = jnp.square(x).sum((1, 2), keepdims=True)
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)  # the gradient at 0 is 0
        relative = norms / (norms.mean(-1, keepdims=True) + 1e-6)
        return self.weight[...] * (x * relative) + self.bias[...] + x


class Block(BaseBlock):
    """A depthwise 7x7 and an MLP, added to the input."""

    def __init__(self, width: int, config: ConvNeXtConfig) -> None:
        self.config = config
        self.depthwise = DepthwiseConv(jnp.zeros((7, 7, 1, width)), 1, jnp.zeros(width))
        self.norm = layer_norm(width, config.epsilon)
        self.up = linear(width, 4 * width)
        if config.response_norm is not None:
            self.response_norm = GlobalResponseNorm(4 * width, config.response_norm)
        self.down = linear(4 * width, width)
        if config.layer_scale:
            self.layer_scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = ACTIVATIONS[self.config.activation](self.up(self.norm(self.depthwise(x))))
        if self.config.response_norm is not None:
            y = self.response_norm(y)
        y = self.down(y)
        return x + (self.layer_scale[...] * y if self.config.layer_scale else y)


class Stage(nnx.Module):
    """Blocks of one width; before them, in all stages but the first, a layer norm and a 2x2 convolution."""

    def __init__(self, inputs: int | None, width: int, depth: int, config: ConvNeXtConfig) -> None:
        self.halves = inputs is not None
        if inputs is not None:
            self.downsample_norm = layer_norm(inputs, config.epsilon)
            self.downsample = conv(inputs, width, (2, 2), stride=(2, 2))
        self.blocks = nnx.List([Block(width, config) for _ in range(depth)])

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.halves:
            x = self.downsample(self.downsample_norm(x))
        return through(self.blocks, x)


class ConvNeXt(nnx.Module):
    """A stem, stages of blocks, and a layer norm of their last map's mean."""

    def __init__(self, config: ConvNeXtConfig) -> None:
        self.config = config
        self.stem = conv(3, config.widths[0], config.patch, stride=config.patch)
        self.stem_norm = layer_norm(config.widths[0], config.epsilon)
        inputs = (None, *config.widths)
        self.stages = nnx.List([
            Stage(before, width, depth, config)
            for before, width, depth in zip(inputs, config.widths, config.depths, strict=False)
        ])  # fmt: skip
        self.norm = layer_norm(config.widths[-1], config.last_epsilon)
        if config.hidden is not None:
            self.hidden = linear(config.widths[-1], config.hidden)

    def __call__(self, pixels: jax.Array) -> Outputs:
        """The last map `(n, channels, height, width)` and what is pooled of it, of images `(n, height, width, 3)`."""
        smallest = tuple(side * 2 ** (len(self.config.widths) - 1) for side in self.config.patch)
        if pixels.shape[1] < smallest[0] or pixels.shape[2] < smallest[1]:
            raise UserError(f"images of {pixels.shape[1:3]} pixels: this ConvNeXt needs {smallest} at least")
        x = self.stem_norm(self.stem(pixels))
        for stage in self.stages:
            x = stage(x)
        return Outputs(x.transpose(0, 3, 1, 2), self._pool(x))

    def features(self, pixels: jax.Array) -> jax.Array:
        """What a classifier reads, `(n, features)`."""
        pooled = self(pixels).pooled
        assert pooled is not None, "this tower always pools"
        return pooled

    def project(self, pooled: jax.Array | None) -> None:
        """None: there is no projection."""
        del pooled

    def _pool(self, x: jax.Array) -> jax.Array:
        pooled = self.norm(x.mean((1, 2)))
        return pooled if self.config.hidden is None else ACTIVATIONS["gelu"](self.hidden(pooled))
