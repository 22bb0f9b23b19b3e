"""Swin Transformer (Liu et al. 2021): attention in windows, shifted in every second block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.layers import BaseBlock, conv, layer_norm, linear, through
from pretrained.positions import resample
from pretrained.transformer import MLP, Attention, BlockConfig, Outputs
from vision.errors import UserError

__all__ = ["Swin", "SwinConfig", "stages"]

Size = tuple[int, int]


@dataclass(frozen=True)
class SwinConfig:
    """A Swin Transformer.

    Attributes:
        stages: The blocks of each stage; their widths double from one to the next.
        patch: Height and width of a patch.
        grid: Patches of the image that the model was made for.
        window: Height and width of a window.
        windows: What a window is on maps that it does not fit. `fixed`, as in timm: a map that is at most one window,
            for the image that the model was made for, has a window of its size and no shift; maps are shifted, then
            padded. `by image`, as in transformers: no shift for maps that are at most one window, whatever the image;
            maps are padded, then shifted.
        epsilon: Of the layer norms after the patches and between stages.
        positions: Whether a table of positions is added to the patches.
        map_tokens: Whether `tokens` keeps height and width apart.
    """

    stages: tuple[BlockConfig, ...]
    patch: Size
    grid: Size
    window: Size
    windows: Literal["fixed", "by image"]
    epsilon: float = 1e-5
    positions: bool = False
    map_tokens: bool = False


def stages(
    width: int, depths: Sequence[int], heads: Sequence[int], ratio: float, *, head_width: int = 0, **others: Any
) -> tuple[BlockConfig, ...]:
    """Blocks of which each stage's are twice as wide as the stage's before.

    Args:
        width: Of the first stage.
        depths: Blocks in each stage.
        heads: Attention heads in each stage.
        ratio: Of the MLP's width to the tokens'.
        head_width: Features of a head; 0 for as many as there are.
        others: Of `BlockConfig`, the same in all stages.
    """
    widths = [width * 2**index for index in range(len(depths))]
    return tuple(
        BlockConfig(
            width=own,
            depth=depth,
            heads=count,
            head_width=head_width or own // count,
            mlp_width=int(own * ratio),
            **others,
        )
        for own, depth, count in zip(widths, depths, heads, strict=True)
    )


class Block(BaseBlock):
    """Attention in windows and MLP, each after a layer norm and added to its input."""

    def __init__(self, config: BlockConfig, window: Size, shift: Size, *, fixed: bool) -> None:
        self.window, self.shift, self.fixed = window, shift, fixed
        self.norm1 = layer_norm(config.width, config.epsilon)
        self.attention = Attention(config)
        relative = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias = nnx.Embed(relative, config.heads, rngs=nnx.Rngs(0))
        self.norm2 = layer_norm(config.width, config.epsilon)
        self.mlp = MLP(config)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: jax.Array) -> jax.Array:
        height, width = x.shape[1:3]
        shift = self._shift((height, width))
        back = (-shift[0], -shift[1])
        if self.fixed:
            x = _whole(jnp.roll(x, back, (1, 2)), self.window)
        else:
            x = jnp.roll(_whole(x, self.window), back, (1, 2))
        padded = (x.shape[1], x.shape[2])
        windows = _partition(x, self.window)
        attended = self.attention(windows, bias=self._bias(padded, shift, len(windows)))
        x = _merge(attended, self.window, padded)
        if self.fixed:
            return jnp.roll(x[:, :height, :width], shift, (1, 2))
        return jnp.roll(x, shift, (1, 2))[:, :height, :width]

    def _shift(self, size: Size) -> Size:
        """Of a map of this size."""
        if self.fixed:
            return self.shift
        if min(size) < min(self.window):
            raise UserError(f"images too small: a map of {size} is less than a window of {self.window} in this Swin")
        return (0, 0) if min(size) == min(self.window) else self.shift

    def _bias(self, size: Size, shift: Size, count: int) -> jax.Array:
        """What is added to the scores of all `count` windows of a batch, `(1 or count, heads, area, area)`."""
        bias = self.relative_position_bias(jnp.asarray(_relative(self.window))).transpose(2, 0, 1)[None]
        if shift == (0, 0):
            return bias
        each = bias + jnp.asarray(_mask(size, self.window, shift))[:, None].astype(bias.dtype)
        return jnp.broadcast_to(each, (count // len(each), *each.shape)).reshape(count, *each.shape[1:])


class Merging(nnx.Module):
    """Halves a map: four neighbours are one token of twice the width."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.norm = layer_norm(4 * width, epsilon)
        self.reduction = linear(4 * width, 2 * width, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _whole(x, (2, 2))
        n, height, width, features = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, features).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(n, height // 2, width // 2, 4 * features)))


class Stage(nnx.Module):
    """Blocks on maps of one size; after them, in all stages but the last, a merging."""

    def __init__(self, config: SwinConfig, index: int) -> None:
        blocks = config.stages[index]
        window, shift = _window(config, index)
        self.blocks = nnx.List(
            [
                Block(blocks, window, shift if i % 2 else (0, 0), fixed=config.windows == "fixed")
                for i in range(blocks.depth)
            ]
        )
        self.merges = index < len(config.stages) - 1
        if self.merges:
            self.merging = Merging(blocks.width, config.epsilon)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = through(self.blocks, x)
        return self.merging(x) if self.merges else x


class Swin(nnx.Module):
    """Patches through stages of blocks; pooled to their mean."""

    def __init__(self, config: SwinConfig) -> None:
        self.config = config
        width = config.stages[0].width
        self.patches = conv(3, width, config.patch, stride=config.patch)
        self.patch_norm = layer_norm(width, config.epsilon)
        if config.positions:
            self.position_embeddings = nnx.Param(jnp.zeros((1, config.grid[0] * config.grid[1], width)))
        self.stages = nnx.List([Stage(config, index) for index in range(len(config.stages))])
        self.norm = layer_norm(config.stages[-1].width, config.stages[-1].epsilon)

    def __call__(self, pixels: jax.Array) -> Outputs:
        """The last tokens and their mean, of normalised images `(n, height, width, 3)`."""
        x = self.patch_norm(self.patches(_whole(pixels, self.config.patch)))
        if self.config.positions:
            table = self.position_embeddings[...].reshape(*self.config.grid, -1)
            x = x + resample(table, (x.shape[1], x.shape[2]), "bicubic")
        for stage in self.stages:
            x = stage(x)
        x = self.norm(x)
        return Outputs(x if self.config.map_tokens else x.reshape(len(x), -1, x.shape[-1]), x.mean((1, 2)))

    def features(self, pixels: jax.Array) -> jax.Array:
        """What a classifier reads, `(n, features)`."""
        pooled = self(pixels).pooled
        assert pooled is not None, "this tower always pools"
        return pooled

    def project(self, pooled: jax.Array | None) -> None:
        """None: there is no projection."""
        del pooled


def _window(config: SwinConfig, stage: int) -> tuple[Size, Size]:
    """Window and shift of a stage's blocks."""
    window = config.window
    shift = (window[0] // 2, window[1] // 2)
    if config.windows == "by image":
        return window, shift
    height, width = (-(-side // 2**stage) for side in config.grid)
    return (min(height, window[0]), min(width, window[1])), (
        shift[0] if height > window[0] else 0,
        shift[1] if width > window[1] else 0,
    )


def _whole(x: jax.Array, part: Size) -> jax.Array:
    """Maps `(n, height, width, features)` padded with zeros, below and on the right, to a whole number of parts."""
    below, right = (-side % own for side, own in zip(x.shape[1:3], part, strict=True))
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)))


def _partition(x: jax.Array, window: Size) -> jax.Array:
    """Maps as windows `(n * windows, area, features)`."""
    n, height, width, features = x.shape
    x = x.reshape(n, height // window[0], window[0], width // window[1], window[1], features)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window[0] * window[1], features)


def _merge(windows: jax.Array, window: Size, size: Size) -> jax.Array:
    """Windows as the maps of this size that they are from."""
    features = windows.shape[-1]
    x = windows.reshape(-1, size[0] // window[0], size[1] // window[1], *window, features)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *size, features)


def _relative(window: Size) -> np.ndarray:
    """The row of the table for each query and key of a window: by how far they are apart on both axes."""
    places = np.indices(window).reshape(2, -1)
    down, right = places[:, :, None] - places[:, None, :]
    return (down + window[0] - 1) * (2 * window[1] - 1) + right + window[1] - 1


def _mask(size: Size, window: Size, shift: Size) -> np.ndarray:
    """-100, `(windows, area, area)`, for tokens that the shift has put into one window from opposite edges."""
    regions = []
    for side, own, by in zip(size, window, shift, strict=True):
        at = np.arange(side)
        regions.append((at >= side - own).astype(int) + (at >= side - by) if by else np.zeros(side, int))
    region = regions[0][:, None] * 3 + regions[1]
    tiles = region.reshape(size[0] // window[0], window[0], size[1] // window[1], window[1])
    tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, window[0] * window[1])
    return np.where(tiles[:, :, None] == tiles[:, None, :], 0, -100).astype(np.float32)
