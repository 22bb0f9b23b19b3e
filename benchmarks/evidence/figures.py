"""The figure that the tasks share: score in domain against out of domain, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import style
from evidence import summary
from evidence.rows import Row
from evidence.summary import paired
from evidence.tables import Values
from style import plt


def frontiers(rows: Sequence[Row], across: tuple[str, str], ups: Mapping[str, str], size: tuple[float, float]) -> Any:
    """A panel for each column, against one that all share; of both the name and what the axis says."""
    figure, panels = plt.subplots(1, len(ups), figsize=size, layout="constrained", sharex=True)
    for axes, (up, label) in zip(panels, ups.items(), strict=True):
        frontier(axes, rows, across[0], up)
        style.label(axes, across[1], label)
    legend(panels[-1])
    return figure


def frontier(axes: Any, rows: Sequence[Row], across: str, up: str) -> None:
    """One column of the rows against another; the line is WiSE-FT.

    Bars are 95 % intervals of the differences to plain fine-tuning, paired by seed. The foundation model has none.
    """
    found = [line for line in summary.lines(rows) if line.alpha is None]
    ends = {line.method: line for line in found}
    path = [ends["zero_shot"], *summary.curve(rows), ends["vanilla"]]
    points = [[line.score(column).mean for line in path] for column in (across, up)]
    axes.plot(*points, color="#444444", lw=1.2, marker=".", ms=5, label="wise_ft", zorder=1)
    for line in found:
        x, y = (line.score(column).mean for column in (across, up))
        start = line.method == "zero_shot"
        gaps = [None if start else paired(line, ends["vanilla"], column) for column in (across, up)]
        x_bar, y_bar = (gap.half or 0.0 if gap else 0.0 for gap in gaps)
        label = "pre-trained" if start else line.method
        axes.errorbar(x, y, xerr=x_bar, yerr=y_bar, lw=0.8, ls="", label=label, **style.of(line.method))
    style.clean(axes)


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
    """Below all panels: beside them it would take their width, and with it the size of the letters on the site."""
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), frameon=False)
