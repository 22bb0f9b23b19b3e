"""The start from a model of the field: its files, its preprocessing, a head from its texts or from a linear probe."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from pretrained.classifier import Classifier, Classifying, classify, zero_shot
from pretrained.finetuned import load_finetuned, read_notes, save_finetuned
from pretrained.load import load
from pretrained.preprocessing import Preprocessing, read_preprocessing
from pretrained.texts import PROMPTS, class_embeddings, read_lines
from vision.config import Config
from vision.data import Reading, Task
from vision.errors import UserError
from vision.networks import paths_in_order
from vision.probe import linear_probe
from vision.run_dir import PRETRAINED, RunDir
from vision.start import Head, OnStep, Start
from vision.weights import set_arrays

__all__ = ["from_files", "model_preprocessing"]

_HEAD = ("head/kernel", "head/bias")


def model_preprocessing(config: Config, run_dir: RunDir) -> Preprocessing:
    """How the model wants its images, at the size that was asked for; a run that goes on has it.

    Raises:
        UserError: Its files do not say, or images would not be square and no size was asked for.
    """
    assert config.model_path is not None, "asked only for a model from files"
    if (kept := run_dir.weights(PRETRAINED)).exists():
        return read_notes(kept).preprocessing
    found = read_preprocessing(config.model_path, config.preprocessor)
    if config.image_size is not None:
        return found.at(config.image_size)
    if found.size is None or found.size[0] != found.size[1]:
        shown = "images of any size" if found.size is None else f"{found.size[0]} x {found.size[1]}"
        raise UserError(f"{config.model_path}: is made for {shown}; choose a square with --image-size")
    return found


def from_files(config: Config, task: Task, run_dir: RunDir, on_step: OnStep) -> Start:
    """The model of the files, with a head for the task; made once, then read from the run directory."""
    path = run_dir.weights(PRETRAINED)
    if not path.exists():
        made, head = _make(config, task, run_dir, on_step)
        save_finetuned(path, made.model, made, task.classes, {"method": PRETRAINED, "head": head})
    # Read back also when it has just been made: what a resumed run reads is what this one starts from.
    kept, notes = load_finetuned(path, dtype=jnp.dtype(config.dtype))

    def write(path: Path, model: Any, notes: Mapping[str, str], /) -> None:
        save_finetuned(path, model, kept, task.classes, notes)

    order = paths_in_order(kept.origin.spec.build)
    head = cast(Head, notes.others["head"])
    return Start(kept.model, head, [*(p for p in order if p.startswith("image/")), *_HEAD], write)


def _make(config: Config, task: Task, run_dir: RunDir, on_step: OnStep) -> tuple[Classifying, Head]:
    """The classifier before any fine-tuning, and where its head is from."""
    path = config.model_path
    assert path is not None
    preprocessing = model_preprocessing(config, run_dir)
    loaded = load(path, dtype=jnp.dtype(config.dtype))
    if config.head_from is not None:
        return zero_shot(loaded, _read_head(config.head_from, len(task.classes)), preprocessing), "zero-shot"
    if hasattr(loaded.model, "image") and hasattr(loaded.model, "text"):
        directory = path if path.is_dir() else path.parent
        embeddings = class_embeddings(loaded, directory, _class_names(config, task), _prompts(config))
        return zero_shot(loaded, embeddings, preprocessing), "zero-shot"
    for flag, value in (("--prompts", config.prompts), ("--classes", config.classes)):
        if value is not None:
            raise UserError(f"{flag} {value}: the model in {path} has no text tower; leave the flag out")
    made = classify(loaded, task.classes, preprocessing, seed=config.seed)
    if not made.new_head:
        return made, "pre-trained"
    if not config.probe_epochs:
        return made, "new"
    _probe(made.model, config, task, on_step)
    return made, "linear probe"


def _probe(model: Classifier, config: Config, task: Task, on_step: Callable[[int, int, float], None]) -> None:
    kernel, bias = linear_probe(
        model,
        task.train,
        len(task.classes),
        epochs=config.probe_epochs,
        seed=config.seed,
        reading=Reading(workers=config.workers, skip_bad=config.on_bad_image == "skip"),
        on_step=on_step,
    )
    dtype = model.head.kernel[...].dtype
    set_arrays(model.head, {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)})


def _class_names(config: Config, task: Task) -> tuple[str, ...]:
    """The classes in words: those of the user's file, or the folders' names."""
    if config.classes is None:
        return tuple(name.replace("_", " ") for name in task.classes)
    names = read_lines(config.classes, "the name of a class in each line")
    if len(names) != len(task.classes):
        raise UserError(
            f"{config.classes}: has {len(names)} lines for {len(task.classes)} classes; give a line for each, in "
            f"the order of the class folders, {task.classes[0]!r} first"
        )
    return names


def _prompts(config: Config) -> tuple[str, ...]:
    if config.prompts is None:
        return PROMPTS
    prompts = read_lines(config.prompts, "a template with {} in each line")
    if bad := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise UserError(f"{config.prompts}: {bad[0]!r} must have {{}} once, where the name of the class goes")
    return prompts


def _read_head(path: Path, classes: int) -> np.ndarray:
    try:
        head = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a readable .npy file ({error}); give an array (classes, features)") from None
    good = isinstance(head, np.ndarray) and head.ndim == 2 and np.issubdtype(head.dtype, np.floating)
    if not good or len(head) != classes or not np.isfinite(head).all() or not head.any(1).all():
        shown = f"{head.dtype} {head.shape}" if isinstance(head, np.ndarray) else "an archive"
        raise UserError(
            f"{path}: holds {shown}; finite floats ({classes}, features) are needed, a row not zero for each class"
        )
    return head
