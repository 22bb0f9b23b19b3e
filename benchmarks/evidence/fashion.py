"""Fashion-MNIST as a task: clothes in the appearances of the embedded digits; the files are a Debian package's."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np

from vision.data import Task
from vision.digits import appearances_task
from vision.errors import UserError

PACKAGE = "dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
VARIABLE = "FTP_OPTAX_FASHION_MNIST"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

# (pre-training, fine-tuning, validation, test) images of the 70,000: as few as keep a run short
_SIZES = (1500, 600, 300, 1000)
_SIDE = 28


def fashion_task(seed: int) -> Task:
    """Clothes on photographs, for a network that knows six other appearances."""
    images, labels = _load()
    taken = np.random.default_rng((seed, len(labels))).choice(len(labels), sum(_SIZES), replace=False)
    return appearances_task("fashion", CLASSES, images[taken] / 255, labels[taken].astype(np.int32), _SIZES, seed)


def _load() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 `(n, 28, 28)`, and their labels, those published for training first."""
    folder = Path(os.environ.get(VARIABLE) or FOLDER)
    kinds = {"images-idx3": (_SIDE, _SIDE), "labels-idx1": ()}
    images, labels = (
        np.concatenate([_read_idx(folder / f"{part}-{kind}-ubyte.gz", shape) for part in ("train", "t10k")])
        for kind, shape in kinds.items()
    )
    if len(images) != len(labels) or len(images) < sum(_SIZES) or labels.max() >= len(CLASSES):
        raise UserError(
            f"{folder}: {len(images)} images and {len(labels)} labels are not Fashion-MNIST's; {_way_out()}"
        )
    return images, labels


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One file of LeCun's IDX format: two zeros, the type, the number of axes, their lengths, the numbers."""
    try:
        data = gzip.decompress(path.read_bytes())
        return np.frombuffer(data, np.uint8, offset=4 + 4 * (1 + len(shape))).reshape(-1, *shape)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_way_out()}") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {_way_out()}") from error


def _way_out() -> str:
    return f"install Debian's package {PACKAGE}, or set {VARIABLE} to a folder that has its files"
