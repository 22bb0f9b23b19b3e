"""Scenes to segment, of emoji by ten artists or of the embedded digits, and how good a segmentation of them is."""

import json

import numpy as np
from scipy import ndimage

from evidence.artwork import World
from evidence.composer import Composition, compose, photographs
from evidence.emoji_task import SPLITS, joined
from vision.data import ArrayDomain, Task

COMPOSITIONS = {
    "emoji": Composition(side=48, most=3, smallest=0.5, largest=0.8),
    "digits": Composition(side=32, most=2, smallest=0.5, largest=0.8),
}  # by world

COUNTS = {
    "emoji": {"pretrain": 400, "train": 240, "validation": 96, "test": 96},
    "digits": {"pretrain": 192, "train": 64, "validation": 32, "test": 32},
}  # scenes of each split, of pre-training in each style; by world


def description(world: World) -> str:
    """All that its scenes depend on, but for the seed and the artwork itself."""
    own = COMPOSITIONS[world.name], COUNTS[world.name]
    return json.dumps([world.name, world.seen, world.id_style, world.held_out, *own])


def scene_task(world: World, seed: int) -> Task:
    """Fine-tune on one style, test on all; the test scenes of all styles are the same but for the artwork."""
    own = {split: _domain(world, world.id_style, split, seed) for split in ("train", "validation", "test")}
    return Task(
        name=world.name,
        classes=world.classes,
        image_size=COMPOSITIONS[world.name].side,
        train=own["train"],
        validation=own["validation"],
        id_test=own["test"],
        ood={style: _domain(world, style, "test", seed) for style in world.seen + world.held_out},
        ood_groups={"seen": world.seen, "held out": world.held_out},
    )


def pretraining_scenes(world: World, seed: int) -> ArrayDomain:
    """What the foundation model is trained on: other identities, in the styles seen."""
    styles = enumerate(world.seen)
    return joined("seen", [_domain(world, style, "pretrain", seed, variant) for variant, style in styles])


def _domain(world: World, style: str, split: str, seed: int, variant: int = 0) -> ArrayDomain:
    """Scenes in one style; another variant has other layouts."""
    artwork, photos, how = world.artwork(style, split, seed), photographs(split), COMPOSITIONS[world.name]
    words = (seed, list(SPLITS).index(split), variant)
    made = [compose(artwork, photos, (*words, i), how) for i in range(COUNTS[world.name][split])]
    labels = [np.stack([scene.mask, boundaries(scene.instances)], axis=-1) for scene in made]
    return ArrayDomain(style, np.stack([scene.image for scene in made]), np.stack(labels).astype(np.uint8))


def mean_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    r"""The mean over the classes there are of $|P_c \cap T_c| / |P_c \cup T_c|$, pixels of all images pooled."""
    size = 1 + int(max(predicted.max(), truth.max()))
    pairs = size * truth.astype(np.int64).ravel() + predicted.ravel()
    confusion = np.bincount(pairs, minlength=size**2).reshape(size, size)
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))


def boundary_f(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The harmonic mean of precision and recall of boundary pixels, pixels of all images pooled.

    A pixel counts as found if one of its eight neighbours, or itself, is on the other map: one pixel of tolerance.
    """
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    near = lambda maps: ndimage.binary_dilation(maps, np.ones((1, 3, 3)))
    right = (predicted & near(truth)).sum() / max(1, predicted.sum())
    found = (truth & near(predicted)).sum() / max(1, truth.sum())
    return float(2 * right * found / max(right + found, 1e-12))


def boundaries(instances: np.ndarray) -> np.ndarray:
    """Where the pixel to the right or below belongs to something else; bool `(height, width)`."""
    edges = np.zeros(instances.shape, bool)
    edges[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    edges[:-1] |= instances[:-1] != instances[1:]
    return edges
