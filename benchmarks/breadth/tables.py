"""Tables of methods by conditions, each cell a mean over seeds with its interval, held against one method by seed."""

from collections.abc import Mapping, Sequence

import writer as report
from robust.rows import Row
from robust.summary import Estimate, estimate
from robust.tables import ENOUGH_SEEDS

__all__ = ["Values", "gap", "header", "markdown", "settings", "table"]

Values = dict[str, dict[str, dict[int, float]]]
"""By method and by condition (the table's columns): one number, a share, for each seed."""


def table(values: Values, peer: str) -> list[list[str]]:
    """A line for each method: its name, then mean and 95 % interval in percent.

    Bold where the difference to `peer`, paired by seed, has an interval without zero, over three seeds or more.
    """
    columns = header(values)[1:]
    lines = []
    for method, cells in values.items():
        shown = [_cell(cells.get(column, {}), values[peer].get(column, {}), method != peer) for column in columns]
        lines.append([method, *shown])
    return lines


def header(values: Values) -> list[str]:
    """The columns' names, in the order in which they come up."""
    return ["method", *dict.fromkeys(column for cells in values.values() for column in cells)]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, methods as code."""
    return report.markdown(head, [[f"`{line[0]}`", *line[1:]] for line in lines])


def settings(found: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The hyper-parameters of each method, for files; of several the last one's, as in the tables."""
    return {row["method"]: row["hyperparameters"] for row in found}


def gap(mine: Mapping[int, float], peers: Mapping[int, float]) -> Estimate:
    """The difference in points, paired by seed: what seeds have in common, a hard split, says nothing about methods.

    Without an interval below three common seeds, where it would be wider than any axis.
    """
    seeds = sorted(mine.keys() & peers.keys())
    found = estimate([mine[seed] - peers[seed] for seed in seeds])
    return found if len(seeds) >= ENOUGH_SEEDS else Estimate(found.mean, None)


def _cell(mine: Mapping[int, float], peers: Mapping[int, float], compared: bool) -> str:
    if not mine:
        return ""
    text = str(estimate(list(mine.values())))
    told = compared and mine.keys() & peers.keys() and gap(mine, peers).clear
    return f"**{text}**" if told else text
