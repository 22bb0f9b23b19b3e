"""The model that all methods start from: loaded once, given a head for the task, and kept in the run directory.

A resumed run starts from the same weights whatever became of their source.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import jax.numpy as jnp
from flax import nnx, traverse_util

from vision import weights
from vision.config import Config
from vision.data import Task
from vision.foundation import pretrained_digits_model
from vision.models import create_model
from vision.networks import blank_model, depth_order
from vision.run_dir import PRETRAINED, RunDir

__all__ = ["Head", "Start", "starting_model"]

Head = Literal["pre-trained", "zero-shot", "linear probe", "new"]
"""Where the head is from: with the weights, from the texts of the classes, trained on frozen features, random."""

OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True, eq=False)
class Start:
    """What all methods start from.

    Attributes:
        model: The model, with a head for the task.
        head: Where its head is from.
        order: Paths of its parameters from the input to the output.
        write: Writes weights of this model, to a path in the run directory, with a note of whose they are.
    """

    model: nnx.Module
    head: Head
    order: list[str]
    write: "Write"

    @property
    def constrained_head(self) -> bool:
        """Whether the head is pre-trained, so that methods hold it near its start like everything else."""
        return self.head in ("pre-trained", "zero-shot")

    @property
    def scored(self) -> bool:
        """Whether the model classifies before any fine-tuning."""
        return self.head != "new"


class Write(Protocol):
    """Writes a model's weights."""

    def __call__(self, path: Path, model: Any, notes: Mapping[str, str], /) -> None: ...


def starting_model(config: Config, task: Task, run_dir: RunDir, on_step: OnStep) -> Start:
    """The model that all methods start from.

    Args:
        config: Which.
        task: What for.
        run_dir: Where it is kept.
        on_step: Progress of what is trained before: pre-training, or the linear probe.

    Raises:
        UserError: Weights or files that cannot be used.
    """
    if config.model_path is not None:
        from vision.start_from_files import from_files  # imported here so that the default job does not pay for it

        return from_files(config, task, run_dir, on_step)
    write = _Writer(config, task)
    order = depth_order(config.model)
    path, dtype = run_dir.weights(PRETRAINED), jnp.dtype(config.dtype)
    if (stored := _single(path)).exists():
        model = blank_model(config.model, len(task.classes), dtype=dtype)
        weights.load_pretrained(stored, model)
        return Start(
            model, "new" if weights.load_metadata(stored)["new_head"] == "true" else "pre-trained", order, write
        )
    if config.pretrained is not None:
        model, new_head = _model_from_file(config, task)
    elif config.model == "efficientnet-lite0":
        # Imported here so that the default job does not pay for it.
        from vision.efficientnet import EfficientNetLite0, load_imagenet

        model = create_model(config.model, len(task.classes), dtype=dtype, seed=config.seed)
        assert isinstance(model, EfficientNetLite0)
        new_head = bool(load_imagenet(model))
    else:
        model, new_head = pretrained_digits_model(task, config.seed, dtype=dtype, on_step=on_step), False
    write(path, model, {"method": PRETRAINED, "new_head": str(new_head).lower()})
    return Start(model, "new" if new_head else "pre-trained", order, write)


@dataclass(frozen=True)
class _Writer:
    """Writes a model that is known by name, with what `predict.py` needs to know besides the weights."""

    config: Config
    task: Task

    def __call__(self, path: Path, model: Any, notes: Mapping[str, str], /) -> None:
        metadata = {
            "model": self.config.model,
            "classes": json.dumps(self.task.classes),
            "image_size": str(self.task.image_size),
            **notes,
        }
        weights.save_safetensors(_single(path), model, metadata)


def _single(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _model_from_file(config: Config, task: Task) -> tuple[nnx.Module, bool]:
    """The user's weights; a head for other classes, even as many, is no head for these."""
    path = config.pretrained
    assert path is not None
    dtype = jnp.dtype(config.dtype)
    model = create_model(config.model, len(task.classes), dtype=dtype, seed=config.seed)
    fresh_head = {name: value for name, value in weights.model_arrays(model).items() if name.startswith("head/")}
    new_head = bool(weights.load_pretrained(path, model))
    classes = None if path.is_dir() else weights.load_metadata(path).get("classes")
    if not new_head and classes is not None and classes != json.dumps(task.classes):
        nnx.update(model, traverse_util.unflatten_dict(fresh_head, sep="/"))
        new_head = True
    return model, new_head
