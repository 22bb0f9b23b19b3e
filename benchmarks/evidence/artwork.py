"""What scenes are composed of: drawings with opacity, in one style; emoji by an artist, or the embedded digits."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

from evidence.emoji import HELD_OUT, SEEN, load_style, on_white
from evidence.emoji_table import CLASSES, emoji_table
from evidence.emoji_task import SPLITS, identities

OPAQUE = 128  # from this opacity on a pixel belongs to the drawing

_DIGIT_SIZE = 32
_DIGITS = 60  # in each split


class Artwork(NamedTuple):
    """Drawings in one style."""

    rgba: np.ndarray  # uint8 `(n, size, size, 4)`: red, green, blue and opacity
    identity: np.ndarray  # what each shows, whoever draws it; int32 `(n,)`
    label: np.ndarray  # its class; int32 `(n,)`


def emoji_artwork(style: str, split: str, seed: int, size: int = 64) -> Artwork:
    """One artist's emoji as stickers; the split is that of the main benchmark, by identity, shared by all styles."""
    drawn = load_style(style, size)
    chosen = np.isin(drawn.emoji, identities(seed)[split])
    identity = drawn.emoji[chosen]
    kinds = np.array([one.label for one in emoji_table()], np.int32)
    return Artwork(stickers(drawn.rgba[chosen]), identity, kinds[identity])


def stickers(rgba: np.ndarray) -> np.ndarray:
    """The drawings, with white paper in what their lines enclose: an artist's black lines are drawn for paper.

    So the opaque part of a face drawn in outline is the face, as it is in every other style, and not its outline.
    """
    shapes = rgba[..., 3] >= OPAQUE
    filled = np.array([ndimage.binary_fill_holes(one) for one in shapes], bool)
    inner = np.array([ndimage.binary_erosion(one) for one in filled], bool)  # the rim has the outline's own opacity
    on_paper = np.concatenate([on_white(rgba), np.full_like(rgba[..., :1], 255)], axis=-1)
    return np.where(inner[..., None], on_paper, rgba)


def digit_artwork(style: str, split: str, seed: int) -> Artwork:
    """A few handwritten digits as stickers; nothing to download. The split is by digit, shared by all styles."""
    (ink, labels), part = _digits(), list(SPLITS).index(split)
    chosen = np.random.default_rng(seed).permutation(len(labels))[_DIGITS * part : _DIGITS * (part + 1)]
    rng = np.random.default_rng((seed, part, list(DIGIT_STYLES).index(style)))
    opacity = ink[chosen][..., None]
    colour = rng.uniform(*DIGIT_STYLES[style], (_DIGITS, 1, 1, 3)) * np.ones_like(opacity)
    rgba = np.round(255 * np.concatenate([colour, opacity], axis=-1)).astype(np.uint8)
    return Artwork(rgba, chosen.astype(np.int32), labels[chosen])


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Opacities `(1797, 32, 32)` in 0..1, and labels."""
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    large = ndimage.zoom(images.reshape(-1, 8, 8) / 16, (1, _DIGIT_SIZE // 8, _DIGIT_SIZE // 8), order=1)
    return np.clip(2 * np.asarray(large), 0, 1), labels.astype(np.int32)


DIGIT_STYLES = {"bright": (0.6, 1.0), "coloured": (0.0, 1.0), "black": (0.0, 0.0), "dark": (0.0, 0.4)}
"""By name the range of a digit's red, green and blue."""


class World(NamedTuple):
    """Drawings in several styles, and which role each plays."""

    name: str
    classes: tuple[str, ...]  # their names, by label
    id_style: str  # the style that is fine-tuned on
    seen: tuple[str, ...]  # those that the foundation model learns
    held_out: tuple[str, ...]  # those that nothing is trained on
    artwork: Callable[[str, str, int], Artwork]  # from a style, a split and a seed to the drawings


WORLDS = {
    "emoji": World("emoji", CLASSES, "fluent-high-contrast", SEEN, HELD_OUT, cache(emoji_artwork)),
    "digits": World("digits", tuple("0123456789"), "black", ("bright", "coloured"), ("dark",), cache(digit_artwork)),
}  # by name
