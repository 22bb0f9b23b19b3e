"""What is known of image files from earlier runs: that one can be read, or why not.

A verdict holds for a path, a size, a time of the last change, and a version of Pillow. It is a convenience: a store
that cannot be written is a warning, and a damaged one is as if absent.
"""

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import PIL

from vision.cache import cache_dir

__all__ = ["Key", "key_of", "known", "remember"]

Key = bytes
"""The hash of what a verdict holds for."""

_WAIT = 10.0  # seconds for another process that writes
_AT_ONCE = 500  # of old versions of SQLite no more than 999 parameters are taken


def key_of(path: Path) -> Key | None:
    """What a verdict on this file is kept under; None if the file is not there."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    facts = f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0{PIL.__version__}"
    return hashlib.blake2b(os.fsencode(facts), digest_size=16).digest()


def known(keys: Sequence[Key]) -> dict[Key, str | None]:
    """The verdicts on those files that have one: why it cannot be read, or nothing."""
    found: dict[Key, str | None] = {}
    if not _path().exists():
        return found
    try:
        with closing(sqlite3.connect(_path(), timeout=_WAIT)) as store:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                found |= store.execute(f"SELECT file, error FROM verdicts WHERE file IN ({marks})", part).fetchall()
    except sqlite3.Error:
        return {}
    return found


def remember(verdicts: Iterable[tuple[Key, str | None]]) -> None:
    """Keeps verdicts: why a file cannot be read, or nothing."""
    verdicts = list(verdicts)
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        try:
            _insert(verdicts)
        except sqlite3.OperationalError:  # not damage: it cannot be opened, is locked, or the disk is full
            raise
        except sqlite3.DatabaseError:
            _path().unlink(missing_ok=True)
            _insert(verdicts)
    except (OSError, sqlite3.Error) as error:
        way_out = "images are read anew next time; set FTP_OPTAX_CACHE to a writable directory"
        warnings.warn(f"{_path()} was not written ({error}): {way_out}.", stacklevel=2)


def _insert(verdicts: list[tuple[Key, str | None]]) -> None:
    with closing(sqlite3.connect(_path(), timeout=_WAIT)) as store, store:
        store.execute("CREATE TABLE IF NOT EXISTS verdicts (file BLOB PRIMARY KEY, error TEXT) WITHOUT ROWID")
        store.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", verdicts)


def _path() -> Path:
    return cache_dir() / "images.sqlite"
