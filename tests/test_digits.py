"""The embedded task: its splits, its domains, its randomness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

from vision import digits
from vision.data import ArrayDomain, Task


@pytest.fixture(scope="module")
def task() -> Task:
    return digits.digits_task(0)


def domains(task: Task) -> dict[str, ArrayDomain]:
    assert task.pretrain is not None
    fixed = {"pretrain": task.pretrain, "train": task.train, "validation": task.validation, "id": task.id_test}
    return {**fixed, **task.ood}


def as_bytes(task: Task) -> dict[str, tuple[bytes, bytes]]:
    return {name: (part.images.tobytes(), part.labels.tobytes()) for name, part in domains(task).items()}


def test_sizes_and_groups(task):
    assert task.classes == tuple("0123456789")
    assert [len(part) for part in domains(task).values()] == [6 * 800, 300, 100, *[597] * 9]
    assert tuple(task.ood) == digits.SEEN + digits.HELD_OUT
    assert task.ood_groups == {"seen": digits.SEEN, "held out": digits.HELD_OUT}
    assert (len(digits.SEEN), len(digits.HELD_OUT)) == (6, 2)
    assert {name: part.name for name, part in task.ood.items()} == {name: name for name in task.ood}
    assert {part.name for part in (task.train, task.validation, task.id_test)} == {digits.ID}


@pytest.mark.parametrize("smallest", [False, True])
def test_images_and_labels_have_the_documented_form(smallest):
    task = digits.digits_task(0, smallest=smallest)
    for part in domains(task).values():
        assert part.images.dtype == np.uint8
        assert part.images.shape == (len(part), task.image_size, task.image_size, 3)
        assert part.labels.dtype == np.int32
        assert set(part.labels) <= set(range(10))
        assert part.images.std(axis=(1, 2, 3)).min() > 0  # no image is blank


@pytest.mark.parametrize("smallest", [False, True])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(smallest):
    first, again, other = (as_bytes(digits.digits_task(seed, smallest)) for seed in (5, 5, 6))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_every_test_set_shows_the_same_digits_in_another_appearance(task):
    for part in task.ood.values():
        np.testing.assert_array_equal(part.labels, task.id_test.labels)
    images = [part.images.tobytes() for part in (task.id_test, *task.ood.values())]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_digit_is_in_two_splits(monkeypatch, seed, smallest):
    # Every appearance is replaced by one that writes the digit's number into its pixels.
    count = 1797
    tagged = np.arange(count)[:, None, None] * np.ones((1, 16, 16))
    monkeypatch.setattr(digits, "_load_digits", lambda: (tagged, np.arange(count, dtype=np.int32) % 10))
    monkeypatch.setattr(digits, "_to_uint8", lambda images: images)
    copy = lambda digits, rng: np.repeat(digits[..., None], 3, axis=-1)
    monkeypatch.setattr(digits, "_APPEARANCES", dict.fromkeys(digits._APPEARANCES, copy))
    task = digits.digits_task(seed, smallest)
    used = {name: set(part.images[:, 0, 0, 0].astype(int)) for name, part in domains(task).items()}
    splits = [used[name] for name in ("pretrain", "train", "validation", "id")]
    sizes = (200, 64, 32, 64) if smallest else (800, 300, 100, 597)
    assert [len(split) for split in splits] == list(sizes)
    assert len(set.union(*splits)) == sum(sizes)
    assert all(used[name] == used["id"] for name in task.ood)


def test_inverted_is_the_negative_of_clean_and_blurred_is_smoother(task):
    clean, inverted, blurred = (task.ood[name].images.astype(int) for name in ("clean", "inverted", "blurred"))
    np.testing.assert_allclose(inverted, 255 - clean, atol=1)
    assert np.abs(np.diff(blurred, axis=2)).sum() < 0.8 * np.abs(np.diff(clean, axis=2)).sum()
    assert abs(blurred.sum() / clean.sum() - 1) < 0.05


def test_photo_is_the_difference_to_a_patch_of_a_photograph(task):
    clean = task.ood["clean"].images.astype(int)
    photo = task.id_test.images.astype(int)
    # Without ink the patch shows through as it is; with full ink, as its negative.
    paper, ink = np.all(clean == 0, axis=-1), np.all(clean == 255, axis=-1)
    patches = np.where(paper[..., None], photo, 255 - photo)
    assert paper.mean() > 0.2
    assert ink.any()
    for image, sure in zip(patches[:3], (paper | ink)[:3], strict=True):
        assert _is_in_a_photograph(image, sure)
    assert not _is_in_a_photograph(patches[0][::-1], (paper | ink)[0][::-1])


def _is_in_a_photograph(image: np.ndarray, sure: np.ndarray) -> bool:
    """Whether the pixels of an image that are `sure` lie like this, within rounding, anywhere in a photograph."""
    photos = np.stack(load_sample_images().images).astype(np.int16)
    windows = np.lib.stride_tricks.sliding_window_view(photos, (16, 16), axis=(1, 2))
    places = np.ones(windows.shape[:3], bool)
    for row, column in np.argwhere(sure):
        for colour in range(3):
            places &= np.abs(windows[:, :, :, colour, row, column] - image[row, column, colour]) <= 1
    return bool(places.any())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**63 - 1))
def test_rotation_is_by_20_to_45_degrees(seed):
    # A bar through the centre: its principal axis tells the angle.
    bar = np.zeros((32, 16, 16))
    bar[:, 7:9, 2:14] = 1
    turned = digits._rotated(bar, np.random.default_rng(seed))[..., 0]
    rows, columns = np.indices((16, 16)) - 7.5
    mass = turned.sum(axis=(1, 2))
    moments = [(turned * a * b).sum(axis=(1, 2)) / mass for a, b in ((columns, columns), (rows, rows), (rows, columns))]
    degrees = np.degrees(0.5 * np.arctan2(2 * moments[2], moments[0] - moments[1]))
    assert np.all((np.abs(degrees) > 18) & (np.abs(degrees) < 47))
    assert set(np.sign(degrees)) == {-1, 1}
