"""The results: one row of a CSV file for each run, appended when it is done; what is there is not run again."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vision.errors import UserError

__all__ = ["COLUMNS", "Key", "append", "key_of", "read"]

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

Row = dict[str, Any]


class Key(NamedTuple):
    """What tells runs apart."""

    experiment: str
    id_domain: str
    method: str
    hyperparameters: str
    seed: int


def key_of(row: Mapping[str, Any]) -> Key:
    """The key of a row."""
    return Key(row["experiment"], row["id_domain"], row["method"], _json(row["hyperparameters"]), int(row["seed"]))


def read(path: Path) -> list[Row]:
    """All rows of a file; none if there is no file.

    Raises:
        UserError: The file has other columns.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path}: its columns are not {', '.join(COLUMNS)}; move the file away")
        return [_parsed(row) for row in reader if row["domains"] is not None]  # a line cut short by a crash is no row


def append(path: Path, row: Row) -> None:
    """Adds a row, in one write, so that two processes may fill one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = [_json(row[name]) if name in ("hyperparameters", "domains") else row[name] for name in COLUMNS]
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(COLUMNS)
        writer.writerow("" if cell is None else f"{cell:.5g}" if isinstance(cell, float) else cell for cell in line)


def _parsed(row: Mapping[str, str]) -> Row:
    number = lambda cell: float(cell) if cell else None
    texts = {name: row[name] for name in ("experiment", "backbone", "id_domain", "method")}
    data = {name: json.loads(row[name]) for name in ("hyperparameters", "domains")}
    rest = {name: number(row[name]) for name in COLUMNS if name not in {*texts, *data, "seed"}}
    return {**texts, **data, **rest, "seed": int(row["seed"])}


def _json(value: Any) -> str:
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in value.items()}
    return json.dumps(rounded, sort_keys=True)
