"""Trials run once each and kept as rows of a CSV file."""

import csv
import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optax

from past.runs import Trial, run
from past.tasks import Start

__all__ = ["Row", "read_rows", "run_missing"]


@dataclass(frozen=True)
class Row(Trial):
    """A trial and what came of it: accuracies in 0..1, `drift` the l2 norm of the whole displacement, `scalar` the mean
    of the learned radii or strengths over layers and the second half of the run."""

    validation_accuracy: float = 0.0
    id_accuracy: float = 0.0
    ood_seen_accuracy: float = 0.0
    ood_held_accuracy: float = 0.0
    drift: float = 0.0
    scalar: float = 0.0
    seconds: float = 0.0

    @property
    def trial(self) -> Trial:
        """What was asked for."""
        return Trial(*(getattr(self, field.name) for field in dataclasses.fields(Trial)))


def run_missing(
    trials: Iterable[Trial], path: Path, start_of: Callable[[Trial], Start], on_row: Callable[[int, Row], None]
) -> list[Row]:
    """Runs the trials that the file has no row of, appending each as it is done; gives the rows of all trials."""
    rows = {row.trial: row for row in read_rows(path)}
    wanted = list(dict.fromkeys(trials))
    for done, trial in enumerate(wanted, start=1):
        if trial not in rows:
            rows[trial] = _row(trial, start_of(trial))
            _append(rows[trial], path)
        on_row(done, rows[trial])
    return [rows[trial] for trial in wanted]


def _row(trial: Trial, start: Start) -> Row:
    began = time.perf_counter()
    done = run(start, trial)
    seen, held_out = (fmean(done.accuracy[name] for name in names) for names in start.groups.values())
    settled = done.history[len(done.history) // 2 :]
    return Row(
        **dataclasses.asdict(trial),
        validation_accuracy=round(done.validation, 5),
        id_accuracy=round(next(iter(done.accuracy.values())), 5),
        ood_seen_accuracy=round(seen, 5),
        ood_held_accuracy=round(held_out, 5),
        drift=round(float(optax.tree.norm(optax.tree.sub(done.params, start.params))), 5),
        scalar=round(float(np.mean(settled)), 5) if settled.size else 0.0,
        seconds=round(time.perf_counter() - began, 1),
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    if not path.exists():
        return []
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Row)}
    with path.open(newline="") as file:
        return [Row(**{name: kinds[name](value) for name, value in line.items()}) for line in csv.DictReader(file)]


def _append(row: Row, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(dataclasses.asdict(row))
