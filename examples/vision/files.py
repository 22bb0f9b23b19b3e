"""Files and directories that are whole at every moment at which they can be seen under their name."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vision.errors import UserError

__all__ = ["atomic_write", "new_directory", "replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when the block ends, and is removed if it fails.

    Raises:
        OSError: It cannot be written; names `path`, which writing alone does not where the disk is full.
    """
    path = Path(path)
    # Not mkstemp, whose files only their owner may read. The suffix stays: writers of figures go by it.
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def atomic_write(path: str | Path, data: bytes) -> None:
    """Writes a file, all of it or nothing.

    Raises:
        OSError: It cannot be written; names `path`.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill, which gets its name `path` when the block ends, and is removed if it fails.

    Raises:
        UserError: It exists already, or cannot be written.
    """
    if os.path.lexists(path):
        raise UserError(f"{path}: exists already; choose another --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            unfinished.chmod(0o777 & ~_umask())  # mkdtemp's directories are private
            yield unfinished
            unfinished.rename(path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be created ({error.strerror or error}); choose another --out") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
