"""Which image files cannot be read: by what earlier runs found, and by decoding those that are new."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vision.errors import UserError
from vision.images import is_lasting, read_image
from vision.paths import Paths
from vision.verdicts import Key, key_of, known, remember

__all__ = ["Examined", "OnChecked", "examined", "way_out"]

OnChecked = Callable[[int, int], None]
"""Called with the number of images checked, and of all to check, every now and then."""

_IMAGES_BETWEEN_CALLS = 256
_MOST_NEW = 20_000  # that are decoded before the first step: a minute or two
_LOOKED_UP = 4096
_NAMED = 3


class Examined(NamedTuple):
    """What is known of files.

    Attributes:
        bad: For each list of paths, the places of those that cannot be read.
        notes: What the user should know of it.
    """

    bad: list[list[int]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    path: Path
    key: Key | None
    places: list[tuple[int, int]]  # in which lists, and where


def examined(lists: Sequence[Paths], *, skip_bad: bool, on_checked: OnChecked) -> Examined:
    """Finds the files that cannot be read, and keeps what it found.

    Files that were looked at before and have not changed are not decoded again. New ones are decoded, once: a header
    alone does not show that a file is truncated, and a truncated image found now costs nothing, found in the third
    epoch it costs the run. JPEG is decoded at an eighth of its size, which still reads every byte. Very many new ones
    would take hours, and are left to be met.

    Args:
        lists: The files.
        skip_bad: Report those that cannot be read, rather than refuse the first.
        on_checked: Progress.

    Raises:
        UserError: A file cannot be read.
    """
    new, bad, unread = _looked_up(lists, skip_bad)
    if unread > _MOST_NEW:
        large = f"More than {_MOST_NEW} images are new: they are not read first, damaged ones are met as they come"
        notes = [large]
    else:
        notes = []
        bad += _decoded(new, skip_bad, on_checked)
    places = [sorted(place for file, _ in bad for which, place in file.places if which == i) for i in range(len(lists))]
    if bad:
        first = ", ".join(str(file.path) for file, _ in bad[:_NAMED]) + (" and others" if len(bad) > _NAMED else "")
        count = "1 image that" if len(bad) == 1 else f"{len(bad)} images that"
        notes.append(f"Left out {count} cannot be read: {first}")
    return Examined(places, tuple(notes))


def way_out(message: str) -> str:
    """The message with what else can be done about an image that cannot be read."""
    return message.removesuffix(".") + "; --on-bad-image skip passes over it."


def _looked_up(lists: Sequence[Paths], skip_bad: bool) -> tuple[list[_File], list[tuple[_File, str]], int]:
    """The new files, those known to be bad, and how many are new; of more than are decoded, none is returned."""
    new: dict[Key | Path, _File] = {}
    bad: dict[Key, tuple[_File, str]] = {}
    unread = 0
    with ThreadPoolExecutor() as pool:  # a look at a file takes long where it lies on another machine
        for which, start, paths in _parts(lists):
            parts = [paths[i : i + _IMAGES_BETWEEN_CALLS] for i in range(0, len(paths), _IMAGES_BETWEEN_CALLS)]
            keys = [key for part in pool.map(lambda part: [key_of(path) for path in part], parts) for key in part]
            verdicts = known([key for key in keys if key])
            for place, (path, key) in enumerate(zip(paths, keys, strict=True), start):
                if key is not None and key in verdicts:
                    if (error := verdicts[key]) is None:
                        continue
                    if not skip_bad:
                        raise UserError(way_out(error))
                    file, _ = bad.setdefault(key, (_File(path, key, []), error))
                else:
                    name = key or path
                    unread += name not in new
                    if unread > _MOST_NEW:
                        continue
                    file = new.setdefault(name, _File(path, key, []))
                file.places.append((which, place))
    return list(new.values()), list(bad.values()), unread


def _parts(lists: Sequence[Paths]) -> Iterator[tuple[int, int, list[Path]]]:
    for which, paths in enumerate(lists):
        for start in range(0, len(paths), _LOOKED_UP):
            yield which, start, list(paths[start : start + _LOOKED_UP])


def _decoded(files: Sequence[_File], skip_bad: bool, on_checked: OnChecked) -> list[tuple[_File, str]]:
    """Decodes files, in threads (Pillow's decoders release the interpreter lock); those that cannot be read."""
    bad: list[tuple[_File, str]] = []
    pool = ThreadPoolExecutor()
    try:
        # Not an image at a time: every task in the queue takes memory.
        parts = [files[start : start + _IMAGES_BETWEEN_CALLS] for start in range(0, len(files), _IMAGES_BETWEEN_CALLS)]
        done = 0
        for part, errors in zip(parts, pool.map(_errors, parts), strict=True):
            pairs = list(zip(part, errors, strict=True))
            remember(
                (file.key, error and str(error))
                for file, error in pairs
                if file.key and (error is None or is_lasting(error))
            )
            found = [(file, str(error)) for file, error in pairs if error]
            if found and not skip_bad:
                raise UserError(way_out(found[0][1]))
            bad += found
            on_checked(done := done + len(part), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    return bad


def _errors(files: Sequence[_File]) -> list[UserError | None]:
    return [_error(file.path) for file in files]


def _error(path: Path) -> UserError | None:
    try:
        read_image(path, 1)
    except UserError as error:
        return error
    return None
