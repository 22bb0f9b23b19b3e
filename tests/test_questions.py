"""Questions and their domains: answers true by an independent look at the layout, wordings apart, shifts as told."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from evidence import ask
from evidence.artwork import Artwork, digit_artwork, stickers
from evidence.asked import FAR, NEAR, SOURCES, Sizes, asked, looks
from evidence.composer import COLOURS, Composition, Thing, compose, photographs
from evidence.emoji import on_white
from evidence.wordings import KINDS, LENGTH, SIDES, WORDINGS, encoded, vocabulary, worded

DIGITS = SOURCES["digits"]
CLASSES = ("animal", "plant", "food")
ROUND = np.random.default_rng


def scene(number, most=4):
    artwork = digit_artwork("coloured", "train", 0)
    return compose(artwork, photographs("train"), (0, number), Composition(side=64, most=most))


def thing(label, top, left, colour="red", size=10):
    return Thing(label, 7, (top, left, top + size, left + size), colour)


def truth(question, scene, classes):
    """The answer as the picture's own masks have it: no record of the layout is read, but for classes and colours."""
    shapes = {depth: scene.instances == depth + 1 for depth in range(len(scene.things))}
    names = {depth: classes[scene.mask[shape][0] - 1] for depth, shape in shapes.items()}
    if question.kind == "count":
        return ("one", "two", "three", "four")[len(np.unique(scene.instances[scene.instances > 0])) - 1]
    if question.kind == "presence":
        return "yes" if classes.index(question.slots[0]) + 1 in scene.mask else "no"
    if question.kind == "name":
        return names[0]
    if question.kind == "colour":
        return next(one.colour for one in scene.things if classes[one.label] == question.slots[0])
    return None  # of places: hidden parts count, which masks do not show


@pytest.mark.parametrize("number", range(40))
def test_answers_are_true_of_the_pixels(number):
    one = scene(number)
    for question in ask.askable(one.things, DIGITS.world.classes, range(10), 64):
        expected = truth(question, one, DIGITS.world.classes)
        assert expected in (None, question.answer), question


@pytest.mark.parametrize("number", range(40))
def test_places_are_true_of_the_boxes(number):
    one = scene(number)
    middle = {  # of a thing, as a share of the picture, growing to the named side
        "left": lambda box: -(box[1] + box[3]) / 128,
        "right": lambda box: (box[1] + box[3]) / 128,
        "top": lambda box: -(box[0] + box[2]) / 128,
        "bottom": lambda box: (box[0] + box[2]) / 128,
    }
    for question in ask.askable(one.things, DIGITS.world.classes, range(10), 64):
        if question.kind == "place":
            (side,) = question.slots
            best = max(one.things, key=lambda each: middle[side](each.box))
            assert DIGITS.world.classes[best.label] == question.answer
        if question.kind == "position":
            name, *axis = question.slots
            (own,) = (each for each in one.things if DIGITS.world.classes[each.label] == name)
            gaps = {side: middle[side](own.box) - middle[side]((32, 32, 32, 32)) for side in axis}
            assert gaps[question.answer] >= 0.15


def test_what_is_in_doubt_is_not_asked():
    twins = [thing(0, 5, 5), thing(0, 40, 40, "blue"), thing(1, 27, 27)]
    found = ask.askable(twins, CLASSES, (), 64)
    assert not [q for q in found if q.kind in ("colour", "position") and q.slots[0] == "animal"]
    assert not [q for q in found if q.kind == "position" and q.slots[0] == "plant"]  # it is in the middle
    level = [thing(0, 20, 5), thing(1, 20, 45)]
    sides = {q.slots[0] for q in ask.askable(level, CLASSES, (), 64) if q.kind == "place"}
    assert sides == {"left", "right"}
    assert ask.askable([], CLASSES, (2,), 64) == [ask.Question("presence", ("food",), "no")]


def test_questions_are_not_repeated_while_there_are_others():
    candidates = ask.askable(scene(3).things, DIGITS.world.classes, range(10), 64)
    picked = ask.chosen(candidates, len(set(candidates)), "even", ask.answers(DIGITS.world.classes), ROUND(0))
    assert sorted(picked) == sorted(set(candidates))


@pytest.mark.parametrize(("prior", "share"), [("even", 1 / 2), ("skewed", 4 / 5), ("reversed", 1 / 5)])
def test_the_prior_is_that_of_the_answers(prior, share):
    candidates = [ask.Question("presence", (c,), a) for c, a in zip(CLASSES, ("yes", "no", "no"), strict=True)]
    rng, replies = ROUND(0), ask.answers(CLASSES)
    drawn = Counter(ask.chosen(candidates, 1, prior, replies, rng)[0].answer for _ in range(2000))
    assert drawn["yes"] / 2000 == pytest.approx(share, abs=0.04)


def test_the_vocabulary_of_answers_is_fixed_and_has_every_answer_once():
    replies = ask.answers(DIGITS.world.classes)
    assert len(set(replies)) == len(replies) == 10 + 2 + 4 + len(COLOURS) + 4
    for number in range(20):
        for question in ask.askable(scene(number).things, DIGITS.world.classes, range(10), 64):
            assert question.answer in replies


def test_wordings_are_disjoint():
    for one, other in itertools.combinations(WORDINGS.values(), 2):
        assert not {t for ts in one.values() for t in ts} & {t for ts in other.values() for t in ts}
    assert all(tuple(one) == KINDS for one in WORDINGS.values())


def test_no_wording_has_words_that_the_general_ones_lack():
    general, tuned, held = ({w for ts in one.values() for t in ts for w in t.split()} for one in WORDINGS.values())
    assert tuned | held <= general | {"{1}", "{2}"}


def test_wordings_fill_all_slots_and_fit():
    words = vocabulary(SOURCES["emoji"].world.classes)
    slots = {"place": ("left",), "presence": ("animal",), "colour": ("animal",), "position": ("animal", *SIDES[:2])}
    for kind, wordings in itertools.product(KINDS, WORDINGS):
        for template in WORDINGS[wordings][kind]:
            text = template.format(*slots.get(kind, ()))
            tokens = encoded(text, words)
            assert tokens.shape == (LENGTH,)
            assert [words[t - 1] for t in tokens if t] == text.split()
            assert len(set(re.findall(r"\{\d\}", template))) == len(slots.get(kind, ()))
        assert worded(kind, slots.get(kind, ()), wordings, ROUND(0))


@pytest.fixture(scope="module")
def domains():
    found = looks(DIGITS)
    split = lambda name: "pretrain" if name == "pretrain" else "test"
    return {name: asked(DIGITS, name, look, split(name), 0, Sizes(8, 24)) for name, look in found.items()}


def test_domains_are_the_seeds(domains):
    again = asked(DIGITS, "id", looks(DIGITS)["id"], "test", 0, Sizes(8, 24))
    other = asked(DIGITS, "id", looks(DIGITS)["id"], "test", 1, Sizes(8, 24))
    for name in ("images", "words", "labels", "kinds"):
        assert (getattr(again, name) == getattr(domains["id"], name)).all()
    assert (other.images != again.images).any()


def test_a_shift_of_the_question_leaves_the_pictures_alone(domains):
    for name in ("general wording", "new wording", "answer prior"):
        assert (domains[name].images == domains["id"].images).all()
        assert (domains[name].words != domains["id"].words).any()
    assert (domains["new wording"].labels == domains["id"].labels).all()
    for name in ("seen style", "new style", "other background"):
        assert (domains[name].images != domains["id"].images).any()


def test_every_shifted_domain_is_near_or_far_and_differs_in_what_it_says():
    found = looks(DIGITS)
    own = found["id"]._asdict()
    changed = {n: {k for k, v in found[n]._asdict().items() if v != own[k]} for n in NEAR + FAR}
    assert changed["new wording and style"] == {"styles", "wordings"}
    assert changed["answer prior"] == {"prior"}
    assert changed["more things"] == {"things"}
    assert changed["other background"] == {"photos", "on_paper"}
    assert changed["untuned categories"] == {"labels"}
    assert len(changed["all at once"]) == 6
    assert {found["untuned categories"].labels} == {(3, 7)}


def test_fine_tuning_never_names_the_withheld_classes():
    train = asked(DIGITS, "id", looks(DIGITS)["id"], "train", 0, Sizes(16, 48))
    words, replies = vocabulary(DIGITS.world.classes), ask.answers(DIGITS.world.classes)
    named = {words[token - 1] for token in train.words[train.words > 0]}
    assert not named & {"3", "7"}
    assert not {replies[label] for label in train.labels.ravel()} & {"3", "7"}
    assert named >= {"0", "1"}


def test_the_reversed_prior_reverses_the_answers(domains):
    replies = ask.answers(DIGITS.world.classes)
    yes, no = replies.index("yes"), replies.index("no")
    share = lambda one: (one.labels == yes).sum() / np.isin(one.labels, (yes, no)).sum()
    assert share(domains["id"]) > 0.6 > 0.4 > share(domains["answer prior"])


def test_a_single_thing_is_the_classification_benchmarks_image():
    shape = np.zeros((64, 64, 4), np.uint8)
    shape[10:50, 20:40] = (200, 30, 40, 255)
    shape[20:30, 25:35] = 0  # a hole that is filled with paper
    shape[10, 20:40, 3] = 100
    one = Artwork(stickers(shape[None]), np.array([5], np.int32), np.array([0], np.int32))
    paper = np.full((64, 64, 3), 255, np.uint8)
    how = Composition(fewest=1, most=1, smallest=1.0, largest=1.0)
    assert (compose(one, [paper], (0,), how).image == on_white(shape)).all()
