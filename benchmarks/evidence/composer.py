"""The composer: drawings on a crop of a photograph, a class for every pixel, and the layout as plain records.

The same seed gives the same scene in every style: background, classes, sizes and places; and the same emoji, where the
artist has drawn it. So styles differ by artwork alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from evidence.artwork import OPAQUE, Artwork

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

COLOURS = tuple(_FOCAL)  # names


def colour_of(rgba: np.ndarray) -> str:
    """The name that most opaque pixels of a drawing `(height, width, 4)` have.

    A pixel has the name of the nearest focal colour.
    """
    pixels = rgba[rgba[..., 3] >= OPAQUE][:, None, :3].astype(np.int32)
    nearest = np.square(pixels - np.array(list(_FOCAL.values()))).sum(-1).argmin(-1)
    return COLOURS[int(np.bincount(nearest, minlength=len(COLOURS)).argmax())]


BACKGROUND = 0  # the mask's value where nothing is; a class is its label plus one

_IDENTITIES = 4096  # more than any artwork has
_ATTEMPTS = 10  # at a place for one thing, before the scene goes without it
_TEST_SHARE = 0.3  # of the photographs' width


class Composition(NamedTuple):
    """How scenes are made."""

    side: int = 64  # height and width in pixels
    fewest: int = 1  # things in a scene
    most: int = 4  # things in a scene, at most
    smallest: float = 0.35  # side of a thing, as a share of the scene's
    largest: float = 0.6  # the same, at most
    repeat: float = 0.25  # how often a thing is of the class of one before it
    visible: float = 0.5  # the share of a thing that must not be hidden


class Thing(NamedTuple):
    """One object of a scene."""

    label: int  # its class
    identity: int  # which drawing of that class; emoji's are positions in the table
    # first row, first column, last row and last column (both exclusive) of its opaque pixels, hidden ones too
    box: tuple[int, int, int, int]
    colour: str  # its main colour, one of `COLOURS`


class Scene(NamedTuple):
    """A picture and the truth about it."""

    image: np.ndarray  # uint8 `(side, side, 3)`
    mask: np.ndarray  # `BACKGROUND`, or a class's label plus one; uint8 `(side, side)`
    instances: np.ndarray  # 0, or a thing's place from back to front, from 1; uint8 `(side, side)`
    things: tuple[Thing, ...]  # from back to front


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


def compose(artwork: Artwork, photos: Sequence[np.ndarray], seed: Sequence[int], how: Composition) -> Scene:
    """One scene."""
    rng = np.random.default_rng(list(seed))
    canvas = _background(photos, how.side, rng)
    layers: list[_Layer] = []
    # A generator for each thing: what one draws does not change the next.
    for own in rng.spawn(int(rng.integers(how.fewest, how.most + 1))):
        layer = _placed(artwork, layers, how, own)
        if layer is not None:
            layers.append(layer)
    instances = np.zeros((how.side, how.side), np.uint8)
    for place, layer in enumerate(layers, start=1):
        _paint(canvas, layer)
        instances[layer.shape] = place
    labels = np.array([BACKGROUND, *(artwork.label[layer.drawing] + 1 for layer in layers)], np.uint8)
    things = tuple(_described(artwork, layer) for layer in layers)
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


def _described(artwork: Artwork, layer: _Layer) -> Thing:
    rows, columns = (np.flatnonzero(layer.shape.any(axis)) for axis in (1, 0))
    return Thing(
        label=int(artwork.label[layer.drawing]),
        identity=int(artwork.identity[layer.drawing]),
        box=(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1),
        colour=colour_of(layer.tile),
    )
