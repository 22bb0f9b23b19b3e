"""The figure: how good on the style fine-tuned on, against how good elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# first style, which chooses the backend
from matplotlib import pyplot as plt

from robust import summary
from robust.summary import Line
from segment.rows import SCORES, Row
from style import METHODS as STYLE
from style import clean, save

__all__ = ["draw_frontier"]

_NAMES = {"vanilla": "base", "l2_sp": "l2-sp", "mars_pgm": "pgm", "ftp_exact": "ftp-lean", "ftp_scale_free": "ftp-lean"}
_PANELS = {"OOD seen": "styles of the foundation model", "OOD held out": "styles held out", "ID corrupted": "corrupted"}


def draw_frontier(found: Sequence[Row], path: Path) -> None:
    """Mean IoU on the style fine-tuned on against that elsewhere; the line is WiSE-FT, small points are seeds."""
    lines = [line for line in summary.lines(found) if line.alpha is None]
    ends = {line.method: line for line in lines}
    curve = [ends["zero_shot"], *summary.curve(found, "wise_ft"), ends["vanilla"]]
    curve = [line for line in curve if len(line.rows) == len(ends["vanilla"].rows)]
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained", sharex=True)
    for axes, (heading, title) in zip(panels, _PANELS.items(), strict=True):
        points = np.array([[_mean(line, "ID"), _mean(line, heading)] for line in curve])
        axes.plot(*points.T, color="#444444", lw=1.2, marker=".", ms=5, label="wise_ft", zorder=1)
        for line in lines:
            colour, marker = ("#444444", "o") if line.method == "zero_shot" else _style(line.method)
            axes.plot(_mean(line, "ID"), _mean(line, heading), marker, color=colour, ms=8, label=_label(line))
            if len(line.rows) > 1:
                each = [(100 * row[SCORES["ID"]], 100 * row[SCORES[heading]]) for row in line.rows.values()]
                axes.plot(*zip(*each, strict=True), marker, color=colour, ms=3.5, alpha=0.4, ls="")
        axes.set_xlabel("mean IoU, style fine-tuned on (%)")
        axes.set_ylabel(f"mean IoU, {title} (%)")
        clean(axes)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def _mean(line: Line, heading: str) -> float:
    return line.score(SCORES[heading]).mean


def _label(line: Line) -> str:
    count = len(line.rows)
    return f"{line.method} ({count} seed{'s' if count > 1 else ''})"


def _style(method: str) -> tuple[str, str]:
    return STYLE[_NAMES.get(method, method)]
