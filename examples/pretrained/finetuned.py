"""A fine-tuned classifier in a directory: the weights as they came, and a file with what else is needed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.typing import DTypeLike

from pretrained.classifier import Classifier, Classifying, linear
from pretrained.fields import read_json
from pretrained.files import WHOLE
from pretrained.load import load, save
from pretrained.preprocessing import Preprocessing
from vision.errors import UserError
from vision.files import atomic_write
from vision.weights import load_safetensors

__all__ = ["Notes", "load_finetuned", "read_notes", "save_finetuned"]

# What came with the weights and still holds: with it the directory loads where the original did.
_COMPANIONS = ("*.json", "*.txt", "*.model", "LICENSE*", "NOTICE*")
_NOTES = "finetuned.json"
_HEAD = "head.safetensors"
_LARGEST_COMPANION = 64 * 2**20


class Notes(NamedTuple):
    """What is kept beside the weights.

    Attributes:
        weights: The name of the file of weights, or of the index of several.
        classes: Names of the classes.
        preprocessing: How images were prepared.
        unit_features: Whether features are brought to length 1 before the head.
        others: Whatever else the writer wanted to know again.
    """

    weights: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    unit_features: bool
    others: Mapping[str, str]


def save_finetuned(
    directory: Path, model: Classifier, kept: Classifying, classes: Sequence[str], notes: Mapping[str, str]
) -> None:
    """Writes a classifier: a directory that appears under its name when it is complete.

    Args:
        directory: To be made; one that exists is replaced.
        model: The classifier; its structure is that of `kept.model`.
        kept: What it was made from.
        classes: Names of its classes.
        notes: Strings to keep with it.
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
        "notes": dict(notes),
    }
    atomic_write(unfinished / _NOTES, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def read_notes(directory: Path) -> Notes:
    """Reads what lies beside the weights.

    Raises:
        UserError: The directory is no such, or damaged.
    """
    values = read_json(directory / _NOTES)
    try:
        return Notes(
            weights=Path(values["weights"]).name,
            classes=tuple(map(str, values["classes"])),
            preprocessing=Preprocessing.from_json(values["preprocessing"]),
            unit_features=bool(values["unit_features"]),
            others={name: str(value) for name, value in values["notes"].items()},
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{directory / _NOTES}: not written by finetune.py; give a run directory of it") from None


def load_finetuned(directory: Path, *, dtype: DTypeLike = jnp.float32) -> tuple[Classifying, Notes]:
    """Reads what `save_finetuned` wrote.

    Raises:
        UserError: The directory is no such, or damaged.
    """
    notes = read_notes(directory)
    origin = load(directory if notes.weights in WHOLE else directory / notes.weights, dtype=dtype)
    if origin.spec.classes is None:
        arrays = load_safetensors(directory / _HEAD)
        head = linear(arrays["weight"].T, arrays.get("bias"), dtype)
    else:
        head = origin.model.head
    if head.out_features != len(notes.classes):
        raise UserError(f"{directory / _NOTES}: names {len(notes.classes)} classes, the head has {head.out_features}")
    model = Classifier(origin.model.image, head, notes.preprocessing, unit=notes.unit_features)
    return Classifying(model, origin, new_head=False), notes
