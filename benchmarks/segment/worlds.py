"""What is segmented: scenes of emoji by ten artists, or scenes of the embedded digits, which need no download."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from robust.styles import HELD_OUT, SEEN
from robust.table import CLASSES
from scenes.artwork import Artwork, digit_artwork, emoji_artwork
from scenes.composer import Composition, compose, photographs
from segment.scores import boundaries
from vision.data import ArrayDomain, Task

__all__ = ["SPLITS", "WORLDS", "World", "pretraining_scenes", "scene_task"]

SPLITS = ("pretrain", "train", "validation", "test")


@dataclass(frozen=True)
class World:
    """A source of scenes.

    Attributes:
        name: Of the experiment.
        classes: Without the background.
        artwork: From style, split and seed to the drawings.
        seen: Styles of the foundation model.
        id_style: The style that is fine-tuned on.
        held_out: Styles that no training sees.
        composition: How scenes are made.
        scenes: How many of each split; of pre-training, in each style.
    """

    name: str
    classes: tuple[str, ...]
    artwork: Callable[[str, str, int], Artwork]
    seen: tuple[str, ...]
    id_style: str
    held_out: tuple[str, ...]
    composition: Composition
    scenes: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Background included."""
        return len(self.classes) + 1

    def description(self) -> str:
        """All that its scenes depend on, but for the seed and the artwork itself."""
        return json.dumps([self.name, self.seen, self.id_style, self.held_out, self.composition, dict(self.scenes)])


WORLDS = {
    "emoji": World(
        "emoji", CLASSES, emoji_artwork, SEEN, "fluent-high-contrast", HELD_OUT,
        Composition(side=48, most=3, smallest=0.5, largest=0.8),
        {"pretrain": 400, "train": 240, "validation": 96, "test": 96},
    ),
    "digits": World(
        "digits", tuple("0123456789"), digit_artwork, ("bright", "coloured"), "black", ("striped",),
        Composition(side=32, most=2, smallest=0.5, largest=0.8),
        {"pretrain": 192, "train": 64, "validation": 32, "test": 32},
    ),
}  # fmt: skip
"""By name."""


def scene_task(world: World, seed: int) -> Task:
    """Fine-tune on one style, test on all; the test scenes of all styles are the same but for the artwork.

    Returns:
        Domains whose labels are uint8 `(n, side, side, 2)`: the class of every pixel, and whether it is on a boundary.

    Raises:
        UserError: Emoji cannot be fetched or drawn.
    """
    own = {split: _domain(world, world.id_style, split, seed) for split in SPLITS[1:]}
    return Task(
        name=world.name,
        classes=world.classes,
        image_size=world.composition.side,
        train=own["train"],
        validation=own["validation"],
        id_test=own["test"],
        ood={style: _domain(world, style, "test", seed) for style in world.seen + world.held_out},
        ood_groups={"seen": world.seen, "held out": world.held_out},
    )


def pretraining_scenes(world: World, seed: int) -> ArrayDomain:
    """What the foundation model is trained on: other identities, in the styles seen."""
    parts = [_domain(world, style, "pretrain", seed, variant) for variant, style in enumerate(world.seen)]
    join = lambda arrays: np.concatenate(list(arrays))
    return ArrayDomain("seen", join(part.images for part in parts), join(part.labels for part in parts))


def _domain(world: World, style: str, split: str, seed: int, variant: int = 0) -> ArrayDomain:
    """Scenes in one style; another variant has other layouts."""
    artwork, photos = world.artwork(style, split, seed), photographs(split)
    words = (seed, SPLITS.index(split), variant)
    made = [compose(artwork, photos, (*words, i), world.composition) for i in range(world.scenes[split])]
    labels = [np.stack([scene.mask, boundaries(scene.instances)], axis=-1) for scene in made]
    return ArrayDomain(style, np.stack([scene.image for scene in made]), np.stack(labels).astype(np.uint8))
