"""What is done to training images at random: a crop and a flip, colour jitter, RandAugment.

Worker processes load this file, so it needs Pillow and NumPy alone. Images of a batch are blended in `mixing`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["OPERATIONS", "Augment", "augmentation", "crop_box"]

Augment = Callable[[Image.Image, np.random.Generator], np.ndarray]
"""Takes an upright RGB image of any size and a source of random numbers, gives uint8 `(size, size, 3)`."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

# Shares of the area. Szegedy et al. 2015 take 8 % to 100 % to train from nothing: such crops often miss the object, and
# show it larger than at test time (Touvron et al. 2019, FixRes), which a pre-trained model would have to learn anew.
# Light keeps 69 % of a square image on average and 63 % of a 3:2 photograph, about as the usual test crop does (77 %
# and 51 %).
_LIGHT, _STRONG = (0.5, 1.0), (0.25, 1.0)
_ASPECT = 4 / 3  # width by height, and height by width; also of that paper
_TRIES = 10

# Of brightness, contrast and saturation, as DeiT III has it (Touvron et al. 2022). Hue stays: it often is the class.
_JITTER = 0.3

# Cubuk et al. 2020 for ResNet-50, on torchvision's scale: timm and the paper's own code call 9 of 10 a 9.
_COUNT, _STRENGTH = 2, 9 / 30
_GREY = (128, 128, 128)


def augmentation(
    level: Literal["none", "light", "strong"], size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Augment | None:
    """What turns a decoded image into a training image.

    Args:
        level: light crops and flips, strong changes colours and adds two operations of RandAugment besides.
        size: Height and width of the result.
        resample: The filter that scales the crop, best the one of the model's preprocessing.

    Returns:
        A function that can be pickled. It takes random numbers from the generator alone: a generator in the same state
        makes the same image bit for bit. None for `"none"`.
    """
    if level == "none":
        return None
    return _Augmentation(size, resample, _LIGHT) if level == "light" else _Augmentation(size, resample, _STRONG, True)


@dataclass(frozen=True)
class _Augmentation:
    """Crop, flip and where `strong` the rest, in this order: colours are changed where few pixels are left."""

    size: int
    resample: Image.Resampling
    areas: tuple[float, float]
    strong: bool = False

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> np.ndarray:
        box = crop_box(image.size, self.areas, generator)
        image = image.resize((self.size, self.size), self.resample, box)
        if generator.random() < 0.5:
            image = ImageOps.mirror(image)
        if self.strong:
            image = _rand_augment(_jitter(image, generator), generator)
        return np.array(image)


def crop_box(size: tuple[int, int], areas: tuple[float, float], generator: np.random.Generator) -> Box:
    """The random part of an image that is kept: torchvision's `RandomResizedCrop`.

    Where no box of ten fits it is the largest whose shape is allowed, here at a random place too and not in the middle:
    it is the rule for long images.

    Args:
        size: Width and height of the image.
        areas: Least and greatest share of the area, uniform.
        generator: Of the random numbers.
    """
    width, height = size
    share = generator.uniform(*areas, _TRIES)
    aspect = _ASPECT ** generator.uniform(-1, 1, _TRIES)
    wide = np.rint(np.sqrt(width * height * share * aspect)).astype(int)
    high = np.rint(np.sqrt(width * height * share / aspect)).astype(int)
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    if fits.any():
        w, h = int(wide[fits.argmax()]), int(high[fits.argmax()])
    else:
        w = max(1, min(width, round(height * _ASPECT)))
        h = max(1, min(height, round(width * _ASPECT)))
    left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
    return left, top, left + w, top + h


def _jitter(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation at random, in random order."""
    for which in generator.permutation(len(_JITTERS)):
        image = _JITTERS[which](image, generator.uniform(-1, 1))
    return image


def _rand_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Operations drawn with replacement, all with one strength, each to either side."""
    operations = tuple(OPERATIONS.values())
    for which in generator.integers(len(operations), size=_COUNT):
        image = operations[which](image, _STRENGTH if generator.random() < 0.5 else -_STRENGTH)
    return image


Operation = Callable[[Image.Image, float], Image.Image]
"""Takes an image and a strength of -1 to 1, whose sign does not count where there is one side, and 0 changes nothing.
`AutoContrast` and `Equalize` have no strength."""


def _enhanced(enhancer: Callable[[Image.Image], ImageEnhance._Enhance], most: float) -> Operation:
    """Less or more of a property of the image, by factors of `1 - most` to `1 + most`."""
    return lambda image, strength: enhancer(image).enhance(1 + most * strength)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Takes each pixel from where the matrix says, grey where there is nothing: near 0 for the model, black is not."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _shift(side: int, strength: float) -> int:
    """Whole pixels, which blur nothing."""
    return int(150 / 331 * side * strength)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


# Names and ranges are those of torchvision's RandAugment. Shears hold the upper left corner, as everywhere.
# Solarizing starts from 256, one above torchvision, which turns white into black at strength 0.
OPERATIONS: Mapping[str, Operation] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, s: _affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    "ShearY": lambda image, s: _affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    "TranslateX": lambda image, s: _affine(image, 1, 0, -_shift(image.width, s), 0, 1, 0),
    "TranslateY": lambda image, s: _affine(image, 1, 0, 0, 0, 1, -_shift(image.height, s)),
    "Rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=_GREY),
    "Brightness": _enhanced(ImageEnhance.Brightness, 0.9),
    "Color": _enhanced(ImageEnhance.Color, 0.9),
    "Contrast": _enhanced(ImageEnhance.Contrast, 0.9),
    "Sharpness": _enhanced(ImageEnhance.Sharpness, 0.9),
    "Posterize": _posterize,
    "Solarize": lambda image, s: ImageOps.solarize(image, round(256 * (1 - abs(s)))),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
}

_JITTERS = [_enhanced(kind, _JITTER) for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)]
