"""Random crops, flips, jitter and RandAugment: the right distribution, the right pictures, the same again."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vision.augment import OPERATIONS, Augment, augmentation, crop_box

LEVELS: tuple[Literal["light", "strong"], ...] = ("light", "strong")
AREAS = {"light": (0.5, 1.0), "strong": (0.25, 1.0)}
UNSIGNED = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"}
WITHOUT_STRENGTH = {"Identity", "AutoContrast", "Equalize"}
RNG = np.random.default_rng


def made(level: Literal["light", "strong"], size: int, **options: Image.Resampling) -> Augment:
    augment = augmentation(level, size, **options)
    assert augment is not None
    return augment


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pattern() -> Image.Image:
    """The picture that the recorded numbers are of."""
    y, x = np.mgrid[:24, :32]
    return Image.fromarray(np.stack([(x * 8 + y) % 256, y * 10 % 256, x * y % 256], -1).astype(np.uint8))


def test_none_is_nothing() -> None:
    assert augmentation("none", 8) is None


@settings(deadline=None)
@given(
    level=st.sampled_from(LEVELS),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_any_picture_has_the_size_and_is_the_same_again(level, width: int, height: int, size: int, seed: int) -> None:
    image = noise(width, height)
    before = image.tobytes()
    augment = made(level, size)
    first, second = augment(image, RNG(seed)), augment(image, RNG(seed))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert first.flags.writeable
    np.testing.assert_array_equal(first, second)
    assert image.tobytes() == before


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (500, 2), (1, 3000)])
def test_pictures_of_extreme_shapes(level: Literal["light", "strong"], shape: tuple[int, int]) -> None:
    augment, rng = made(level, 16), RNG(0)
    assert all(augment(noise(*shape), rng).shape == (16, 16, 3) for _ in range(20))


@pytest.mark.parametrize("level", LEVELS)
def test_pictures_differ_from_call_to_call(level: Literal["light", "strong"]) -> None:
    augment, rng, image = made(level, 16), RNG(0), noise(40, 30)
    assert len({augment(image, rng).tobytes() for _ in range(50)}) == 50


@pytest.mark.parametrize("level", LEVELS)
def test_it_can_be_pickled_and_compared(level: Literal["light", "strong"]) -> None:
    augment, image = made(level, 16), noise(40, 30)
    again = pickle.loads(pickle.dumps(augment))
    assert again == augment
    np.testing.assert_array_equal(again(image, RNG(3)), augment(image, RNG(3)))


@pytest.mark.parametrize("level", LEVELS)
def test_the_whole_of_a_picture_is_itself(level: Literal["light", "strong"], monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop of everything at the same size is the picture or its mirror image, value for value."""
    monkeypatch.setattr("vision.augment.crop_box", lambda size, areas, rng: (0, 0, *size))
    monkeypatch.setattr("vision.augment._JITTERS", (OPERATIONS["Identity"],) * 3)
    monkeypatch.setattr("vision.augment.OPERATIONS", {"Identity": OPERATIONS["Identity"]})
    image, augment, rng = noise(24, 24), made(level, 24), RNG(0)
    plain, mirrored = np.asarray(image), np.asarray(ImageOps.mirror(image))
    flips = 0
    for _ in range(400):
        result = augment(image, rng)
        flips += np.array_equal(result, mirrored)
        assert np.array_equal(result, plain) or np.array_equal(result, mirrored)
    assert 160 < flips < 240  # half, within four deviations


def test_grey_stays_grey_when_cropped() -> None:
    augment, rng = made("light", 20), RNG(0)
    for value in (0, 1, 127, 255):
        assert (augment(Image.new("RGB", (33, 47), (value,) * 3), rng) == value).all()


def test_the_filter_is_the_one_asked_for() -> None:
    image = noise(40, 30)
    nearest = made("light", 64, resample=Image.Resampling.NEAREST)(image, RNG(0))
    colours = {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3)}
    assert {tuple(pixel) for pixel in nearest.reshape(-1, 3)} <= colours
    assert not {tuple(pixel) for pixel in made("light", 64)(image, RNG(0)).reshape(-1, 3)} <= colours


# 20,000 draws of torchvision 0.29.1's RandomResizedCrop.get_params with ratio (3/4, 4/3) after torch.manual_seed(0):
# quantiles 0.05, 0.25, 0.5, 0.75, 0.95 of the share of the area, and of width by height.
TORCHVISION_CROPS = {
    ((640, 427), "light"): ([0.509, 0.548, 0.608, 0.690, 0.808], [0.861, 1.016, 1.142, 1.245, 1.320]),
    ((640, 427), "strong"): ([0.272, 0.357, 0.465, 0.583, 0.747], [0.784, 0.915, 1.064, 1.202, 1.307]),
    ((100, 300), "strong"): ([0.256, 0.285, 0.332, 0.443, 0.443], [0.752, 0.752, 0.824, 0.944, 1.141]),
    ((224, 224), "light"): ([0.518, 0.592, 0.686, 0.781, 0.902], [0.781, 0.887, 1.000, 1.127, 1.280]),
    ((224, 224), "strong"): ([0.282, 0.403, 0.560, 0.716, 0.874], [0.778, 0.878, 1.000, 1.141, 1.288]),
}


@pytest.mark.parametrize(("size", "level"), TORCHVISION_CROPS)
def test_crops_are_as_large_and_as_wide_as_torchvisions(size: tuple[int, int], level: str) -> None:
    rng = RNG(0)
    left, top, right, bottom = np.array([crop_box(size, AREAS[level], rng) for _ in range(8000)]).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= size[0]).all()
    assert (bottom <= size[1]).all()
    wide, high = right - left, bottom - top
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    areas, aspects = TORCHVISION_CROPS[size, level]
    np.testing.assert_allclose(np.quantile(wide * high / (size[0] * size[1]), quantiles), areas, atol=0.015)
    np.testing.assert_allclose(np.quantile(wide / high, quantiles), aspects, atol=0.02)
    for start, room in ((left, size[0] - wide), (top, size[1] - high)):  # anywhere, as likely
        assert abs((start[room > 0] / room[room > 0]).mean() - 0.5) < 0.02


def test_a_long_picture_is_cropped_along_its_length() -> None:
    rng = RNG(0)
    boxes = [crop_box((30, 3000), AREAS["light"], rng) for _ in range(500)]
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(30, 40)}
    tops = np.array([top for _, top, _, _ in boxes])
    assert tops.min() < 100
    assert tops.max() > 2860


# torchvision 0.29.1's autoaugment._apply_op on `pattern()` as a Pillow image at magnitude 9 of 30 (of 31 bins) with
# InterpolationMode.BILINEAR and fill 128, first with the sign +, then -: the sum of all values, and the sum of value
# times place modulo 65521. ShearX has a test of its own.
TORCHVISION_OPERATIONS = {
    "Identity": [(259136, 29660)],
    "ShearY": [(266968, 26163), (251801, 29775)],
    "TranslateX": [(256024, 60022), (281048, 45403)],
    "TranslateY": [(250912, 5808), (281552, 37622)],
    "Rotate": [(264652, 59275), (263271, 35970)],
    "Brightness": [(317057, 25404), (188083, 48360)],
    "Color": [(257003, 56187), (260463, 4429)],
    "Contrast": [(259480, 4490), (260220, 5351)],
    "Sharpness": [(259143, 57236), (258921, 31443)],
    "Posterize": [(258560, 59383)],
    "Solarize": [(164273, 37095)],
    "AutoContrast": [(268384, 53424)],
    "Equalize": [(321835, 10028)],
}


@pytest.mark.parametrize("name", TORCHVISION_OPERATIONS)
def test_operations_are_torchvisions(name: str) -> None:
    for sign, expected in zip((1, -1), TORCHVISION_OPERATIONS[name], strict=False):
        values = np.asarray(OPERATIONS[name](pattern(), sign * 9 / 30)).astype(int).ravel()
        assert (values.sum(), (values * np.arange(values.size)).sum() % 65521) == expected


def test_shear_is_torchvisions_but_for_rounding() -> None:
    """As above, 263808 and 259429; by way of tan(atan(x)) 1 and 30 of the 2304 values are others, by one."""
    for sign, total in ((1, 263808), (-1, 259429)):
        sheared = np.asarray(OPERATIONS["ShearX"](pattern(), sign * 9 / 30)).astype(int)
        assert abs(sheared.sum() - total) <= 30


def test_solarize_inverts_the_brightest() -> None:
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    values = np.arange(256)
    for strength, threshold in ((0.0, 256), (9 / 30, 179), (-9 / 30, 179), (1.0, 0)):
        found = np.asarray(OPERATIONS["Solarize"](ramp, strength))[:, :, 0].ravel()
        np.testing.assert_array_equal(found, np.where(values < threshold, values, 255 - values))


def test_posterize_keeps_the_upper_bits() -> None:
    """`8 - round(4 m)`: seven bits at 9 of 30, four at most."""
    values = np.asarray(pattern())
    for strength, low_bits in ((0.1, 0), (9 / 30, 1), (-9 / 30, 1), (0.5, 2), (1.0, 4)):
        found = np.asarray(OPERATIONS["Posterize"](pattern(), strength))
        np.testing.assert_array_equal(found, values >> low_bits << low_bits)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in {"AutoContrast", "Equalize"}])
@pytest.mark.parametrize("shape", [(32, 24), (1, 1), (3, 200)])
def test_strength_zero_leaves_the_picture(name: str, shape: tuple[int, int]) -> None:
    for image in (noise(*shape), Image.new("RGB", shape, (255, 0, 255))):
        np.testing.assert_array_equal(np.asarray(OPERATIONS[name](image, 0.0)), np.asarray(image))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Identity"])
def test_every_operation_changes_the_picture(name: str) -> None:
    image = pattern()
    less, more = (np.asarray(OPERATIONS[name](image, sign * 9 / 30)) for sign in (-1, 1))
    for changed in (less, more):
        assert changed.shape == (24, 32, 3)
        assert not np.array_equal(changed, np.asarray(image))
    assert np.array_equal(less, more) == (name in UNSIGNED)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in WITHOUT_STRENGTH])
def test_more_strength_changes_more(name: str) -> None:
    away = lambda strength: np.abs(np.asarray(OPERATIONS[name](pattern(), strength), float) - np.asarray(pattern()))
    assert away(1.0).mean() > away(0.3).mean() > 0


def test_strong_draws_all_operations_alike_to_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    spy = lambda name: lambda image, strength: drawn.append((name, strength)) or image
    monkeypatch.setattr("vision.augment.OPERATIONS", {name: spy(name) for name in OPERATIONS})
    augment, rng = made("strong", 4), RNG(0)
    for _ in range(3500):
        augment(Image.new("RGB", (4, 4)), rng)
    assert len(drawn) == 7000  # two a picture: 500 of each, 250 to each side
    assert {round(abs(strength), 6) for _, strength in drawn} == {0.3}
    for name in OPERATIONS:
        assert abs(drawn.count((name, 9 / 30)) - 250) < 65  # four deviations
        assert abs(drawn.count((name, -9 / 30)) - 250) < 65


def test_jitter_is_thirty_percent_of_brightness_contrast_and_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.augment.OPERATIONS", {"Identity": OPERATIONS["Identity"]})
    augment, rng = made("strong", 8), RNG(0)
    grey = np.array([augment(Image.new("RGB", (8, 8), (100,) * 3), rng) for _ in range(600)])
    assert (grey == grey[:, :1, :1, :1]).all()  # contrast and saturation leave one grey as it is
    brightness = grey[:, 0, 0, 0] / 100
    assert 0.69 <= brightness.min() < 0.72
    assert 1.28 < brightness.max() <= 1.31
    assert abs(brightness.mean() - 1) < 0.03
    red = np.array([augment(Image.new("RGB", (8, 8), (150, 100, 100)), rng)[0, 0].astype(float) for _ in range(600)])
    # Of one colour, contrast goes towards its own grey, as saturation does: 0.7 to 1.3 each.
    spread = (red[:, 0] - red[:, 1]) / 50
    assert 0.3 < spread.min() < 0.6
    assert 1.5 < spread.max() < 2.3
    np.testing.assert_array_equal(red[:, 1], red[:, 2])  # hue stays


def test_workers_load_no_jax() -> None:
    code = "import sys, vision.augment; assert not {'jax', 'torch', 'grain'} & set(sys.modules), sorted(sys.modules)"
    examples = str(Path(__file__).parents[1] / "examples")
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": examples})
