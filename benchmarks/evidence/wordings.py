"""How questions are worded: three sets of templates, one language.

No template is in two sets. Every word of the two smaller sets is also in the general one, so that a new wording is a
new order of known words: what a model of words can be asked to stand, and not a word that it never saw.
"""

from collections.abc import Iterator, Sequence

import numpy as np

LENGTH = 14
"""Words in the longest question; shorter ones are filled up with zeros."""

SIDES = ("left", "right", "top", "bottom")

_GENERAL = {
    "name": ("what is this", "what does the picture show", "name the main thing in this picture", "which kind is this"),
    "place": (
        "what is furthest to the {0}",
        "which kind of thing is nearest to the {0} end",
        "name the thing at the {0}",
        "what can you see at the {0} end of the picture",
    ),
    "count": (
        "how many things are there",
        "what is the number of things in the picture",
        "count the things that you can see",
        "how many things does the picture show",
    ),
    "presence": (
        "is there any {0}",
        "does the picture show any {0}",
        "can you see any {0} in the picture",
        "tell whether there is any {0}",
    ),
    "colour": (
        "what colour is the {0}",
        "name the main colour of the {0}",
        "which colour does the {0} have",
        "tell what colour you can see at the {0}",
    ),
    "position": (
        "is the {0} at the {1} or at the {2}",
        "where is the {0} {1} or {2}",
        "is the {0} nearest to the {1} or to the {2} end",
        "tell which the {0} is nearest to {1} or {2}",
    ),
}

_TUNED = {
    "name": ("name this", "what kind of thing can you see"),
    "place": ("tell what is nearest to the {0}", "name the kind of thing furthest to the {0}"),
    "count": ("tell how many things you see", "name the number of things"),
    "presence": ("does this show any {0}", "whether there is any {0} tell"),
    "colour": ("tell which colour the {0} is", "what is the main colour of the {0}"),
    "position": ("name where the {0} is {1} or {2}", "the {0} is at which end {1} or {2}"),
}

_HELD = {
    "name": ("tell what thing this picture does show", "the main thing in the picture is which kind"),
    "place": ("at the {0} end there is what kind of thing", "which is the thing furthest to the {0} of this picture"),
    "count": ("in this picture there are how many things", "the things you can see count to what number"),
    "presence": ("there is any {0} in this picture or is there", "any {0} that you can see in this"),
    "colour": ("the {0} in the picture have which main colour", "of what colour is the {0} in this picture"),
    "position": ("at which end of the picture is the {0} the {1} or the {2}", "{1} or {2} tell where you see the {0}"),
}

WORDINGS = {"general": _GENERAL, "tuned": _TUNED, "held": _HELD}
"""Templates by set and kind of question. The foundation model learns the general ones, fine-tuning sees its own, and
nothing is trained on those held out."""

KINDS = tuple(_GENERAL)
"""Kinds of question."""


def worded(kind: str, slots: Sequence[str], wordings: str, rng: np.random.Generator) -> str:
    """A question in one of the templates of a set, drawn at random."""
    templates = WORDINGS[wordings][kind]
    return templates[rng.integers(len(templates))].format(*slots)


def vocabulary(classes: Sequence[str]) -> tuple[str, ...]:
    """All words that questions about these classes are made of; the place of a word, from 1, is its token."""
    return tuple(sorted({*classes, *SIDES, *_words()}))


def encoded(question: str, words: Sequence[str]) -> np.ndarray:
    """A question as tokens, int32 `(LENGTH,)`."""
    tokens = [words.index(word) + 1 for word in question.split()]
    return np.array(tokens + [0] * (LENGTH - len(tokens)), np.int32)


def _words() -> Iterator[str]:
    for templates in WORDINGS.values():
        for one in templates.values():
            for template in one:
                yield from (word for word in template.split() if not word.startswith("{"))
