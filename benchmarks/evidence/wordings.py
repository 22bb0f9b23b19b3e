"""How questions are worded: three sets of templates, one language.

The foundation model learns the general set, fine-tuning sees its own, and nothing is trained on the one held out. No
template is in two sets. Every word of the two smaller sets is also in the general one, so that a new wording is a new
order of known words: what a model of words can be asked to stand, and not a word that it never saw.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

LENGTH = 14  # words in the longest question; shorter ones are filled up with zeros
SIDES = ("left", "right", "top", "bottom")

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {}  # templates by set and kind of question
for _line in Path(__file__).with_name("wordings.tsv").read_text("utf-8").splitlines():
    _set, _kind, _template = _line.split("\t")
    _own = WORDINGS.setdefault(_set, {})
    _own[_kind] = (*_own.get(_kind, ()), _template)

KINDS = tuple(WORDINGS["general"])  # of questions


def worded(kind: str, slots: Sequence[str], wordings: str, rng: np.random.Generator) -> str:
    """A question in one of the templates of a set, drawn at random."""
    templates = WORDINGS[wordings][kind]
    return templates[rng.integers(len(templates))].format(*slots)


def vocabulary(classes: Sequence[str]) -> tuple[str, ...]:
    """All words that questions about these classes are made of; the place of a word, from 1, is its token."""
    words = {word for own in WORDINGS.values() for some in own.values() for one in some for word in one.split()}
    return tuple(sorted({*classes, *SIDES, *(word for word in words if not word.startswith("{"))}))


def encoded(question: str, words: Sequence[str]) -> np.ndarray:
    """A question as tokens, int32 `(LENGTH,)`."""
    tokens = [words.index(word) + 1 for word in question.split()]
    return np.array(tokens + [0] * (LENGTH - len(tokens)), np.int32)
