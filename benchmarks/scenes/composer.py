"""The composer: drawings on a crop of a photograph, a class for every pixel, and the layout as plain records.

The same seed gives the same scene in every style: background, classes, sizes and places; and the same emoji, where the
artist has drawn it. So styles differ by artwork alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from scenes.artwork import OPAQUE, Artwork
from scenes.colours import colour_of

__all__ = ["BACKGROUND", "Composition", "Scene", "Thing", "compose", "photographs"]

BACKGROUND = 0
"""The mask's value where nothing is; a class is its label plus one."""

_IDENTITIES = 4096  # more than any artwork has
_ATTEMPTS = 10  # at a place for one thing, before the scene goes without it
_TEST_SHARE = 0.3  # of the photographs' width


class Composition(NamedTuple):
    """How scenes are made.

    Attributes:
        side: Height and width in pixels.
        fewest: Things in a scene.
        most: Things in a scene, at most.
        smallest: Side of a thing, as a share of the scene's.
        largest: The same, at most.
        repeat: How often a thing is of the class of one before it.
        visible: The share of a thing that must not be hidden.
    """

    side: int = 64
    fewest: int = 1
    most: int = 4
    smallest: float = 0.35
    largest: float = 0.6
    repeat: float = 0.25
    visible: float = 0.5


class Thing(NamedTuple):
    """One object of a scene.

    Attributes:
        label: Its class.
        identity: Which drawing of that class; emoji's are positions in the table.
        box: First row, first column, last row and last column (both exclusive) of its opaque pixels, hidden ones too.
        depth: Its place from back (0) to front.
        colour: Its main colour, one of `scenes.colours.COLOURS`.
        visible: The share of its opaque pixels that nothing hides.
    """

    label: int
    identity: int
    box: tuple[int, int, int, int]
    depth: int
    colour: str
    visible: float


class Scene(NamedTuple):
    """A picture and the truth about it.

    Attributes:
        image: uint8 `(side, side, 3)`.
        mask: `BACKGROUND`, or a class's label plus one; uint8 `(side, side)`.
        instances: 0, or a thing's depth plus one; uint8 `(side, side)`.
        things: From back to front.
    """

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    things: tuple[Thing, ...]


class _Layer(NamedTuple):
    """A drawing at its place: `tile` is RGBA, `shape` its opaque pixels on the whole canvas."""

    drawing: int
    tile: np.ndarray
    top: int
    left: int
    shape: np.ndarray


def photographs(split: str) -> tuple[np.ndarray, ...]:
    """scikit-learn's two photographs, or what of them the split may show: test scenes get a part of their own."""
    photos = [np.asarray(photo) for photo in load_sample_images().images]
    cut = [round((1 - _TEST_SHARE) * photo.shape[1]) for photo in photos]
    parts = (photo[:, c:] if split == "test" else photo[:, :c] for photo, c in zip(photos, cut, strict=True))
    return tuple(parts)


def compose(
    artwork: Artwork, photos: Sequence[np.ndarray], seed: Sequence[int], how: Composition | None = None
) -> Scene:
    """One scene.

    Args:
        artwork: The drawings to choose from.
        photos: Photographs, uint8 `(height, width, 3)`, no smaller than the scene.
        seed: Of everything random, words such as `(seed, split, number)`.
        how: The composition; None for the default one.

    Raises:
        ValueError: A photograph is smaller than the scene.
    """
    how = how or Composition()
    rng = np.random.default_rng(list(seed))
    canvas = _background(photos, how.side, rng)
    layers: list[_Layer] = []
    # A generator for each thing: what one draws does not change the next.
    for own in rng.spawn(int(rng.integers(how.fewest, how.most + 1))):
        layer = _placed(artwork, layers, how, own)
        if layer is not None:
            layers.append(layer)
    instances = np.zeros((how.side, how.side), np.uint8)
    for depth, layer in enumerate(layers):
        _paint(canvas, layer)
        instances[layer.shape] = depth + 1
    labels = np.array([BACKGROUND, *(artwork.label[layer.drawing] + 1 for layer in layers)], np.uint8)
    things = tuple(_described(artwork, layer, depth, instances) for depth, layer in enumerate(layers))
    return Scene(np.round(canvas).astype(np.uint8), labels[instances], instances, things)


def _background(photos: Sequence[np.ndarray], side: int, rng: np.random.Generator) -> np.ndarray:
    """A square crop, shrunk by a whole factor; float32."""
    photo = photos[int(rng.integers(len(photos)))]
    room = min(photo.shape[:2]) // side
    if room == 0:
        raise ValueError(f"a photograph of {photo.shape[0]}x{photo.shape[1]} pixels is smaller than a scene of {side}.")
    factor = int(rng.integers(1, room + 1))
    top, left = (int(rng.integers(length - factor * side + 1)) for length in photo.shape[:2])
    crop = photo[top : top + factor * side, left : left + factor * side].astype(np.float32)
    return crop.reshape(side, factor, side, factor, 3).mean((1, 3))


def _placed(artwork: Artwork, behind: Sequence[_Layer], how: Composition, rng: np.random.Generator) -> _Layer | None:
    """A drawing at a place where it hides not too much of anything; None if there is no such place."""
    drawing = _chosen(artwork, behind, how, rng)
    for size_draw, top_draw, left_draw in rng.random((_ATTEMPTS, 3)):
        size = round(how.side * (how.smallest + (how.largest - how.smallest) * size_draw))
        top, left = (int(draw * (how.side - size + 1)) for draw in (top_draw, left_draw))
        resized = Image.fromarray(artwork.rgba[drawing]).resize((size, size), Image.Resampling.BOX)
        tile = np.asarray(resized)
        shape = np.zeros((how.side, how.side), bool)
        shape[top : top + size, left : left + size] = tile[..., 3] >= OPAQUE
        layers = [*behind, _Layer(drawing, tile, top, left, shape)]
        if shape.any() and min(_visible(layers)) >= how.visible:
            return layers[-1]
    return None


def _chosen(artwork: Artwork, behind: Sequence[_Layer], how: Composition, rng: np.random.Generator) -> int:
    """First a class, all equally likely, then a drawing of it that is not there yet, if it has one."""
    again, other, earlier = rng.random(3)
    keys = rng.random(_IDENTITIES)[artwork.identity]  # as many numbers, whatever the style has
    kinds = np.unique(artwork.label)
    kind = kinds[int(other * len(kinds))]
    if behind and again < how.repeat:
        kind = artwork.label[behind[int(earlier * len(behind))].drawing]
    keys[[layer.drawing for layer in behind]] += 1
    keys[artwork.label != kind] = np.inf
    return int(keys.argmin())


def _visible(layers: Sequence[_Layer]) -> list[float]:
    """The share of each layer's shape that later layers leave visible."""
    hidden, shares = np.zeros_like(layers[0].shape), []
    for layer in reversed(layers):
        shares.append(1 - float((layer.shape & hidden).sum() / max(1, layer.shape.sum())))
        hidden |= layer.shape
    return shares[::-1]


def _paint(canvas: np.ndarray, layer: _Layer) -> None:
    size = len(layer.tile)
    place = canvas[layer.top : layer.top + size, layer.left : layer.left + size]
    opacity = layer.tile[..., 3:].astype(np.float32) / 255
    place += opacity * (layer.tile[..., :3] - place)


def _described(artwork: Artwork, layer: _Layer, depth: int, instances: np.ndarray) -> Thing:
    rows, columns = (np.flatnonzero(layer.shape.any(axis)) for axis in (1, 0))
    return Thing(
        label=int(artwork.label[layer.drawing]),
        identity=int(artwork.identity[layer.drawing]),
        box=(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1),
        depth=depth,
        colour=colour_of(layer.tile),
        visible=float((instances == depth + 1).sum() / layer.shape.sum()),
    )
