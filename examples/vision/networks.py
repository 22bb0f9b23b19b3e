"""A model split into what is trained and what is not: the functional form that the jitted steps take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from vision.models import create_model

__all__ = ["Network", "Params", "blank_model", "depth_order", "path_of", "paths_in_order", "split_model"]

Params: TypeAlias = Any
"""Trainable parameters: a nested dict of arrays, the plainest pytree, without NNX nodes in its paths."""


@dataclass(frozen=True, eq=False)
class Network:
    """The part of a model that training leaves alone.

    Attributes:
        graphdef: The model's structure.
        rest: Variables that are not trained (batch-norm statistics, a frozen head). They never change here.
    """

    graphdef: Any
    rest: Any

    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        """Float32 logits of images with values in 0..255."""
        return self.model(params)(images)

    def model(self, params: Params) -> Any:
        """The NNX model with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest)


def split_model(model: nnx.Module, *, freeze_head: bool = False) -> tuple[Network, Params]:
    """Splits a model into its fixed part and its parameters; the head may belong to the fixed part."""

    def trained(path: tuple[Any, ...], value: Any) -> bool:
        return isinstance(value, nnx.Param) and not (freeze_head and path[0] == "head")

    graphdef, params, rest = nnx.split(model, trained, ...)
    return Network(graphdef, rest), nnx.to_pure_dict(params)


def blank_model(name: str, num_classes: int, *, dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """A model of zeros, to be filled from a file: drawing initial weights would take longer than reading the file."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: create_model(name, num_classes, dtype=dtype)))
    return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state))


def path_of(key_path: tuple[Any, ...]) -> str:
    """The path of a parameter as `ftp_optax` writes it: `"blocks/0/kernel"`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def depth_order(name: str) -> list[str]:
    """Paths of all parameters of a model that is known by name, from the input to the output."""
    return paths_in_order(lambda: create_model(name, num_classes=2))


def paths_in_order(build: Callable[[], nnx.Module]) -> list[str]:
    """Paths of all parameters of the model that a function makes, from the input to the output.

    Pytrees sort their keys, which puts `head` before `hidden`. A module under construction has its attributes in the
    order of definition, which is the order of the layers; merging a split one sorts them too.
    """
    paths: list[str] = []

    def construct() -> nnx.Module:
        model = build()
        paths.extend(_walk(model, ""))
        return model

    nnx.eval_shape(construct)
    return paths


def _walk(node: Any, prefix: str) -> list[str]:
    if isinstance(node, nnx.Param):
        return [prefix]
    if isinstance(node, nnx.List | list | tuple):
        children = list(enumerate(node))
    elif isinstance(node, nnx.Dict | dict):
        children = list(node.items())
    elif isinstance(node, nnx.Module):
        children = list(vars(node).items())
    else:
        return []
    return [path for name, child in children for path in _walk(child, f"{prefix}/{name}".lstrip("/"))]
