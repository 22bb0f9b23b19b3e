"""From rows to means, 95 % intervals over seeds, and differences paired by seed."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from evidence.rows import Row
from evidence.tasks import main_backbone

SCORES = {"ID": "id_accuracy", "OOD seen": "ood_seen_accuracy", "OOD held out": "ood_held_accuracy"}
"""Columns of the tables, by heading."""

ENOUGH_SEEDS = 3
"""From how many on an interval is taken at its word: that of two differences that happen to be equal is nothing."""


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

    @property
    def difference(self) -> str:
        """`+1.2 ± 0.3`, bold where it is told from zero."""
        return f"**{self:+}**" if self.clear else f"{self:+}"


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
    """One method with one setting, and its row for each seed."""

    method: str
    hyperparameters: Mapping[str, float]
    rows: Mapping[int, Row]

    @property
    def alpha(self) -> float | None:
        """Where on the line to the foundation model, for what is interpolated."""
        return self.hyperparameters.get("alpha")

    @property
    def validation(self) -> float:
        """Mean score on validation images."""
        return statistics.fmean(
            row["validation_miou" if "validation_miou" in row else "validation_accuracy"] for row in self.rows.values()
        )

    def of_seeds(self, column: str) -> dict[int, float]:
        """One column by seed."""
        return {seed: row[column] for seed, row in self.rows.items()}

    def score(self, column: str) -> Estimate:
        """One column over the seeds."""
        return estimate(list(self.of_seeds(column).values()))


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


def settings(rows: Sequence[Row]) -> list[Line]:
    """One line for each method and setting of it; a later row of the same seed replaces an earlier one."""
    found: dict[tuple[str, str], Line] = {}
    for row in rows:
        key = (row["method"], str(sorted(row["hyperparameters"].items())))
        line = found.setdefault(key, Line(row["method"], row["hyperparameters"], {}))
        found[key] = line._replace(rows={**line.rows, row["seed"]: row})
    return list(found.values())


def curve(rows: Sequence[Row]) -> list[Line]:
    """WiSE-FT by alpha, towards the setting of plain fine-tuning that `lines` shows."""
    tuned = next((line.hyperparameters for line in lines(rows) if line.method == "vanilla"), {})
    mine = (line for line in settings(rows) if line.method == "wise_ft")
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
    return gap(line.of_seeds(column), peer.of_seeds(column)) if line.rows.keys() & peer.rows.keys() else None


def gap(mine: Mapping[int, float], peers: Mapping[int, float]) -> Estimate:
    """The difference in points, paired by seed: what seeds have in common, a hard split, says nothing about methods.

    Without an interval below three common seeds, where it would be wider than any axis.
    """
    seeds = sorted(mine.keys() & peers.keys())
    found = estimate([mine[seed] - peers[seed] for seed in seeds])
    return found if len(seeds) >= ENOUGH_SEEDS else Estimate(found.mean, None)
