"""Positions on another grid than the pre-trained one: interpolated tables, and rotary angles."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Resampling", "resample", "rotary_angles", "rotate", "sines"]

Resampling = Literal["bicubic", "bicubic-antialias", "bilinear-corners"]
"""How a table is interpolated: as torch's bicubic (transformers' models), with antialiasing (timm, DINOv2 with
registers), or linearly with the corners fixed, as scipy's zoom does (big_vision)."""


def resample(table: jax.Array, grid: tuple[int, int], how: Resampling) -> jax.Array:
    """Interpolates a table of positions, float32 inside.

    Args:
        table: `(height, width, features)`.
        grid: The new height and width.
        how: As the family that the table is from does it.

    Returns:
        `(*grid, features)`, of the table's dtype.
    """
    rows, columns = (jnp.asarray(_weights(old, new, how)) for old, new in zip(table.shape, grid, strict=False))
    wide = table.astype(jnp.float32)
    # at full precision: on a GPU or TPU a product of float32 matrices is rounded to fewer bits by default
    new = jnp.einsum("ih,jw,hwd->ijd", rows, columns, wide, precision=jax.lax.Precision.HIGHEST)
    return new.astype(table.dtype)


@lru_cache(maxsize=64)
def _weights(old: int, new: int, how: Resampling) -> np.ndarray:
    """The float32 matrix `(new, old)` of one axis."""
    if how == "bilinear-corners":
        centres = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0)
        return _filter(centres, old, 1.0, 1.0, lambda x: np.maximum(0, 1 - np.abs(x)), clamp=False)
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    if how == "bicubic":
        return _filter(centres, old, 2.0, 1.0, lambda x: _cubic(x, -0.75), clamp=True)
    wider = max(scale, 1.0)
    return _filter(centres, old, 2.0 * wider, wider, lambda x: _cubic(x, -0.5), clamp=False)


def _filter(
    centres: np.ndarray,
    old: int,
    support: float,
    scale: float,
    kernel: Callable[[np.ndarray], np.ndarray],
    *,
    clamp: bool,
) -> np.ndarray:
    """Weights of the old points for each new one; beyond the edge either the edge's point, or none."""
    weights = np.zeros((len(centres), old))
    for row, centre in enumerate(centres):
        taps = np.arange(math.floor(centre - support), math.ceil(centre + support) + 1)
        values = kernel((taps - centre) / scale)
        if clamp:
            np.add.at(weights[row], np.clip(taps, 0, old - 1), values)
        else:
            inside = (taps >= 0) & (taps < old)
            weights[row, taps[inside]] = values[inside]
            weights[row] /= weights[row].sum()
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981) with its free parameter."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def sines(grid: tuple[int, int], width: int) -> jax.Array:
    """Positions of MoCo v3 (Chen et al. 2021), float32 `(height * width, features)`: sines and cosines of x, then y."""
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    y, x = (np.outer(axis.ravel(), frequencies) for axis in np.mgrid[: grid[0], : grid[1]])
    return jnp.asarray(np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1), jnp.float32)


def rotary_angles(grid: tuple[int, int], head_width: int, theta: float) -> jax.Array:
    """DINOv3's angles, float32 `(height * width, head_width)`: of the patches' centres, in [-1, 1] on both axes."""
    frequencies = 1 / theta ** np.arange(0, 1, 4 / head_width, dtype=np.float32)
    centres = [2 * (np.arange(0.5, n, dtype=np.float32) / n) - 1 for n in grid]
    points = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 2, 1)
    angles = (2 * np.float32(math.pi) * points * frequencies).reshape(len(points), -1)
    return jnp.asarray(np.tile(angles, 2))


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Turns the queries or keys `(n, tokens, heads, width)` of the last tokens, those that have angles."""
    first = x.shape[1] - angles.shape[0]
    patches = x[:, first:]
    cos, sin = (f(angles)[:, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    half = x.shape[-1] // 2
    turned = jnp.concatenate([-patches[..., half:], patches[..., :half]], -1)
    return jnp.concatenate([x[:, :first], patches * cos + turned * sin], 1)
