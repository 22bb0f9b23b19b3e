"""Names of classes where they are not the names of the folders: a JSON object from folder to class."""

import json
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vision.errors import UserError

__all__ = ["FOLDER_NAMES", "ClassMap", "composed", "read_class_map", "shortened"]

_SHOWN = 5


@dataclass(frozen=True)
class ClassMap:
    """What the folders' classes are called; a folder that is not named keeps its own name.

    Attributes:
        path: The file it was read from; None where there is none.
        classes: Class by folder name; None leaves the folder out. Several folders may have the same class.
    """

    path: Path | None = None
    classes: Mapping[str, str | None] = field(default_factory=dict)

    def of(self, folder: str) -> str | None:
        """The class of a folder, or None if the folder is left out."""
        return self.classes.get(folder, folder)

    def check(self, classes: Collection[str]) -> None:
        """Refuses a class that there is no training image for, most likely a misspelled one.

        Raises:
            UserError: It names the folder and the class.
        """
        for folder, name in self.classes.items():
            if name is not None and name not in classes:
                raise UserError(
                    f"{self.path}: {folder!r} is mapped to {name!r}, which is no class of the training images "
                    f"({shortened(classes)}); correct it, or write null to leave the folder out."
                )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should be told of it."""
        left_out = [folder for folder, name in self.classes.items() if name is None]
        return (f"Left out by {self.path}: {shortened(left_out)}",) if left_out else ()


FOLDER_NAMES = ClassMap()
"""Every class is called as its folder."""


def read_class_map(path: Path) -> ClassMap:
    """Reads a class map.

    Raises:
        UserError: The file is missing, or is no JSON object from names of folders to names of classes.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)
        if not isinstance(pairs, tuple) or not all(isinstance(name, str | None) for _, name in pairs):
            raise ValueError('an object is expected, {"folder": "class", "other folder": null}')
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path after --class-map.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no class map: {error}.") from None
    classes = {composed(folder): None if name is None else composed(name) for folder, name in pairs}
    if len(classes) < len(pairs):
        folders = [composed(folder) for folder, _ in pairs]
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise UserError(f"{path}: {twice!r} is given twice; keep one of the two.")
    return ClassMap(path, classes)


def composed(name: str) -> str:
    """A name with its accents composed: some systems store them so, others decomposed, and the class is the same."""
    return unicodedata.normalize("NFC", name)


def shortened(names: Iterable[str]) -> str:
    """The first few names, sorted, for a message."""
    ordered = sorted(names)
    return ", ".join(map(repr, ordered[:_SHOWN])) + (" and others" if len(ordered) > _SHOWN else "")
