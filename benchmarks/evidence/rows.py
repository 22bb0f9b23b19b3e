"""The rows: a line of a CSV file for each run, appended when it is done; what is there is not run again."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError
from writer import rounded

Row = dict[str, Any]

KEY = ("experiment", "backbone", "id_domain", "method", "hyperparameters", "seed")  # what tells runs apart

COLUMNS = (*KEY, "validation_accuracy", "id_accuracy", "ood_seen_accuracy", "ood_held_accuracy")
COLUMNS += ("drift", "seconds", "domains")
"""Of robustness.csv. Scores are shares; those on test images are empty in trials, which look at validation alone."""

_TEXTS = ("experiment", "backbone", "id_domain", "method", "task")
_DATA = ("hyperparameters", "domains", "accuracies", "kinds")  # JSON
_COUNTS = ("seed", "images", "batch", "judge_every")


@dataclass(frozen=True)
class File:
    """A file of rows, its columns, and those of them that tell runs apart."""

    path: Path
    columns: Sequence[str] = COLUMNS
    key: tuple[str, ...] = KEY

    def read(self) -> list[Row]:
        """All rows; none if there is no file. A line that a crash cut short is no row.

        Raises:
            UserError: The file has other columns.
        """
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != tuple(self.columns):
                raise UserError(f"{self.path}: its columns are not {', '.join(self.columns)}; move the file away")
            whole = (row for row in reader if row[self.columns[-1]] is not None)
            return [{name: _read(name, cell) for name, cell in row.items()} for row in whole]

    def append(self, row: Row) -> None:
        """Adds a row, in one write, so that two processes may fill one file. What the row lacks stays empty."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = [_json(row.get(name, {})) if name in _DATA else row.get(name) for name in self.columns]
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(self.columns)
            writer.writerow("" if cell is None else f"{cell:.5g}" if isinstance(cell, float) else cell for cell in line)

    def key_of(self, row: Row) -> tuple[Any, ...]:
        """What tells a row's run from others."""
        return tuple(_json(row[name]) if name in _DATA else row[name] for name in self.key)

    def __contains__(self, row: Row) -> bool:
        """Whether the file has a row of the same run."""
        return self.key_of(row) in map(self.key_of, self.read())


def _read(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name in _DATA:
        return json.loads(cell)
    if name in _COUNTS:
        return int(cell)
    return float(cell) if cell else None


def _json(value: Any) -> str:
    return json.dumps(rounded(value, 5), sort_keys=True)
