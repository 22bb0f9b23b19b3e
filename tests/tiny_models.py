"""Tiny models of every family, as the main job has them: classifiers of three classes on reference models' features."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrained.classifier import classify
from pretrained.load import load
from pretrained.preprocessing import Preprocessing
from vision.models import create_model

HF = Path(__file__).parent / "data" / "hf"
CLASSES = ("ant", "bee", "cat")
_PREPROCESSING = Preprocessing(None, None, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@functools.cache
def tiny_model(name: str) -> Any:
    """A directory's in `tests/data/hf`, or one that `finetune` knows by name. Not to be changed: tests share it."""
    if not (HF / name).exists():
        return create_model(name, len(CLASSES))
    return classify(load(HF / name), CLASSES, _PREPROCESSING, seed=0).model


def tiny_images(count: int = 4, side: int = 32) -> np.ndarray:
    """Noise, uint8 `(count, side, side, 3)`."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def moved(tree: Any, by: float = 0.05) -> Any:
    """The same tree, with noise on every leaf."""
    leaves, structure = jax.tree.flatten(tree)
    generator = np.random.default_rng(1)
    return structure.unflatten([x + by * generator.standard_normal(x.shape).astype(x.dtype) for x in leaves])
