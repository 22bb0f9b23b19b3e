"""Checkpoints that are whole: every one carries the digest of its content, and what went wrong is said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vision.cache import digest
from vision.errors import UserError
from vision.interrupts import uninterrupted
from vision.quiet import quiet_writers

__all__ = ["checkpoint_manager", "restore", "save"]


@contextmanager
def checkpoint_manager(directory: Path) -> Iterator[ocp.CheckpointManager]:
    """Asynchronous checkpoints, the last two kept. Leaving it waits for the one that is being written.

    Raises:
        UserError: the directory cannot be written; also when the block ends, for the last checkpoint.
    """
    quiet_writers()
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=True)
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
    """Starts to write a checkpoint, having waited for the one before.

    From copies on the host: the next step overwrites donated arrays, and a history goes on growing, while the writer is
    still at work. Orbax writes under another name and renames last, so that a process that is killed, or a disk that is
    full, leaves the last whole checkpoint as it was.

    Raises:
        UserError: this or the last checkpoint could not be written.
    """
    copies = jax.tree.map(lambda x: np.array(x, copy=True), content)
    with _writing(Path(manager.directory)), uninterrupted():
        manager.save(step, args=ocp.args.StandardSave({**copies, "digest": _digest(copies)}))


def restore(manager: ocp.CheckpointManager, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """Reads a checkpoint into NumPy arrays, in the structure of what a fresh start has.

    Raises:
        UserError: it is damaged, or of another run. Nothing is deleted: what to do with it is for the user to say.
    """
    path = Path(manager.directory) / str(step)
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like) | {"digest": np.empty(32, np.uint8)}
    try:
        content = dict(manager.restore(step, args=ocp.args.StandardRestore(target)))
        stored = np.asarray(content.pop("digest"))
        content = jax.tree.map(lambda x: np.array(x, copy=True), content)
        reason = None if np.array_equal(stored, _digest(content)) else "its content is not what was saved"
    except Exception as error:  # Orbax and TensorStore document no errors for a damaged directory
        content, reason = {}, " ".join(str(error).split())[:160] or type(error).__name__
    if reason is not None:
        raise UserError(
            f"{path}: a damaged checkpoint, or one of another version ({reason}); remove that directory to go on from "
            "the one before it"
        )
    return content


def _digest(content: dict[str, Any]) -> np.ndarray:
    """SHA-256 of all arrays, with their paths, dtypes and shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(content)
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return np.frombuffer(bytes.fromhex(digest(named)), np.uint8)


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
