"""The look of the figures: the main job's colour and marker for each method."""

import sys
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler

matplotlib.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from vision.style import GREY, STYLES
from vision.style import tidy as clean

# Okabe and Ito's, for lines that are no methods of the main job
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#7F7F7F", "#BCBD22", "#000000")
plt.rcParams["axes.prop_cycle"] = cycler(color=COLOURS)

_MAIN_NAMES = {"base": "vanilla", "plain": "vanilla", "mars_pgm": "pgm", "digrap+ftp": "ftp+digrap"}
_OTHERS = {
    "zero_shot": (GREY, "*"),
    "wise_ft": (GREY, "."),
    "ftp_smoothed": ("#44AA99", "o"),
    "ftp_held_out_every_1": ("#CC79A7", "D"),
    "ftp_held_out_every_4": ("#661100", "X"),
    "digrap_from_0.5": ("#999933", ">"),
    "digrap_from_1": ("#0B4F2F", "v"),
    "digrap_fixed": ("#66A61E", "<"),
    "digrap_window": ("#117733", ">"),
    "digrap_held_out": ("#CC79A7", "D"),
}


def of(method: str) -> dict[str, Any]:
    """Colour and marker of a method; variants (`ftp, reanchored`, `ftp+wise_ft`) are hollow."""
    name = method.replace(", ", "_").replace("-", "_").replace(" ", "_")
    name = _MAIN_NAMES.get(name, name)
    family = next((n for n in (name, *(name[:i] for i in range(len(name), 0, -1))) if n in STYLES or n in _OTHERS), "")
    colour, marker = _OTHERS.get(family) or STYLES[family][:2]
    return {"color": colour, "marker": marker, "mfc": colour if family == name else "white", "ms": 7}


def label(axes: Any, across: str, up: str) -> None:
    """Says what the axes are, and cleans."""
    axes.set(xlabel=across, ylabel=up)
    clean(axes)


def save(figure: Any, path: Path) -> None:
    """Writes the figure and frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
