"""Saves and restores parameters and optimizer state with Orbax, and checks that a checkpoint fits the run."""

from pathlib import Path
from typing import Any

import jax
import optax
import orbax.checkpoint as ocp

from ftp_optax import state_shardings

__all__ = ["require_fit", "restore", "save", "target"]


def save(path: Path, params: Any, state: Any) -> None:
    """Writes parameters and optimizer state. Returns when they are on disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, (params, state))


def target(tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """The target for Orbax: shapes, dtypes and shardings of parameters and state. Allocates nothing.

    Args:
        tx: The method, with the settings that it had when the checkpoint was written.
        params: Arrays, or shapes with shardings. Their mesh may differ from the one that wrote the checkpoint.
    """
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    shapes = jax.tree.map(lambda leaf: place(leaf, leaf.sharding), params)
    return shapes, jax.tree.map(place, jax.eval_shape(tx.init, shapes), state_shardings(tx, shapes))


def restore(path: Path, tx: optax.GradientTransformation, params: Any) -> tuple[Any, Any]:
    """Reads parameters and state onto the mesh of the given parameters. Raises an error if they do not fit.

    It reads them in the checkpoint's own structure, because Orbax also compares nodes without an array. Other versions
    and NNX have other nodes in place of an unconstrained leaf.
    """
    wanted = target(tx, params)
    places = _by_path(wanted)
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(path).item_metadata.tree
        require_fit(stored, wanted)
        arrays = _by_path(checkpointer.restore(path, jax.tree.map_with_path(lambda at, _: places[_name(at)], stored)))
    return jax.tree.map_with_path(lambda at, _: arrays[_name(at)], wanted)


def require_fit(stored: Any, wanted: Any) -> None:
    """Raises an error that names the array if the checkpoint does not fit the run.

    Orbax refuses most such checkpoints itself, but not all: it accepts one with a leaf that is no longer constrained.
    Its errors do not always name the array.

    Args:
        stored: The checkpoint's metadata: any tree whose leaves have a shape and a dtype.
        wanted: The tree to restore.
    """
    there, here = _by_path(stored), _by_path(wanted)
    for path in sorted(there.keys() ^ here.keys(), key=_anchors_first):
        places = ("checkpoint", "run") if path in there else ("run", "checkpoint")
        raise ValueError(
            f"The {places[0]} has an array at {path!r}, the {places[1]} has none. The mask, the method or its settings "
            "differ: restore with those of the run that wrote it, or restore its parameters alone and call tx.init."
        )
    for path, leaf in here.items():
        if tuple(there[path].shape) != tuple(leaf.shape) or there[path].dtype != leaf.dtype:
            raise ValueError(
                f"The array at {path!r} is {there[path].dtype}{list(there[path].shape)} in the checkpoint, "
                f"{leaf.dtype}{list(leaf.shape)} in the run."
            )


def _by_path(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _anchors_first(path: str) -> tuple[bool, str]:
    """Sorts parameters before counters, so that the error names a parameter."""
    return "anchor" not in path and "displacement" not in path, path
