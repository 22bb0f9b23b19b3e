"""The results: one row of a CSV file for each run, appended when it is done; what is there is not run again."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vision.errors import UserError

__all__ = ["COLUMNS", "File", "Key", "Row", "append", "key_of", "read"]

COLUMNS = (
    "experiment",
    "backbone",
    "id_domain",
    "method",
    "hyperparameters",
    "seed",
    "validation_accuracy",
    "id_accuracy",
    "ood_seen_accuracy",
    "ood_held_accuracy",
    "drift",
    "seconds",
    "domains",
)
"""Of the file. `hyperparameters` and `domains` (accuracy in each OOD domain) are JSON. Accuracies are shares; those on
test images are empty in trials, which look at validation images only."""

_TEXTS = ("experiment", "backbone", "id_domain", "method")
_DATA = ("hyperparameters", "domains", "accuracies", "kinds")  # JSON
_COUNTS = ("seed", "images")

Row = dict[str, Any]


class Key(NamedTuple):
    """What tells runs apart."""

    experiment: str
    backbone: str
    id_domain: str
    method: str
    hyperparameters: str
    seed: int


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of a row."""
    texts = {name: row[name] for name in _TEXTS}
    return Key(**texts, hyperparameters=_json(row["hyperparameters"]), seed=int(row["seed"]))


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """All rows of a file; none if there is no file.

    Args:
        path: Of the file.
        columns: Of the file, if it is another benchmark's.

    Raises:
        UserError: The file has other columns.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise UserError(f"{path}: its columns are not {', '.join(columns)}; move the file away")
        return [_parsed(row) for row in reader if row[columns[-1]] is not None]  # a line cut short by a crash is no row


def append(path: Path, row: Row, columns: Sequence[str] = COLUMNS) -> None:
    """Adds a row, in one write, so that two processes may fill one file. What the row lacks stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = [_json(row.get(name, {})) if name in _DATA else row.get(name) for name in columns]
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(columns)
        writer.writerow("" if cell is None else f"{cell:.5g}" if isinstance(cell, float) else cell for cell in line)


@dataclass(frozen=True)
class File:
    """A file of rows, with what tells its runs apart.

    Attributes:
        path: Of the file.
        columns: Of the file.
        also: Those columns that tell runs apart beside the key's.
    """

    path: Path
    columns: Sequence[str] = COLUMNS
    also: tuple[str, ...] = ()

    def read(self) -> list[Row]:
        """All rows."""
        return read(self.path, self.columns)

    def append(self, row: Row) -> None:
        """Adds a row."""
        append(self.path, row, self.columns)

    def __contains__(self, row: Row) -> bool:
        """Whether the file has a row of the same run."""
        own = lambda row: (key_of(row), *(row[name] for name in self.also))
        return own(row) in map(own, self.read())


def _parsed(row: Mapping[str, str]) -> Row:
    return {name: _read(name, cell) for name, cell in row.items()}


def _read(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name in _DATA:
        return json.loads(cell)
    if name in _COUNTS:
        return int(cell)
    return float(cell) if cell else None


def _json(value: Any) -> str:
    return json.dumps(_rounded(value), sort_keys=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
