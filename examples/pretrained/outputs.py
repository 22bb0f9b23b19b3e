"""What a pre-trained model computes of arrays: the inputs checked, the outputs batch by batch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from pretrained.files import read_npz
from pretrained.load import Pretrained
from pretrained.preprocessing import read_preprocessing
from vision.errors import UserError
from vision.folders import read_image

__all__ = ["image_pixels", "outputs", "read_inputs"]


def read_inputs(path: Path) -> dict[str, np.ndarray]:
    """The arrays `pixels` and `ids` of an .npz file, whichever it has; others are left alone.

    Raises:
        UserError: It has neither, or one of another shape or type.
    """
    arrays = read_npz(path).arrays
    found = {name: arrays[name] for name in ("pixels", "ids") if name in arrays}
    if not found:
        raise UserError(f"{path}: has neither an array 'pixels' nor 'ids'; it has {', '.join(arrays) or 'none'}")
    if "pixels" in found:
        pixels = found["pixels"]
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not np.issubdtype(pixels.dtype, np.floating):
            raise UserError(
                f"{path}: pixels is {pixels.dtype} {pixels.shape}; normalised floats (n, 3, height, width) are needed"
            )
    if "ids" in found and (found["ids"].ndim != 2 or not np.issubdtype(found["ids"].dtype, np.integer)):
        raise UserError(f"{path}: ids is {found['ids'].dtype} {found['ids'].shape}; integers (n, length) are needed")
    return found


def image_pixels(model: Path, images: Sequence[Path], size: int | None, preprocessor: Path | None) -> np.ndarray:
    """Normalised pixels `(n, 3, height, width)` of image files, prepared as the model's own preprocessing says.

    Args:
        model: The directory or file of the model.
        images: The image files.
        size: Side of the prepared images; None for the model's own.
        preprocessor: A `preprocessor_config.json` to read in place of the model's.

    Raises:
        UserError: The model does not say how, a file cannot be read, or images come out in different sizes.
    """
    preprocessing = read_preprocessing(model, preprocessor)
    if size is not None:
        preprocessing = preprocessing.at(size)
    if preprocessing.size is None:
        raise UserError(f"{model}: its preprocessing leaves images their sizes; choose one with --image-size")
    read = [preprocessing.normalise(read_image(path, preprocessing).astype(np.float32)) for path in images]
    return np.stack(read).transpose(0, 3, 1, 2)


def outputs(loaded: Pretrained, inputs: Mapping[str, np.ndarray], *, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Everything that the model computes of `pixels` `(n, 3, height, width)` and `ids` `(n, length)`.

    Args:
        loaded: The model.
        inputs: One of them or both.
        batch_size: Rows at a time; does not change the result.

    Returns:
        By the names of `Model.outputs`, float32.

    Raises:
        UserError: The model has no tower for an input, or an id is not in its vocabulary, or a text is too long.
    """
    _check(loaded, inputs)
    graph, state = nnx.split(loaded.model)

    @jax.jit
    def run(state: nnx.State, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return nnx.merge(graph, state).outputs(**batch)

    columns = dict(inputs)
    if "pixels" in columns:
        columns["pixels"] = columns["pixels"].transpose(0, 2, 3, 1).astype(np.float32)
    found: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        parts = [run(state, {name: column[i : i + batch_size]}) for i in range(0, len(column), batch_size)]
        for output in parts[0]:
            found.setdefault(output, np.concatenate([np.asarray(p[output], np.float32) for p in parts]))
    if {"image_embeds", "text_embeds"} <= found.keys() and hasattr(loaded.model, "logit_scale"):
        found["logits_per_image"] = np.asarray(loaded.model.similarity(found["image_embeds"], found["text_embeds"]))
    return found


def _check(loaded: Pretrained, inputs: Mapping[str, np.ndarray]) -> None:
    source, model = loaded.tensors.source, loaded.model
    for name, tower in (("pixels", "image"), ("ids", "text")):
        if name in inputs and not hasattr(model, tower):
            raise UserError(f"{source}: the model has no {tower} tower for {name!r}; leave them out")
        if name in inputs and len(inputs[name]) == 0:
            raise UserError(f"{name}: holds no row; give at least one")
    if "ids" in inputs:
        ids, config = inputs["ids"], model.text.config
        if ids.shape[1] == 0:
            raise UserError("ids: holds texts of no token; give at least one")
        if ids.min() < 0 or ids.max() >= config.vocabulary:
            raise UserError(
                f"ids: {ids.min()} to {ids.max()}; the vocabulary of {source} is 0 to {config.vocabulary - 1}"
            )
        if ids.shape[1] > config.length:
            raise UserError(f"ids: {ids.shape[1]} tokens; {source} takes texts of {config.length} at most")
