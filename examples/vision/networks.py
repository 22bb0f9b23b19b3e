"""A model split into what is trained and what is not: the functional form that the jitted steps take."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax.typing import DTypeLike

from vision.batch_norm import BatchNorm
from vision.errors import UserError
from vision.models import create_model

__all__ = ["Network", "Params", "Weights", "blank_model", "depth_order", "path_of", "paths_in_order", "split_model"]

Params: TypeAlias = Any
"""Trainable parameters: a nested dict of arrays, the plainest pytree, without NNX nodes in its paths."""


class Weights(NamedTuple):
    """What an evaluation needs: parameters, and the statistics of live batch normalisation."""

    params: Params
    stats: Any


_STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Network:
    """The part of a model that the optimizer leaves alone.

    A pytree: as an argument of a jitted function its arrays are inputs. One that a jitted function closes over would
    be compiled in as constants, a copy of a frozen backbone in every program.

    Attributes:
        graphdef: The model's structure.
        rest: Variables that never change here: frozen parameters, frozen statistics.
        stats: Live statistics of batch norms as they are at the start; empty where all are frozen.
        compute_dtype: What parameters are cast to where they are used; None for as they are.
        remat: Whether the backward pass of training computes the inside of each block again.
    """

    graphdef: Any = field(metadata=_STATIC)
    rest: Any
    stats: Any = field(default_factory=dict)
    compute_dtype: DTypeLike | None = field(default=None, metadata=_STATIC)
    remat: bool = field(default=False, metadata=_STATIC)

    def logits(self, params: Params, images: jax.Array, stats: Any = None) -> jax.Array:
        """Float32 logits of images with values in 0..255, by the running statistics.

        Args:
            params: The parameters.
            images: `(n, height, width, 3)`.
            stats: Live statistics; by default those of the start.
        """
        return self._at_work(params, stats)(images)

    def train_logits(self, params: Params, stats: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        """Float32 logits by the statistics of these images where they are live, and the live ones after them."""
        model = self._at_work(params, stats)
        live = {path[:-1] for path in traverse_util.flatten_dict(stats)}
        model.set_attributes(lambda path, _: path in live, live=True, raise_if_not_found=False)
        model.set_attributes(remat=self.remat, raise_if_not_found=False)
        logits = model(images)
        moved = nnx.state(model, lambda path, _: path[:-1] in live and path[-1] in BatchNorm.STATISTICS)
        return logits, nnx.to_pure_dict(moved)

    def model(self, params: Params, stats: Any = None) -> Any:
        """The NNX model with these parameters, and these live statistics or those of the start."""
        return nnx.merge(self.graphdef, params, self.rest, self.stats if stats is None else stats)

    def _at_work(self, params: Params, stats: Any) -> Any:
        model = self.model(params, stats)
        if self.compute_dtype is not None:
            cast = jax.tree.map(lambda x: x.astype(self.compute_dtype), nnx.state(model, nnx.Param))
            nnx.update(model, cast)
        return model


def split_model(
    model: nnx.Module,
    *,
    frozen: Sequence[str] = (),
    live_stats: bool = False,
    compute_dtype: DTypeLike | None = None,
    remat: bool = False,
    head_only: bool = False,
) -> tuple[Network, Params]:
    """Splits a model into its fixed part and its parameters.

    Of a model with adapters (LoRA) these and the head are trained.

    Args:
        model: The model, left as it is.
        frozen: Shell patterns of the paths of what is not trained; statistics of batch norms that fit are never live.
        live_stats: Whether the statistics of batch norms follow the training images.
        compute_dtype: What parameters are cast to where they are used. Gradients have the parameters' own dtype.
        remat: Whether the backward pass computes the inside of each block again.
        head_only: Whether everything but the head is frozen.

    Raises:
        UserError: A pattern that no parameter fits, nothing that is left to train, statistics or blocks that the model
            does not have.
    """
    variables = nnx.to_flat_state(nnx.state(model))
    of_type = lambda kind: [path for path, variable in variables if isinstance(variable, kind)]
    parameters = of_type(nnx.Param)
    kept = _frozen_paths(parameters, frozen)
    trained = set(parameters) - kept
    if head_only:
        trained = {path for path in trained if path[0] == "head"}
    if adapters := set(of_type(nnx.LoRAParam)):
        trained = {path for path in trained if path[0] == "head" or path in adapters}
    if not trained:
        raise UserError(f"--freeze {' '.join(frozen)}: leaves nothing to train; freeze less")
    live: set[tuple[Any, ...]] = set()
    if live_stats:
        live = {path for path in of_type(nnx.BatchStat) if not _fits(path, frozen)}
        if not live:
            raise UserError("--batch-norm live: the model has no batch normalisation to train; leave the flag out")
    if remat and not any(hasattr(node, "remat") for _, node in nnx.iter_graph(model)):
        raise UserError("--remat: the model has no blocks to compute again; leave the flag out")
    among = lambda paths: lambda path, _: path in paths
    graphdef, params, stats, rest = nnx.split(model, among(trained), among(live), ...)
    params, stats, rest = (nnx.to_pure_dict(state) for state in (params, stats, rest))
    return Network(graphdef, rest, stats, compute_dtype and jnp.dtype(compute_dtype), remat), params


def _frozen_paths(parameters: Iterable[tuple[Any, ...]], patterns: Sequence[str]) -> set[tuple[Any, ...]]:
    parameters = list(parameters)
    for pattern in patterns:
        if not any(_fits(path, [pattern]) for path in parameters):
            first, last = (_joined(parameters[index]) for index in (0, -1))
            raise UserError(f"--freeze {pattern}: no parameter has such a path; there are {first} to {last}")
    return {path for path in parameters if _fits(path, patterns)}


def _fits(path: tuple[Any, ...], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(_joined(path), pattern) for pattern in patterns)


def _joined(path: tuple[Any, ...]) -> str:
    """As `path_of` has it."""
    return "/".join(map(str, path))


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
