"""From rows and distances to what the report says: scores by domain and by kind of question, and correlations."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from questions.domains import FAR, NEAR
from questions.protocol import shifts_file
from questions.scores import loss, overall
from questions.shift import SPACES
from questions.wordings import KINDS
from robust import summary
from robust.summary import Line

__all__ = ["SCORES", "Shift", "as_data", "correlations", "domain_mean", "kind_mean", "loss_mean", "shifts"]

SCORES = {"ID": "id_accuracy", "near": "near_accuracy", "far": "far_accuracy"}
"""Columns of the tables, by heading."""


class Shift(NamedTuple):
    """How far a domain lies from the one that is fine-tuned on, by space; means over seeds."""

    image: float
    question: float
    fused: float


def shifts(results: Path) -> dict[str, Shift]:
    """Of every test domain."""
    by_seed: Mapping[str, Any] = json.loads(shifts_file(results).read_text("utf-8"))
    mean = lambda name, space: statistics.fmean(one[name][space] for one in by_seed.values())
    return {name: Shift(*(mean(name, space) for space in SPACES)) for name in ("id", *NEAR, *FAR)}


def domain_mean(line: Line, domain: str) -> float:
    """A method's mean accuracy in a test domain, in percent."""
    return 100 * statistics.fmean(overall(row["domains"][domain]) for row in line.rows.values())


def kind_mean(line: Line, domains: Sequence[str], kind: str) -> float:
    """A method's mean accuracy in one kind of question over some domains, in percent."""
    found = (row["domains"][domain][KINDS.index(kind)] for row in line.rows.values() for domain in domains)
    return 100 * statistics.fmean(value for value in found if value is not None)


def loss_mean(line: Line, domain: str) -> float:
    """How many points of accuracy a shift costs a method, over the kinds of question that both domains have."""
    rows = line.rows.values()
    return 100 * statistics.fmean(loss(row["domains"]["id"], row["domains"][domain]) for row in rows)


def correlations(line: Line, found: Mapping[str, Shift]) -> Shift:
    """Pearson's correlation, over the shifted domains, of what a shift costs a method with how far it is."""
    losses = [loss_mean(line, name) for name in (*NEAR, *FAR)]
    columns = ([getattr(found[name], space) for name in (*NEAR, *FAR)] for space in SPACES)
    return Shift(*(float(np.corrcoef(column, losses)[0, 1]) if np.ptp(losses) else 0.0 for column in columns))


def as_data(lines: Sequence[Line], found: Mapping[str, Shift]) -> list[dict[str, Any]]:
    """The whole report as plain data, for JSON."""
    return [
        one
        | {
            "domains": {name: domain_mean(line, name) for name in found},
            "correlations": correlations(line, found)._asdict(),
        }
        for line, one in zip(lines, summary.as_data(lines, SCORES), strict=True)
    ]
