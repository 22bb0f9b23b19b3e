"""Where the drawings come from: emoji by ten artists, or the embedded digits, which need no download."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from robust.styles import HELD_OUT, SEEN
from robust.table import CLASSES
from scenes.artwork import Artwork, digit_artwork, emoji_artwork

__all__ = ["SOURCES", "Source"]


class Source(NamedTuple):
    """Drawings in several styles, and which role each plays.

    Attributes:
        name: Of the source.
        classes: Names of the classes, by label.
        side: Height and width of the pictures.
        id_style: The style that is fine-tuned on.
        seen: Those that the foundation model learns.
        held: Those that nothing is trained on.
        withheld: Classes that fine-tuning does not show; the foundation model knows them.
        width: Of the network behind the tower.
        depth: Blocks of its fusion.
        artwork: From a style, a split and a seed to the drawings.
    """

    name: str
    classes: tuple[str, ...]
    side: int
    id_style: str
    seen: tuple[str, ...]
    held: tuple[str, ...]
    withheld: tuple[str, ...]
    width: int
    depth: int
    artwork: Callable[[str, str, int], Artwork]


@cache
def _emoji(style: str, split: str, seed: int) -> Artwork:
    return emoji_artwork(style, split, seed)


@cache
def _digits(style: str, split: str, seed: int) -> Artwork:
    return digit_artwork(style, split, seed, smallest=True)


SOURCES = {
    "emoji": Source(
        "emoji",
        CLASSES,
        side=64,
        id_style="fluent-high-contrast",
        seen=SEEN,
        held=HELD_OUT,
        withheld=("plant", "clothing", "music", "office"),
        width=64,
        depth=2,
        artwork=_emoji,
    ),
    "digits": Source(
        "digits",
        tuple("0123456789"),
        side=32,
        id_style="black",
        seen=("bright", "coloured"),
        held=("striped",),
        withheld=("3", "7"),
        width=32,
        depth=1,
        artwork=_digits,
    ),
}
"""By name."""
