"""Checkpoints that are whole: every one carries the digest of its content, and what went wrong is said in one line."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from vision.cache import digest
from vision.errors import UserError
from vision.interrupts import uninterrupted
from vision.quiet import quiet_writers

__all__ = ["checkpoint_manager", "of_each", "restore", "save"]


@contextmanager
def checkpoint_manager(directory: Path, *, keep: int = 2) -> Iterator[ocp.CheckpointManager]:
    """Asynchronous checkpoints, the last `keep` of them kept. Leaving it waits for the one that is being written.

    Raises:
        UserError: the directory cannot be written; also when the block ends, for the last checkpoint.
    """
    quiet_writers()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
    with _writing(directory), uninterrupted():
        manager = ocp.CheckpointManager(directory, options=options)
    try:
        yield manager
    except BaseException:
        with uninterrupted():
            _abandon(manager)
        raise
    with _writing(directory), uninterrupted():
        manager.close()


def save(manager: ocp.CheckpointManager, step: int, content: dict[str, Any]) -> None:
    """Starts to write a checkpoint, having waited for the one before. Training goes on while it is written.

    From copies: the next step overwrites donated arrays, and a history goes on growing, while the writer is still at
    work. Arrays of an accelerator are copied to the host by Orbax, before it returns. Orbax writes under another name
    and renames last, so that a process that is killed, or a disk that is full, leaves the last whole checkpoint as it
    was.

    Raises:
        UserError: this or the last checkpoint could not be written.
    """
    host = jax.default_backend() == "cpu"
    copies = jax.tree.map(lambda x: x if _on_device(x) and not host else x.copy(), content)
    with _writing(Path(manager.directory)), uninterrupted():
        manager.save(step, args=ocp.args.StandardSave({**copies, "digest": _digest(content)}))


def restore(manager: ocp.CheckpointManager, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint into the structure of what a fresh start has, every array to where its counterpart lies.

    Raises:
        UserError: it is damaged, or of another run. Nothing is deleted: what to do with it is for the user to say.
    """
    path = Path(manager.directory) / str(step)
    target = jax.tree.map(_target, like) | {"digest": np.empty(32, np.uint8)}
    try:
        content = dict(manager.restore(step, args=ocp.args.StandardRestore(target)))
        stored = np.asarray(content.pop("digest"))
        content = jax.tree.map(_placed, content, like)
        reason = None if np.array_equal(stored, _digest(content)) else "its content is not what was saved"
    except Exception as error:  # Orbax and TensorStore document no errors for a damaged directory
        content, reason = {}, " ".join(str(error).split())[:160] or type(error).__name__
    if reason is not None:
        raise UserError(
            f"{path}: a damaged checkpoint, or one of another version ({reason}); remove that directory to go on from "
            "the one before it"
        )
    return content


def _on_device(x: Any) -> bool:
    return isinstance(x, jax.Array)


def _on_mesh(x: Any) -> bool:
    return _on_device(x) and isinstance(x.sharding, NamedSharding)


def _target(x: Any) -> Any:
    """Each process reads its share of what lies on a mesh, and the whole of everything else."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if _on_mesh(x) else np.empty(x.shape, x.dtype)


def _placed(x: Any, like: Any) -> Any:
    if _on_mesh(like):
        return x
    return jnp.asarray(np.array(x)) if _on_device(like) else np.array(x, copy=True)


def _digest(content: dict[str, Any]) -> np.ndarray:
    """SHA-256 of all arrays, with their paths, dtypes and shapes; of those on devices, of their sums."""
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(content)]
    host = {name: np.asarray(leaf) for name, leaf in leaves if not _on_device(leaf)}
    names = [f"{name} {leaf.dtype} {leaf.shape}" for name, leaf in leaves if _on_device(leaf)]
    sums = of_each(_checksum, [leaf for _, leaf in leaves if _on_device(leaf)])
    on_devices = dict(zip(names, sums, strict=True))
    return np.frombuffer(bytes.fromhex(digest({**host, **on_devices})), np.uint8)


def of_each(function: Callable[[jax.Array], jax.Array], arrays: Sequence[jax.Array]) -> list[np.ndarray]:
    """A small jitted function of each array. On a mesh in one program, in which sums over devices have one order.

    Programs of their own may run in another order on another host, and each would wait for the other.
    """
    if any(map(_on_mesh, arrays)):
        return list(map(np.asarray, _in_one_program(function, tuple(arrays))))
    return list(map(np.asarray, [function(array) for array in arrays]))


@partial(jax.jit, static_argnums=0)
def _in_one_program(function: Callable[[jax.Array], jax.Array], arrays: tuple[jax.Array, ...]) -> list[jax.Array]:
    return [function(array) for array in arrays]


@jax.jit
def _checksum(x: jax.Array) -> jax.Array:
    """The sum of all bit patterns, each times an odd number of its place, modulo 2^32.

    Computed where the array lies, in one pass, and the same however it is cut over devices. Whatever a single element
    is changed to changes it, and of other changes one in 2^32 does not.
    """
    bits = x if x.dtype == bool else jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(4, x.dtype.itemsize)}"))
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, length in enumerate(bits.shape):
        place = place * np.uint32(length) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return (bits.astype(jnp.uint32) * (place * np.uint32(2654435761) * np.uint32(2) + np.uint32(1))).sum(
        dtype=jnp.uint32
    )


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turns what Orbax raises where it cannot write into one line."""
    try:
        yield
    except Exception as error:  # OSError, or what TensorStore makes of one, from the thread that writes
        # the innermost cause: TensorStore names every file on the way to it
        said = error.strerror if isinstance(error, OSError) else None
        reason = said or " ".join(str(error).split()).rpartition(": ")[2][-160:] or type(error).__name__
        raise UserError(
            f"{directory}: a checkpoint cannot be written ({reason}); the last whole one is intact. Make room, or the "
            "directory writable, and go on with --resume"
        ) from error


def _abandon(manager: ocp.CheckpointManager) -> None:
    """Closes a manager on the way out of an error, which a second one from the writer must not hide."""
    try:
        manager.close()
    except Exception:  # the error that is being raised is the one to tell
        return
