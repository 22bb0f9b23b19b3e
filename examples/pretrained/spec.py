"""What a loader makes of a configuration: a model without weights, and which tensor each parameter is in the file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretrained.model import Model

__all__ = ["TORCH", "TORCH_LEAVES", "Layout", "Shape", "Spec", "one_more", "renaming", "substituting"]

Shape = tuple[int, ...]
Replacement = str | Callable[[re.Match[str]], str]

TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""What torch calls the arrays of a layer."""


class Layout(NamedTuple):
    """How arrays lie in a file.

    Attributes:
        read: A tensor as the model has it: `(path, tensor, shape in the model)`; of another shape if it does not fit.
        write: And back: `(path, array, shape in the file)`; None for the usual shape.
    """

    read: Callable[[str, np.ndarray, Shape], np.ndarray]
    write: Callable[[str, np.ndarray, Shape | None], np.ndarray]


def _from_torch(path: str, tensor: np.ndarray, shape: Shape) -> np.ndarray:
    if not path.endswith("/kernel"):
        return tensor
    if tensor.ndim == 4 and len(shape) == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]  # a dense layer that is stored as a convolution
    return tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim >= 2 else tensor


def _to_torch(path: str, array: np.ndarray, shape: Shape | None) -> np.ndarray:
    if not path.endswith("/kernel"):
        return array
    turned = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    return turned if shape is None else turned.reshape(shape)


TORCH = Layout(_from_torch, _to_torch)
"""Kernels [..., in, out] are [out, in, ...] there; all else is the same."""


@dataclass(frozen=True)
class Spec:
    """How a file is read.

    Attributes:
        build: Makes the model. It is called in the abstract: the initial weights are never computed.
        name: From a parameter's path in the model, such as `"image/blocks/0/mlp/up/kernel"`, to the tensor's name.
        image_size: Height and width that the model was made for; None for a text tower alone.
        unused: Pattern of names that a file may hold besides, and that no computation here reads: buffers that follow
            from the shapes, tokens for masked patches. They are kept, and written back as they are.
        classes: Names of the classifier's outputs.
        layout: How the arrays lie in the file.
    """

    build: Callable[[], Model]
    name: Callable[[str], str]
    image_size: tuple[int, int] | None
    unused: str = r"(?!)"
    classes: tuple[str, ...] | None = None
    layout: Layout = TORCH


def renaming(rules: Sequence[tuple[str, Replacement]]) -> Callable[[str], str]:
    """A function from a path to the torch name: leaves by `TORCH_LEAVES`, then every rule (pattern, replacement)."""
    substitute = substituting(rules)

    def name(path: str) -> str:
        *modules, leaf = path.split("/")
        return substitute(".".join([*modules, TORCH_LEAVES.get(leaf, leaf)]))

    return name


def substituting(rules: Sequence[tuple[str, Replacement]]) -> Callable[[str], str]:
    """A function that applies every rule (pattern, replacement) in turn."""

    def substitute(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return substitute


def one_more(before: str, after: str) -> Replacement:
    """A replacement for what counts from one where the path counts from zero: the pattern's group is the number."""
    return lambda found: f"{before}{int(found[1]) + 1}{after}"
