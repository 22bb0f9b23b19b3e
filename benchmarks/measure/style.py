"""The look of the figures: one colour and marker for each method, in all of them."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, told apart by the colour-blind too; the markers tell them apart in print
METHODS = {
    "base": ("#444444", "*"),
    "ftp": ("#0072B2", "s"),
    "ftp-lean": ("#56B4E9", "P"),
    "digrap": ("#009E73", "^"),
    "ftp+digrap": ("#CC79A7", "D"),
    "tpgm": ("#D55E00", "v"),
    "spd": ("#E69F00", "o"),
    "pgm": ("#B8A000", "X"),
    "l2-sp": ("#999999", "h"),
}


def clean(axes: Any, grid: str = "both") -> None:
    """A light grid behind the data, and no box."""
    axes.grid(axis=grid, color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Writes the figure and frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
