"""The emoji as arrays: every drawing of every style, rendered once and then kept in the cache."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from robust.packages import drawings, install
from robust.render import render
from robust.styles import STYLES
from robust.table import TABLE, emoji_table
from vision.cache import digest, load_arrays, store_arrays

__all__ = ["Drawings", "load_style"]

# To be raised when a change of the code makes old cache entries stale.
_VERSION = 1


class Drawings(NamedTuple):
    """One style's drawings.

    Attributes:
        rgba: uint8 `(n, size, size, 4)`.
        emoji: For each drawing, the position of its emoji in `emoji_table()`; int32, increasing.
    """

    rgba: np.ndarray
    emoji: np.ndarray


def load_style(name: str, size: int = 64, on_drawing: Callable[[int, int], None] | None = None) -> Drawings:
    """All drawings of a style.

    Args:
        name: One of `STYLES`.
        size: Height and width in pixels.
        on_drawing: Called with (drawings done, drawings in all); not called when the cache has them.

    Raises:
        UserError: A package or a program that is needed is missing.
    """
    style = STYLES[name]
    config = json.dumps({"version": _VERSION, "package": style.package, "size": size})
    key = f"emoji-{style.icons}-{size}-{digest({'table': np.frombuffer(TABLE.read_bytes(), np.uint8)}, config)[:32]}"
    arrays = load_arrays(key)
    if arrays is None:
        documents = drawings(install(style), emoji_table())
        images = []
        for svg in documents.values():
            images.append(render(svg, size))
            if on_drawing is not None:
                on_drawing(len(images), len(documents))
        arrays = {"rgba": np.stack(images), "emoji": np.array(list(documents), np.int32)}
        store_arrays(key, arrays)
    return Drawings(arrays["rgba"], arrays["emoji"])
