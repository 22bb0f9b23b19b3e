"""What is expensive to make and cheap to keep: arrays on disk, by the hash of what they were made from."""

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

__all__ = ["cache_dir", "digest", "keep_compiled_programs", "load_arrays", "store_arrays"]


def cache_dir() -> Path:
    """`$FTP_OPTAX_CACHE`, or `ftp_optax` in the platform's cache directory for the user. It need not exist yet."""
    if chosen := os.environ.get("FTP_OPTAX_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ftp_optax"


def keep_compiled_programs() -> None:
    """Keeps what takes long to compile for the next run, and for the resumption of this one."""
    import jax  # imported here: processes that decode images need the rest

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the user's own choice
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))


def digest(arrays: Mapping[str, np.ndarray], config: str = "") -> str:
    """SHA-256, in hexadecimal, of named arrays (names, dtypes, shapes, values) and of a description beside them."""
    sha = hashlib.sha256(config.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def load_arrays(key: str) -> dict[str, np.ndarray] | None:
    """The arrays stored under `key`, or None if there are none or the file is damaged (it is then as if absent)."""
    try:
        with safe_open(_path(key), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return arrays if digest(arrays) == expected else None


def store_arrays(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Stores arrays under `key`, whole or not at all: a killed process leaves no half file under the final name.

    A cache is a convenience, so a directory that cannot be written is a warning and not an error.
    """
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A directory of one's own beside the target: renaming is atomic within a file system, and two processes that
        # store the same key do not meet.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as scratch:
            unfinished = Path(scratch) / path.name
            save_file(dict(arrays), unfinished, metadata={"sha256": digest(arrays)})
            os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"{path} was not cached ({error}); set FTP_OPTAX_CACHE to a writable directory.", stacklevel=2)


def _path(key: str) -> Path:
    return cache_dir() / f"{key}.safetensors"
