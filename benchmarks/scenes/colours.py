"""The eleven basic colour terms of English (Berlin and Kay), and which one a drawing is."""

import numpy as np

from scenes.artwork import OPAQUE

__all__ = ["COLOURS", "colour_of"]

# Focal colours, chosen so that a drawing's main colour gets the name that a person would give it.
_FOCAL = {
    "black": (20, 20, 20),
    "white": (245, 245, 245),
    "grey": (135, 135, 140),
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (252, 205, 60),
    "green": (85, 165, 70),
    "blue": (60, 140, 220),
    "purple": (125, 75, 175),
    "pink": (240, 140, 180),
    "brown": (130, 85, 60),
}

COLOURS = tuple(_FOCAL)
"""Names."""


def colour_of(rgba: np.ndarray) -> str:
    """The name that most opaque pixels of a drawing `(height, width, 4)` have.

    A pixel has the name of the nearest focal colour.
    """
    pixels = rgba[rgba[..., 3] >= OPAQUE][:, None, :3].astype(np.int32)
    nearest = np.square(pixels - np.array(list(_FOCAL.values()))).sum(-1).argmin(-1)
    return COLOURS[int(np.bincount(nearest, minlength=len(COLOURS)).argmax())]
