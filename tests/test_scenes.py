"""Scenes: the mask is what was painted, the layout is what the mask shows, a seed is a scene, splits share nothing."""

import numpy as np
import pytest

from evidence import artwork
from evidence.artwork import DIGIT_STYLES, OPAQUE, Artwork, digit_artwork, emoji_artwork, stickers
from evidence.composer import BACKGROUND, COLOURS, Composition, colour_of, compose, photographs
from evidence.emoji import Drawings
from evidence.emoji_table import emoji_table
from evidence.emoji_task import SPLITS

BLACK = (np.zeros((80, 80, 3), np.uint8),)
DEFAULT = Composition()


def squares(count=6, classes=3):
    """Opaque squares, each of one brightness, which tells in the picture what was painted where."""
    rgba = np.zeros((count, 16, 16, 4), np.uint8)
    rgba[..., :3] = (40 * np.arange(1, count + 1))[:, None, None, None]
    rgba[:, 2:14, 2:14, 3] = 255
    return Artwork(rgba, np.arange(count, dtype=np.int32) + 10, np.arange(count, dtype=np.int32) % classes)


def scenes(art, count=40, how=DEFAULT):
    return [compose(art, BLACK, (0, number), how) for number in range(count)]


def test_the_mask_is_what_was_painted():
    art, how = squares(), Composition(fewest=4, largest=0.5)
    for scene in scenes(art, how=how):
        # resizing blends the rim of a square with nothing, so its brightness is exact where it is fully opaque
        for place, thing in enumerate(scene.things, start=1):
            drawing = thing.identity - 10
            inside = scene.image[scene.instances == place][:, 0]
            assert (np.median(inside) == 40 * (drawing + 1)).all()
            assert (scene.mask[scene.instances == place] == art.label[drawing] + 1).all()
        assert ((scene.mask == BACKGROUND) == (scene.instances == 0)).all()
        assert (scene.image[scene.instances == 0] < OPAQUE).all()  # at most half a square's opacity of 240


def test_the_layout_is_what_the_masks_show():
    counts = set()
    for scene in scenes(squares(classes=1), how=Composition(visible=0.6)):
        counts.add(len(scene.things))
        for depth, thing in enumerate(scene.things):
            rows, columns = np.nonzero(scene.instances == depth + 1)
            top, left, bottom, right = thing.box
            assert top <= rows.min() <= rows.max() < bottom
            assert left <= columns.min() <= columns.max() < right
            area = (bottom - top) * (right - left)  # squares
            assert len(rows) >= 0.6 * area
        assert len({thing.identity for thing in scene.things}) == len(scene.things)
        assert len(rows) == area  # nothing hides the last
    assert counts == {1, 2, 3, 4}


def test_a_seed_is_a_scene_and_another_seed_another():
    first, again, other = (compose(squares(), BLACK, seed, DEFAULT) for seed in ((3, 1), (3, 1), (3, 2)))
    assert (first.image == again.image).all()
    assert first.things == again.things
    assert (first.image.shape != other.image.shape) or (first.image != other.image).any()


def test_styles_share_the_layout_and_the_emoji_they_have():
    art = squares()
    darker = art._replace(rgba=art.rgba // np.array([2, 2, 2, 1], np.uint8))
    fewer = Artwork(*(part[[0, 1, 2, 4, 5]] for part in art))  # one artist has not drawn the fourth
    for one, same, other in zip(scenes(art), scenes(darker), scenes(fewer), strict=True):
        assert (one.mask == same.mask).all()
        assert [t._replace(colour="") for t in one.things] == [t._replace(colour="") for t in same.things]
        if 13 not in {thing.identity for thing in one.things}:
            assert one.things == other.things
        assert (one.mask > 0).tolist() == (other.mask > 0).tolist()


def test_all_classes_come_about_equally_often():
    rare = Artwork(*(part[[0, 1, 2, 3]] for part in squares(6, 2)))._replace(label=np.array([0, 1, 1, 1], np.int32))
    labels = [scene.things[0].label for scene in scenes(rare, 300, Composition(most=1))]
    assert 0.4 < np.mean(labels) < 0.6


def test_stickers_have_paper_inside_their_lines():
    ring = np.zeros((1, 9, 9, 4), np.uint8)
    ring[0, 1:8, 1:8, 3] = 255
    ring[0, 2:7, 2:7, 3] = 0
    made = stickers(ring)[0]
    assert (made[2:7, 2:7] == 255).all()
    assert (made[1, 1:8] == (0, 0, 0, 255)).all()
    assert made[0].max() == 0
    full = np.full((1, 9, 9, 4), 255, np.uint8)
    assert (stickers(full) == full).all()


@pytest.mark.parametrize("style", DIGIT_STYLES)
def test_digits_are_split_by_digit(style):
    parts = {split: digit_artwork(style, split, 0) for split in SPLITS}
    found = np.concatenate([part.identity for part in parts.values()])
    assert len(np.unique(found)) == len(found)
    for part in parts.values():
        assert set(part.label) == set(range(10))
        assert ((part.rgba[..., 3] >= OPAQUE).mean((1, 2)) > 0.02).all()


def test_emoji_are_split_as_in_the_main_benchmark(monkeypatch):
    table = emoji_table()
    drawn = Drawings(np.full((len(table), 4, 4, 4), 255, np.uint8), np.arange(len(table), dtype=np.int32))
    monkeypatch.setattr(artwork, "load_style", lambda style, size: drawn)
    parts = {split: emoji_artwork("noto", split, 1) for split in SPLITS}
    families = [{table[i].family for i in part.identity} for part in parts.values()]
    for first in range(4):
        for second in range(first):
            assert not families[first] & families[second]
    for split, part in parts.items():
        assert len(part.identity) > 50, split
        assert all(table[i].label == label for i, label in zip(part.identity, part.label, strict=True))


def test_no_test_scene_has_a_background_of_the_others():
    train, test = photographs("train"), photographs("test")
    whole = [one.shape[1] + other.shape[1] for one, other in zip(train, test, strict=True)]
    assert whole == [640, 640]
    assert (np.concatenate([train[0], test[0]], axis=1)[:, 448:] == test[0]).all()


def test_a_photograph_must_be_as_large_as_the_scene():
    with pytest.raises(ValueError, match="80x80 pixels is smaller than a scene of 96"):
        compose(squares(), BLACK, (0,), Composition(side=96))


def test_the_colour_is_the_one_of_most_pixels():
    tile = np.zeros((4, 4, 4), np.uint8)
    tile[:2] = (230, 30, 30, 255)
    tile[2:, :1] = (30, 120, 230, 255)
    assert colour_of(tile) == "red"
    assert "red" in COLOURS
    assert len(COLOURS) == 11
