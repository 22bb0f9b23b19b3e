"""A fine-tuned classifier in a directory: the weights as they came, and a file with what else is needed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.typing import DTypeLike

from pretrained.classifier import Classifier, Classifying, linear
from pretrained.fields import read_json
from pretrained.load import load, save
from pretrained.preprocessing import Preprocessing
from vision.errors import UserError
from vision.files import atomic_write
from vision.weights import load_safetensors

__all__ = ["Finetuned", "load_finetuned", "save_finetuned"]

# What came with the weights and still holds: with it the directory loads where the original did.
_COMPANIONS = ("*.json", "*.txt", "*.model", "LICENSE*", "NOTICE*")
_NOTES = "finetuned.json"
_HEAD = "head.safetensors"
_LARGEST_COMPANION = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Finetuned:
    """What such a directory holds.

    Attributes:
        classifying: The classifier and its origin.
        classes: Names of its classes.
        notes: What else was written with it.
    """

    classifying: Classifying
    classes: tuple[str, ...]
    notes: Mapping[str, Any]


def save_finetuned(
    directory: Path, model: Classifier, kept: Classifying, classes: Sequence[str], notes: Mapping[str, Any]
) -> None:
    """Writes a classifier: a directory that appears under its name when it is complete.

    Args:
        directory: To be made; one that exists is replaced.
        model: The classifier; its structure is that of `kept.model`.
        kept: What it was made from.
        classes: Names of its classes.
        notes: JSON values to keep with it.
    """
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    origin = kept.origin
    save(origin, unfinished, model)
    source = origin.tensors.source.parent
    for pattern in _COMPANIONS:
        for file in source.glob(pattern):
            if not (unfinished / file.name).exists() and file.stat().st_size <= _LARGEST_COMPANION:
                shutil.copyfile(file, unfinished / file.name)
    if origin.config:
        atomic_write(unfinished / "config.json", (json.dumps(origin.config, indent=2) + "\n").encode())
    if origin.spec.classes is None:
        head = {"weight": np.asarray(model.head.kernel[...]).T}
        if model.head.bias is not None:
            head["bias"] = np.asarray(model.head.bias[...])
        head = {name: np.array(array, np.float32, order="C") for name, array in head.items()}
        atomic_write(unfinished / _HEAD, safetensors.numpy.save(head, {"format": "pt"}))
    content = {
        "weights": origin.tensors.source.name,
        "classes": list(classes),
        "preprocessing": model.preprocessing.to_json(),
        "unit_features": model.unit,
        **notes,
    }
    atomic_write(unfinished / _NOTES, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def load_finetuned(directory: Path, *, dtype: DTypeLike = jnp.float32) -> Finetuned:
    """Reads what `save_finetuned` wrote.

    Raises:
        UserError: The directory is no such, or damaged.
    """
    notes = read_json(directory / _NOTES)
    try:
        classes = tuple(map(str, notes["classes"]))
        preprocessing = Preprocessing.from_json(notes["preprocessing"])
        weights, unit_features = directory / Path(notes["weights"]).name, bool(notes["unit_features"])
    except (KeyError, TypeError):
        raise UserError(f"{directory / _NOTES}: not written by finetune.py; give a run directory of it") from None
    single = weights.suffix == ".npz" or weights.name not in ("model.safetensors", "model.safetensors.index.json")
    origin = load(weights if single else directory, dtype=dtype)
    if origin.spec.classes is None:
        arrays = load_safetensors(directory / _HEAD)
        head = linear(arrays["weight"].T, arrays.get("bias"), dtype)
    else:
        head = origin.model.head
    if head.out_features != len(classes):
        raise UserError(f"{directory / _NOTES}: names {len(classes)} classes, the head has {head.out_features}")
    model = Classifier(origin.model.image, head, preprocessing, unit=unit_features)
    return Finetuned(Classifying(model, origin, new_head=bool(notes.get("new_head"))), classes, notes)
