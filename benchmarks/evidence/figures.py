"""The figure that the tasks share: score in domain against out of domain, with intervals."""

from collections.abc import Sequence
from typing import Any

import style
from evidence import summary
from evidence.rows import Row
from evidence.summary import ENOUGH_SEEDS, Line, paired
from evidence.tables import Values


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


def above_plain(axes: Any, values: Values, up: str) -> None:
    """What each method adds to plain fine-tuning, paired by seed, condition by condition."""
    others = [method for method in values if method not in ("vanilla", "zero_shot")]
    names = list(values["vanilla"])
    for i, method in enumerate(others):
        gaps = [summary.gap(values[method][name], values["vanilla"][name]) for name in names]
        places = [place + 0.13 * (i - (len(others) - 1) / 2) for place in range(len(names))]
        bars = [gap.half or 0.0 for gap in gaps]
        axes.errorbar(places, [gap.mean for gap in gaps], bars, lw=0.8, ls="", label=method, **style.of(method))
    axes.axhline(0, color="#444444", lw=0.8)
    axes.set_xticks(range(len(names)), names)
    style.label(axes, "", up)


def legend(axes: Any) -> None:
    """To the right of the last panel."""
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
