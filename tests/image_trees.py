"""Small trees of real image files, as the data sets of the field lie on disk."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def make_domain(root: Path, classes: Sequence[str], images: int = 2) -> Path:
    """A folder with one sub-folder of pictures, `0.png` and so on, per class."""
    return make_files(root, (f"{name}/{i}.png" for name in classes for i in range(images)))


def make_files(root: Path, names: Iterable[str]) -> Path:
    """A picture under each name."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture((8, 8), seed).save(path)
    return root
