"""Questions with true answers: everything that a layout lets one ask without doubt, and a choice among it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evidence.composer import COLOURS, Thing
from evidence.wordings import SIDES

COUNTS = ("one", "two", "three", "four")

_CLEAR = 0.15  # of the picture's side: what is nearer to the middle, or to the next thing, has no clear place

_SKEW = 4.0  # how much likelier one half of the answers is

# The answers to one kind of question, in order; to the others the classes. Left before top and right before bottom:
# halves of an axis must not be halves of the list.
_ANSWERS = {
    "presence": ("yes", "no"),
    "count": COUNTS,
    "colour": COLOURS,
    "position": ("left", "top", "right", "bottom"),
}


class Question(NamedTuple):
    """A question and its one true answer."""

    kind: str  # one of `evidence.wordings.KINDS`
    slots: tuple[str, ...]  # what is filled into the template
    answer: str  # a word of `answers`


def answers(classes: Sequence[str]) -> tuple[str, ...]:
    """The vocabulary of answers, fixed for a task: an answer's place in it is the model's label."""
    return (*classes, "yes", "no", *COUNTS, *COLOURS, *SIDES)


def askable(things: Sequence[Thing], classes: Sequence[str], asked_for: Sequence[int], side: int) -> list[Question]:
    """All that may be asked of a scene."""
    found = [*_places(things, classes, side), *_presence(things, classes, asked_for)]
    if 1 <= len(things) <= len(COUNTS):
        found.append(Question("count", (), COUNTS[len(things) - 1]))
    labels = [thing.label for thing in things]
    for thing in (thing for thing in things if labels.count(thing.label) == 1):  # its class's name says which it is
        name = classes[thing.label]
        found.append(Question("colour", (name,), thing.colour))
        found += [Question("position", (name, *axis), answer) for axis, answer in _where(thing, side)]
    return found


def chosen(
    candidates: Sequence[Question], number: int, prior: str, vocabulary: Sequence[str], rng: np.random.Generator
) -> list[Question]:
    """Some of the candidates: kinds in turn, then an answer by the prior, then any question that has it."""
    left = list(dict.fromkeys(candidates))
    picked: list[Question] = []
    kinds: list[str] = []
    while len(picked) < number:
        left = left or list(dict.fromkeys(candidates))
        kinds = [kind for kind in kinds if any(q.kind == kind for q in left)]
        kinds = kinds or [str(kind) for kind in rng.permutation(sorted({q.kind for q in left}))]
        kind = kinds.pop()
        by_answer: dict[str, list[Question]] = defaultdict(list)
        for question in left:
            if question.kind == kind:
                by_answer[question.answer].append(question)
        options = sorted(by_answer, key=vocabulary.index)
        weights = np.array([_weight(answer, kind, prior, vocabulary) for answer in options])
        same = by_answer[options[rng.choice(len(options), p=weights / weights.sum())]]
        picked.append(same[rng.integers(len(same))])
        left.remove(picked[-1])
    return picked


def _weight(answer: str, kind: str, prior: str, vocabulary: Sequence[str]) -> float:
    """All `even`; or the first half of the answers likelier (`skewed`), or the second (`reversed`)."""
    if prior == "even":
        return 1.0
    mine = _ANSWERS.get(kind, vocabulary[: vocabulary.index("yes")])
    early = mine.index(answer) < len(mine) / 2
    return _SKEW if early == (prior == "skewed") else 1.0


def _places(things: Sequence[Thing], classes: Sequence[str], side: int) -> Iterator[Question]:
    """What is furthest to a side; where one thing is all there is, what it is."""
    if len(things) < 2:
        yield from (Question("name", (), classes[thing.label]) for thing in things)
        return
    for where in SIDES:
        first, second, *_ = sorted(things, key=_towards(where), reverse=True)
        if _towards(where)(first) - _towards(where)(second) >= _CLEAR * side:
            yield Question("place", (where,), classes[first.label])


def _presence(things: Sequence[Thing], classes: Sequence[str], asked_for: Sequence[int]) -> Iterator[Question]:
    present = {thing.label for thing in things}
    for label in sorted(present | set(asked_for)):
        yield Question("presence", (classes[label],), "yes" if label in present else "no")


def _where(thing: Thing, side: int) -> Iterator[tuple[tuple[str, str], str]]:
    """The axes along which a thing is clearly on one side of the middle, and on which."""
    for axis in (("left", "right"), ("top", "bottom")):
        gap = _towards(axis[1])(thing) - side / 2
        if abs(gap) >= _CLEAR * side:
            yield axis, axis[int(gap > 0)]


def _towards(where: str) -> Callable[[Thing], float]:
    """How far the centre of a thing lies to a side, from a corner of the picture."""
    first, sign = (1 if where in ("left", "right") else 0), (1 if where in ("right", "bottom") else -1)
    return lambda thing: sign * (thing.box[first] + thing.box[first + 2]) / 2
