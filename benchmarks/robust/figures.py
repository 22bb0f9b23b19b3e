"""The figures: the ID/OOD frontier with intervals, radii over training, and which layers hold the wall."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# first style, which chooses the backend
from matplotlib import pyplot as plt

from robust import summary
from robust.rows import Row
from robust.summary import SCORES, Line, paired
from robust.tables import ENOUGH_SEEDS
from style import METHODS as STYLE
from style import clean, save

__all__ = ["draw_frontier", "draw_walls", "paired_bar"]

_NAMES = {"vanilla": "base", "ftp+digrap": "ftp+digrap", "l2_sp": "l2-sp", "mars_pgm": "pgm", "ftp_exact": "ftp-lean"}
_OTHERS = {"zero_shot": ("#444444", "o"), "ftp_scale_free": ("#0072B2", "d"), "lp_ft": ("#882255", "<")}
_OTHERS |= {"linear_probe": ("#AA4499", ">")}


def draw_frontier(rows: Sequence[Row], title: str, path: Path) -> None:
    """ID accuracy against OOD accuracy, domains seen and held out; the line is WiSE-FT.

    Bars are those of `paired_bar`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharex=True)
    found = [line for line in summary.lines(rows) if line.alpha is None]
    vanilla = next(line for line in found if line.method == "vanilla")
    path_points = [
        *(line for line in found if line.method == "zero_shot"),
        *summary.curve(rows, "wise_ft"),
        vanilla,
    ]
    for axes, name in zip(panels, ("OOD seen", "OOD held out"), strict=True):
        ids, oods = zip(*(_point(line, name) for line in path_points), strict=True)
        axes.plot(ids, oods, color="#444444", lw=1.2, marker=".", ms=5, label="WiSE-FT", zorder=1)
        for line in found:
            colour, marker = _style(line.method)
            x_bar, y_bar = (paired_bar(line, vanilla, SCORES[title]) for title in ("ID", name))
            axes.errorbar(
                *_point(line, name), xerr=x_bar, yerr=y_bar, color=colour, marker=marker, ms=8, lw=0.8, ls="",
                label=line.method,
            )  # fmt: skip
        axes.set_xlabel("accuracy on the domain fine-tuned on (%)")
        axes.set_ylabel(f"mean accuracy, {name} (%)")
        clean(axes)
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def draw_walls(source: Path, path: Path) -> None:
    """A run's radii over training, coloured by depth, and the share of each layer's units that end at the wall."""
    recorded: dict[str, Any] = json.loads(source.read_text())
    layers = [layer for layer in recorded["layers"] if layer["path"].endswith("kernel")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 1, len(layers)))
    for layer, colour in zip(layers, colours, strict=True):
        trajectory = np.maximum(layer["trajectory"], 1e-8)
        left.plot(np.linspace(0, 100, len(trajectory)), trajectory, color=colour, lw=1)
    left.set_yscale("log")
    left.set_xlabel("share of training (%)")
    left.set_ylabel(recorded["scalars"])
    left.set_title("one line a kernel, first layer dark, last light", fontsize=9)
    right.bar(range(len(layers)), [100 * layer["units_at_wall"] for layer in layers], color=colours)
    right.set_xlabel("kernel, from the input to the output")
    right.set_ylabel("units at the wall at the end (%)")
    right.set_ylim(0, 100)
    for axes in (left, right):
        clean(axes)
    save(figure, path)


def paired_bar(line: Line, vanilla: Line, column: str) -> float:
    """Half the 95 % interval of a method's difference to plain fine-tuning, paired by seed.

    What seeds have in common, a hard split, says nothing about methods. The foundation model has none, and no method
    below three seeds: that of two is wider than the axes.
    """
    gap = paired(line, vanilla, column)
    shown = line.method != "zero_shot" and len(line.rows) >= ENOUGH_SEEDS
    return gap.half if shown and gap is not None and gap.half is not None else 0.0


def _point(line: Line, name: str) -> tuple[float, float]:
    return line.score(SCORES["ID"]).mean, line.score(SCORES[name]).mean


def _style(method: str) -> tuple[str, str]:
    return _OTHERS.get(method) or STYLE[_NAMES.get(method, method)]
