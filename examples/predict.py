"""Classifies images with the weights of a fine-tuning run.

python examples/predict.py RUN_DIR IMAGE...
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vision.errors import UserError

arg = tyro.conf.arg


@dataclass(frozen=True)
class Options:
    """Classify images with the weights of a run of finetune.py."""

    run_dir: Annotated[tyro.conf.Positional[Path], arg(metavar="RUN_DIR")]
    """The directory that finetune.py wrote."""

    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="IMAGE...", help_behavior_hint="(required)")]
    """Image files."""

    method: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the run's last)")] = None
    """A method of the run, or pretrained."""

    top: int = 1
    """Number of classes to show per image."""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    try:
        _run(tyro.cli(Options, prog="predict.py", args=args, config=(tyro.conf.FlagCreatePairsOff,)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: Options) -> None:
    # Imported here, so that --help does not wait for JAX.
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from rich.table import Table

    from vision.progress import make_console

    if not options.images:
        raise UserError("IMAGE: name at least one image file")
    path = weights_file(options.run_dir, options.method)
    model, classes, prepare = load_model(path)
    if not 1 <= options.top <= len(classes):
        raise UserError(f"--top {options.top}: the run has {len(classes)} classes; choose 1 to {len(classes)}")
    images = np.stack([read_image(image, prepare) for image in options.images])
    probabilities = np.asarray(nnx.jit(lambda model, x: jax.nn.softmax(model(x)))(model, jnp.asarray(images)))

    table = Table(title=f"Predictions with {path.stem}", title_justify="left")
    table.add_column("image", overflow="fold")
    for rank in range(1, options.top + 1):
        table.add_column("class" if options.top == 1 else f"{rank}. class")
        table.add_column("%", justify="right")
    for image, row in zip(options.images, probabilities, strict=True):
        best = np.argsort(-row)[: options.top]
        table.add_row(str(image), *(cell for i in best for cell in (classes[i], f"{100 * row[i]:.1f}")))
    console = make_console()
    console.print(table)
    if options.method is None:
        console.print(
            f"The weights are {path}, those of the run's last method. --method NAME uses others: "
            f"{', '.join(_names(options.run_dir))}.",
            markup=False,
        )


def _names(run_dir: Path) -> tuple[str, ...]:
    """The weights that a run has, by name."""
    from vision.config import load_config

    return (*load_config(run_dir).method_names, "pretrained")


def weights_file(run_dir: Path, method: str | None = None) -> Path:
    """The file with a method's weights in a run directory.

    If the directory has several runs, the file is that of the first seed with the most labels.

    Raises:
        UserError: No such directory or method, or the run has not trained this method yet.
    """
    from vision.config import load_config
    from vision.run_dir import RunDir

    config, names = load_config(run_dir), _names(run_dir)
    name = method or config.method_names[-1]
    if name not in names:
        raise UserError(f"--method {name}: the run in {run_dir} has {', '.join(names)}")
    most = max(config.label_counts, key=lambda count: count or math.inf)
    path = RunDir(run_dir).part(config, most, config.seed_list[0]).weights(name)
    if not path.exists():
        path = path.with_name(f"{name}.safetensors")
    if not path.exists():
        raise UserError(f"{path}: not written yet; finish the run with finetune.py --out {run_dir} --resume")
    return path


def load_model(path: Path) -> tuple[Any, list[str], Any]:
    """Loads fine-tuned weights.

    Args:
        path: A safetensors file or a directory that finetune.py wrote.

    Returns:
        The NNX model (images of 0..255 to logits), its class names, and for `read_image` the image size it was trained
        on, or its own way to prepare images.

    Raises:
        UserError: The file or directory is missing or damaged, or not from finetune.py.
    """
    from vision import weights
    from vision.config import LARGEST_IMAGE
    from vision.networks import blank_model

    if path.is_dir():
        from pretrained.finetuned import load_finetuned

        found, notes = load_finetuned(path)
        return found.model, list(notes.classes), notes.preprocessing
    metadata = weights.load_metadata(path)
    try:
        classes, size = json.loads(metadata["classes"]), int(metadata["image_size"])
        named = isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes)
        if not named or not 8 <= size <= LARGEST_IMAGE:
            raise ValueError
        model = blank_model(metadata["model"], len(classes))
    except (KeyError, ValueError, RecursionError):
        raise UserError(f"{path}: does not name its model and classes; give a run directory of finetune.py") from None
    weights.load_pretrained(path, model)
    return model, classes, size


def read_image(path: Path, prepare: Any) -> Any:
    """The image as uint8 `(height, width, 3)`, read as in training, by the size or the way that `load_model` gives.

    Raises:
        UserError: The file is missing or no image.
    """
    from vision.folders import read_image as read

    return read(path, prepare)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
