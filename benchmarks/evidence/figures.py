"""The figure that the tasks share: score in domain against out of domain, with intervals."""

from collections.abc import Sequence
from typing import Any

import style
from evidence import summary
from evidence.rows import Row
from evidence.summary import ENOUGH_SEEDS, Line, paired


def frontier(axes: Any, rows: Sequence[Row], across: str, up: str) -> None:
    """One column of the rows against another; the line is WiSE-FT. Bars are those of `paired_bar`."""
    found = [line for line in summary.lines(rows) if line.alpha is None]
    ends = {line.method: line for line in found}
    path = [ends["zero_shot"], *summary.curve(rows), ends["vanilla"]]
    points = [[line.score(column).mean for line in path] for column in (across, up)]
    axes.plot(*points, color="#444444", lw=1.2, marker=".", ms=5, label="wise_ft", zorder=1)
    for line in found:
        x, y = (line.score(column).mean for column in (across, up))
        bars = [paired_bar(line, ends["vanilla"], column) for column in (across, up)]
        label = "pre-trained" if line.method == "zero_shot" else line.method
        axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], lw=0.8, ls="", label=label, **style.of(line.method))
    style.clean(axes)


def paired_bar(line: Line, vanilla: Line, column: str) -> float:
    """Half the 95 % interval of a method's difference to plain fine-tuning, paired by seed.

    What seeds have in common, a hard split, says nothing about methods. The foundation model has none, and no method
    below three seeds: that of two is wider than the axes.
    """
    gap = paired(line, vanilla, column)
    shown = line.method != "zero_shot" and len(line.rows) >= ENOUGH_SEEDS
    return gap.half if shown and gap is not None and gap.half is not None else 0.0


def legend(axes: Any) -> None:
    """To the right of the last panel."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
