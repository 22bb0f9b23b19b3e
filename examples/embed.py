"""Computes the features, embeddings and logits of a pre-trained model, for images or texts.

python examples/embed.py MODEL --images cat.jpg dog.png --out features.npz
python examples/embed.py MODEL --inputs arrays.npz --out features.npz
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vision.errors import UserError

arg = tyro.conf.arg


@dataclass(frozen=True)
class Options:
    """Compute the outputs of a pre-trained model of Hugging Face, timm or big_vision."""

    model: Annotated[tyro.conf.Positional[Path], arg(metavar="MODEL")]
    """Directory or file of the model."""

    out: Annotated[Path, arg(metavar="FILE.npz")]
    """File to write: one array per output of the model, with the names and shapes of transformers."""

    inputs: Annotated[Path | None, arg(metavar="FILE.npz", help_behavior_hint="(this or --images)")] = None
    """Arrays: `pixels` (n, 3, height, width), normalised, and `ids` (n, length), token ids."""

    images: Annotated[tuple[Path, ...], arg(metavar="FILE...", help_behavior_hint="(this or --inputs)")] = ()
    """Image files. The model's own preprocessing prepares them."""

    image_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the model's)")] = None
    """Side, in pixels, of the prepared images. Position embeddings are interpolated."""

    preprocessor: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the model's own)")] = None
    """A preprocessor_config.json for --images, for a model that has none."""

    batch_size: int = 64
    """Number of images or texts per batch."""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    try:
        _run(tyro.cli(Options, prog="embed.py", args=args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: Options) -> None:
    # Imported here, so that --help does not wait for JAX.
    import jax
    import numpy as np

    from pretrained.load import load
    from pretrained.outputs import image_pixels, outputs, read_inputs
    from vision.config import LARGEST_IMAGE
    from vision.files import replacing

    # Accelerators round products of float32 matrices to fewer bits by default.
    jax.config.update("jax_default_matmul_precision", "highest")
    if (options.inputs is None) == (not options.images):
        raise UserError("--inputs FILE.npz or --images FILE...: give one of the two")
    if options.image_size is not None and not 1 <= options.image_size <= LARGEST_IMAGE:
        raise UserError(f"--image-size {options.image_size}: choose 1 to {LARGEST_IMAGE} pixels")
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: at least 1 is needed")
    loaded = load(options.model)
    if options.inputs is not None:
        inputs = read_inputs(options.inputs)
    else:
        inputs = {"pixels": image_pixels(options.model, options.images, options.image_size, options.preprocessor)}
    found = outputs(loaded, inputs, batch_size=options.batch_size)
    with replacing(options.out) as path, open(path, "wb") as file:
        np.savez(file, **found)  # pyright: ignore[reportArgumentType]
    for name, array in found.items():
        print(f"{name:18} {array.shape}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
