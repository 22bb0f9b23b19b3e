"""Very many paths in little memory."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

__all__ = ["Paths"]


@dataclass(frozen=True, eq=False)
class Paths(Sequence[Path]):
    """Paths of files in few folders: some 30 bytes each, where a `Path` takes ten times that.

    Indexed with an array, it is the paths at these places.

    Attributes:
        folders: The folders, each once.
        folder: int32, `(n,)`: which of them a file lies in.
        names: uint8: the names of the files as the system writes them, one after the other.
        ends: int64, `(n,)`: where each name ends.
    """

    folders: tuple[str, ...]
    folder: np.ndarray
    names: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> "Paths":
        """The paths, in their order."""
        folders: dict[str, int] = {}
        split = (os.path.split(path) for path in paths)
        pairs = [(folders.setdefault(folder, len(folders)), os.fsencode(name)) for folder, name in split]
        return cls(
            tuple(folders),
            np.array([folder for folder, _ in pairs], np.int32),
            np.frombuffer(b"".join(name for _, name in pairs), np.uint8),
            np.cumsum([len(name) for _, name in pairs], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Paths"]) -> "Paths":
        """The paths of all parts, one part after the other."""
        if not parts:
            return cls.of(())
        folders = {folder: 0 for part in parts for folder in part.folders}
        number = {folder: i for i, folder in enumerate(folders)}
        starts = np.cumsum([0, *(len(part.names) for part in parts)])
        return cls(
            tuple(folders),
            np.concatenate([np.array([number[f] for f in part.folders], np.int32)[part.folder] for part in parts]),
            np.concatenate([part.names for part in parts]),
            np.concatenate([part.ends + start for part, start in zip(parts, starts, strict=False)]),
        )

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.folder.nbytes + self.names.nbytes + self.ends.nbytes

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> "Paths": ...

    def __getitem__(self, index: int | slice | np.ndarray) -> "Path | Paths":
        if isinstance(index, slice | np.ndarray):
            return self._at(np.arange(len(self))[index])
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        name = self.names[start : int(self.ends[place])].tobytes()
        return Path(self.folders[self.folder[place]], os.fsdecode(name))

    def _at(self, places: np.ndarray) -> "Paths":
        starts = np.concatenate([np.zeros(1, np.int64), self.ends])[places]
        lengths = self.ends[places] - starts
        ends = np.cumsum(lengths)
        # Of each byte of the new names, where it was.
        bytes_at = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
        return Paths(self.folders, self.folder[places], self.names[bytes_at], ends)
