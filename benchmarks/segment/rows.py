"""The results: a row for each run in dense.csv, and for each trial in dense_trials.csv."""

from pathlib import Path

from robust import rows
from robust.rows import File, Row

__all__ = ["BOUNDARIES", "COLUMNS", "SCORES", "File", "Row", "read"]

SCORES = {
    "ID": "id_miou",
    "OOD seen": "ood_seen_miou",
    "OOD held out": "ood_held_miou",
    "ID corrupted": "corrupted_miou",
}
"""Columns of the tables, by heading."""

BOUNDARIES = {heading: name.replace("miou", "boundary_f") for heading, name in SCORES.items()}
"""The same of the second task."""

COLUMNS = (
    "experiment",
    "backbone",
    "id_domain",
    "method",
    "hyperparameters",
    "seed",
    "validation_miou",
    *SCORES.values(),
    *BOUNDARIES.values(),
    "drift",
    "seconds",
    "domains",
)
"""Of the files; `hyperparameters` and `domains` (mean IoU in each OOD style and under each corruption) are JSON."""


def read(path: Path) -> list[Row]:
    """All rows of a file; `validation_accuracy`, by which `robust.summary` chooses, is the validation mean IoU."""
    return [row | {"validation_accuracy": row["validation_miou"]} for row in rows.read(path, COLUMNS)]
