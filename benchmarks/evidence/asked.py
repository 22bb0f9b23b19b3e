"""Domains of pictures and questions: the one that is fine-tuned on, and its shifts by kind and degree."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from evidence import ask
from evidence.artwork import WORLDS, Artwork, World
from evidence.composer import Composition, Scene, compose, photographs
from evidence.emoji_task import SPLITS
from evidence.wordings import KINDS, encoded, vocabulary, worded
from vision.data import ArrayDomain, Example


class Source(NamedTuple):
    """What is asked about, and how large."""

    world: World
    side: int  # height and width of the pictures
    withheld: tuple[str, ...]  # classes that fine-tuning does not show; the foundation model knows them
    width: int  # of the network behind the tower
    depth: int  # blocks of its fusion


SOURCES = {
    "emoji": Source(WORLDS["emoji"], 64, ("plant", "clothing", "music", "office"), width=64, depth=2),
    "digits": Source(WORLDS["digits"], 32, ("3", "7"), width=32, depth=1),
}  # by the world's name

PER_PICTURE = 3  # questions about each picture. The picture is the expensive part: they share its features.

_OF_SINGLES = ("name", "presence", "colour")  # what is not the same for all of them


class Look(NamedTuple):
    """What a domain looks and sounds like."""

    styles: tuple[str, ...]  # in turn, picture by picture
    wordings: str  # one of `evidence.wordings.WORDINGS`
    prior: str  # of the answers: even, skewed or reversed
    photos: tuple[int, ...]  # which of the two photographs are behind the things
    things: tuple[int, int]  # fewest and most in a scene
    labels: tuple[int, ...]  # classes in it
    on_paper: bool = True  # whether single things are shown on white paper, and not on a photograph


class Sizes(NamedTuple):
    """Pictures in a domain: of one thing (classification recast as questions), and composed scenes."""

    singles: int
    scenes: int


@dataclass(frozen=True, eq=False)
class Asked(ArrayDomain):
    """Pictures and questions; `labels` are the answers' places in the vocabulary of answers, `(n, PER_PICTURE)`."""

    words: np.ndarray  # tokens of the questions, int32 `(n, PER_PICTURE, LENGTH)`
    kinds: np.ndarray  # places in `KINDS`, int32 `(n, PER_PICTURE)`

    def __getitem__(self, index: int) -> Example:
        """What the model sees is its "image": the pixels and the words."""
        return {"image": {"pixels": self.images[index], "words": self.words[index]}, "label": self.labels[index]}

    def at(self, places: np.ndarray) -> "Asked":
        own = {name: getattr(self, name)[places] for name in ("images", "labels", "words", "kinds")}
        return replace(self, **own)


def looks(source: Source) -> dict[str, Look]:
    """All domains by name: `pretrain`, `id`, then `NEAR`, then `FAR`."""
    every = tuple(range(len(source.world.classes)))
    tuned = tuple(label for label in every if source.world.classes[label] not in source.withheld)
    own = Look((source.world.id_style,), "tuned", "skewed", (0,), (1, 3), tuned)
    strange = own._replace(styles=source.world.held_out, wordings="held")
    found = {
        "pretrain": Look(source.world.seen, "general", "even", (0, 1), (1, 4), every),
        "id": own,
        "general wording": own._replace(wordings="general"),
        "new wording": own._replace(wordings="held"),
        "answer prior": own._replace(prior="reversed"),
        "seen style": own._replace(styles=source.world.seen),
        "new style": own._replace(styles=source.world.held_out),
        "new wording and style": strange,
        "answer prior and new style": own._replace(styles=source.world.held_out, prior="reversed"),
        "more things": own._replace(things=(4, 4)),
        "other background": own._replace(photos=(1,), on_paper=False),
        "untuned categories": own._replace(labels=tuple(sorted(set(every) - set(tuned)))),
        "all at once": strange._replace(prior="reversed", photos=(1,), things=(4, 4), on_paper=False),
    }
    assert tuple(found)[2:] == NEAR + FAR
    return found


NEAR = ("general wording", "new wording", "answer prior", "seen style", "new style")  # shifts of one kind
NEAR += ("new wording and style", "answer prior and new style")  # and two at a time
FAR = ("more things", "other background", "untuned categories", "all at once")
"""Another composition, categories that fine-tuning did not show, and everything at a time."""


def asked(source: Source, name: str, look: Look, split: str, seed: int, sizes: Sizes) -> Asked:
    """A domain's pictures with their questions.

    The same seed and split give the same scenes, but for what the look changes.
    """
    singles, scenes = _composed(source, look, split, seed, sizes)
    words, replies = vocabulary(source.world.classes), ask.answers(source.world.classes)
    rows: Mapping[str, list[object]] = {"words": [], "labels": [], "kinds": []}
    for number, scene in enumerate([*singles, *scenes]):
        rng = np.random.default_rng((seed, list(SPLITS).index(split), number, 1))
        candidates = ask.askable(scene.things, source.world.classes, look.labels, source.side)
        if number < len(singles):
            candidates = [question for question in candidates if question.kind in _OF_SINGLES]
        questions = ask.chosen(candidates, PER_PICTURE, look.prior, replies, rng)
        texts = [worded(q.kind, q.slots, look.wordings, rng) for q in questions]
        rows["words"].append([encoded(text, words) for text in texts])
        rows["labels"].append([replies.index(q.answer) for q in questions])
        rows["kinds"].append([KINDS.index(q.kind) for q in questions])
    columns = {key: np.array(column, np.int32) for key, column in rows.items()}
    return Asked(name, np.stack([scene.image for scene in (*singles, *scenes)]), **columns)


def _composed(source: Source, look: Look, split: str, seed: int, sizes: Sizes) -> tuple[list[Scene], list[Scene]]:
    """Pictures of one thing that fills them, the images of the classification benchmark; and scenes."""
    side, own = source.side, (seed, list(SPLITS).index(split))
    drawn = [source.world.artwork(style, split, seed) for style in look.styles]
    artworks = [_subset(one, np.isin(one.label, look.labels)) for one in drawn]
    photos = [photographs("test" if split == "test" else "train")[i] for i in look.photos]
    behind = [np.full((side, side, 3), 255, np.uint8)] if look.on_paper else photos
    how = Composition(side=side, fewest=1, most=1, smallest=1.0, largest=1.0)
    shown = [(a, i) for a, artwork in enumerate(artworks) for i in range(len(artwork.label))]
    order = np.random.default_rng(own).permutation(len(shown))
    singles = [
        compose(_subset(artworks[a], np.array([i])), behind, (*own, a, i), how)
        for a, i in (shown[place] for place in order[: sizes.singles])
    ]
    how = Composition(side=side, fewest=look.things[0], most=look.things[1])
    scenes = [compose(artworks[i % len(artworks)], photos, (*own, i), how) for i in range(sizes.scenes)]
    return singles, scenes


def _subset(artwork: Artwork, which: np.ndarray) -> Artwork:
    return Artwork(artwork.rgba[which], artwork.identity[which], artwork.label[which])
