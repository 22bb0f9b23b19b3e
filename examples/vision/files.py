"""Files that are whole at every moment at which they can be seen under their name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write", "replacing"]


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
