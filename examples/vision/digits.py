"""The embedded task: handwritten digits under different appearances, nothing to download.

scikit-learn carries 1,797 handwritten digits and two photographs. Each *appearance* below is one domain. The foundation
model learns six synthetic ones, fine-tuning learns *photo* (digits blended into photographs, the MNIST-M recipe), and
two more are held out from both. Digits are split once, by digit, and every domain's test set shows the same test
digits, so that domains differ by appearance alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images

from vision.data import ArrayDomain, Task

__all__ = ["HELD_OUT", "ID", "SEEN", "appearances_task", "digits_task"]

# (pre-training, fine-tuning, validation, test) digits; the remainder of the small split is left out.
_SPLIT = (800, 300, 100, 597)
_SMALLEST_SPLIT = (200, 64, 32, 64)

# Takes digits (n, 16, 16) in 0..1, ink = 1, and gives images (n, 16, 16, 3), nominally in 0..1.
Appearance = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _clean(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    return np.repeat(digits[..., None], 3, axis=-1)


def _inverted(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 1 - _clean(digits, rng)


def _coloured(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = rng.uniform(0.4, 1, (len(digits), 1, 1, 3))
    paper = rng.uniform(0, 0.3, ink.shape)
    return paper + digits[..., None] * (ink - paper)


def _rotated(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    degrees = rng.uniform(20, 45, len(digits)) * rng.choice([-1, 1], len(digits))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows, columns = np.indices(digits.shape[1:]) - (digits.shape[1] - 1) / 2
    source_rows = np.multiply.outer(cos, rows) - np.multiply.outer(sin, columns)
    source_columns = np.multiply.outer(sin, rows) + np.multiply.outer(cos, columns)
    which = np.broadcast_to(np.arange(len(digits))[:, None, None], digits.shape)
    centre = (digits.shape[1] - 1) / 2
    turned = ndimage.map_coordinates(digits, [which, source_rows + centre, source_columns + centre], order=1)
    return _clean(turned, rng)


def _blurred(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clean(ndimage.gaussian_filter(digits, sigma=(0, 1.2, 1.2)), rng)


def _noisy(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clean(digits, rng) + rng.normal(0, 0.25, (*digits.shape, 3))


def _photo(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    photos = np.stack(load_sample_images().images) / 255  # china.jpg and flower.jpg have the same size
    patches = np.lib.stride_tricks.sliding_window_view(photos, digits.shape[1:], axis=(1, 2))
    picked = tuple(rng.integers(0, n, len(digits)) for n in patches.shape[:3])
    return np.abs(digits[..., None] - np.moveaxis(patches[picked], 1, -1))


def _low_contrast(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.2 * (_clean(digits, rng) - 0.5)


def _stripes(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle, phase = rng.uniform(0, 2 * np.pi, (2, len(digits), 1, 1))
    period = rng.uniform(3, 6, (len(digits), 1, 1))
    rows, columns = np.indices(digits.shape[1:])
    wave = np.sin(2 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) / period + phase)
    return _clean(np.maximum(digits, 0.3 * (1 + wave)), rng)


_APPEARANCES: dict[str, Appearance] = {
    "clean": _clean,
    "inverted": _inverted,
    "coloured": _coloured,
    "rotated": _rotated,
    "blurred": _blurred,
    "noisy": _noisy,
    "photo": _photo,
    "low contrast": _low_contrast,
    "stripes": _stripes,
}

SEEN = ("clean", "inverted", "coloured", "rotated", "blurred", "noisy")
"""Domains the foundation model was pre-trained on."""

ID = "photo"
"""The domain that is fine-tuned on."""

HELD_OUT = ("low contrast", "stripes")
"""Domains that neither pre-training nor fine-tuning has seen."""


def digits_task(seed: int, smallest: bool = False) -> Task:
    """The digits-on-photographs task.

    Args:
        seed: Of the split and of everything random in the appearances; the same seed gives the same bytes.
        smallest: A tenth of the digits, for a run of seconds. All domains and splits are still there.

    Returns:
        A task with `photo` as ID, `SEEN + HELD_OUT` as OOD, and the six `SEEN` domains mixed as `pretrain`.
    """
    bounds = _SMALLEST_SPLIT if smallest else _SPLIT
    return appearances_task("digits", tuple("0123456789"), *_load_digits(), bounds, seed)


def appearances_task(
    name: str, classes: tuple[str, ...], drawings: np.ndarray, labels: np.ndarray, sizes: Sequence[int], seed: int
) -> Task:
    """The same task of any small grey drawings: fine-tune on photographs, know six appearances, test on all.

    Args:
        name: Of the task.
        classes: Class names.
        drawings: `(n, size, size)` in 0..1, ink = 1.
        labels: int32, `(n,)`.
        sizes: How many drawings are for pre-training, fine-tuning, validation and test; the remainder is left out.
        seed: Of the split and of everything random in the appearances.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = np.split(order, np.cumsum(sizes))
    splits: dict[str, np.ndarray] = dict(zip(("pretrain", "train", "validation", "test"), parts, strict=False))

    def domain(appearance: str, split: str) -> ArrayDomain:
        stream = (seed, list(_APPEARANCES).index(appearance), list(splits).index(split))
        chosen = splits[split]
        images = _APPEARANCES[appearance](drawings[chosen], np.random.default_rng(stream))
        return ArrayDomain(appearance, _to_uint8(images), labels[chosen])

    pretrain = [domain(appearance, "pretrain") for appearance in SEEN]
    return Task(
        name=name,
        classes=classes,
        image_size=drawings.shape[1],
        train=domain(ID, "train"),
        validation=domain(ID, "validation"),
        id_test=domain(ID, "test"),
        ood={appearance: domain(appearance, "test") for appearance in SEEN + HELD_OUT},
        ood_groups={"seen": SEEN, "held out": HELD_OUT},
        pretrain=ArrayDomain(
            "seen",
            np.concatenate([part.images for part in pretrain]),
            np.concatenate([part.labels for part in pretrain]),
        ),
    )


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits as float64 `(1797, 16, 16)` in 0..1, and their int32 labels."""
    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = ndimage.zoom(images.reshape(-1, 8, 8) / 16, (1, 2, 2), order=1)
    return np.asarray(images), labels.astype(np.int32)


def _to_uint8(images: np.ndarray) -> np.ndarray:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
