"""From rows to tables: means, 95 % intervals over seeds, and differences paired by seed."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from robust.experiments import main_backbone
from robust.rows import Row

__all__ = ["SCORES", "Estimate", "Group", "Line", "estimate", "groups", "lines", "paired", "settings"]

SCORES = {"ID": "id_accuracy", "OOD seen": "ood_seen_accuracy", "OOD held out": "ood_held_accuracy"}
"""Columns of the tables, by heading."""

PEERS = ("vanilla", "wise_ft")
"""What every method is compared with."""


class Estimate(NamedTuple):
    """A mean in percent and half the width of its 95 % interval, None for a single seed."""

    mean: float
    half: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.half is not None and abs(self.mean) > self.half > 0

    def __format__(self, sign: str) -> str:
        """`58.2 ± 1.1`; with the mean's sign where the format is `+`."""
        return f"{self.mean:{sign}.1f}" + (f" ± {self.half:.1f}" if self.half is not None else "")

    def __str__(self) -> str:
        return format(self)


class Group(NamedTuple):
    """What rows must share to be compared."""

    experiment: str
    id_domain: str
    backbone: str

    @property
    def name(self) -> str:
        """In the names of files; the backbone is in it where it is not the experiment's main one."""
        main = self.backbone == main_backbone(self.experiment)
        return "-".join((self.experiment, self.id_domain) + (() if main else (self.backbone,)))


class Line(NamedTuple):
    """One method with one setting.

    Attributes:
        method: Its name in the rows.
        hyperparameters: Its setting.
        rows: One row for each seed, by seed.
    """

    method: str
    hyperparameters: Mapping[str, float]
    rows: Mapping[int, Row]

    @property
    def alpha(self) -> float | None:
        """Where on the line to the foundation model, for what is interpolated."""
        return self.hyperparameters.get("alpha")

    @property
    def validation(self) -> float:
        """Mean accuracy on validation images."""
        return statistics.fmean(row["validation_accuracy"] for row in self.rows.values())

    def score(self, column: str) -> Estimate:
        """One column over the seeds."""
        return estimate([row[column] for row in self.rows.values()])


def groups(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """The rows of each experiment, ID domain and backbone, in the order of the file."""
    found: dict[Group, list[Row]] = defaultdict(list)
    for row in rows:
        found[Group(row["experiment"], row["id_domain"], row["backbone"])].append(row)
    return dict(found)


def lines(rows: Sequence[Row]) -> list[Line]:
    """One line for each method: of its settings the one with the most seeds, of equals the best on validation images.

    WiSE-FT's alpha is chosen so; what else is in the rows (the curve) is in `curve`.
    """
    by_method: dict[str, list[Line]] = defaultdict(list)
    for line in settings(rows):
        by_method[line.method].append(line)
    return [max(found, key=lambda line: (len(line.rows), line.validation)) for found in by_method.values()]


def curve(rows: Sequence[Row], method: str, end: str = "vanilla") -> list[Line]:
    """The interpolations of a method by alpha, towards the setting of its end that `lines` shows."""
    tuned = next((line.hyperparameters for line in lines(rows) if line.method == end), {})
    mine = (line for line in settings(rows) if line.method == method)
    same = (line for line in mine if {**line.hyperparameters, "alpha": None} == {**tuned, "alpha": None})
    return sorted(same, key=lambda line: line.alpha or 0.0)


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its 95 % interval by Student's t, in percent."""
    mean, count = 100 * statistics.fmean(values), len(values)
    if count < 2:
        return Estimate(mean, None)
    half = float(stats.t.ppf(0.975, count - 1)) * 100 * statistics.stdev(values) / count**0.5
    return Estimate(mean, half)


def paired(line: Line, peer: Line, column: str) -> Estimate | None:
    """The difference to a peer over the seeds that both have; None without any."""
    seeds = sorted(line.rows.keys() & peer.rows.keys())
    return estimate([line.rows[s][column] - peer.rows[s][column] for s in seeds]) if seeds else None


def as_data(found: Sequence[Line], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The whole table as plain data, for JSON; columns by heading."""
    peers = {line.method: line for line in found if line.method in PEERS}
    return [
        {
            "method": line.method,
            "hyperparameters": dict(line.hyperparameters),
            "seeds": sorted(line.rows),
            "validation": 100 * line.validation,
            "scores": {name: line.score(column)._asdict() for name, column in columns.items()},
            "minus": {
                name: {title: _plain(paired(line, peer, column)) for title, column in columns.items()}
                for name, peer in peers.items()
                if name != line.method
            },
        }
        for line in found
    ]


def _plain(found: Estimate | None) -> dict[str, float | None] | None:
    return found._asdict() if found is not None else None


def settings(rows: Sequence[Row]) -> list[Line]:
    """One line for each method and setting of it."""
    found: dict[tuple[str, str], Line] = {}
    for row in rows:
        # Two foundation seeds are two runs of one setting; a later row of the same seed replaces an earlier one.
        key = (row["method"], str(sorted(row["hyperparameters"].items())))
        line = found.setdefault(key, Line(row["method"], row["hyperparameters"], {}))
        found[key] = line._replace(rows={**line.rows, row["seed"]: row})
    return list(found.values())
