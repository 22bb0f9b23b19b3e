"""The look of the figures: the main job's colour and marker for each method."""

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from vision.style import GREY, STYLES, tidy

_MAIN_NAMES = {"base": "vanilla", "plain": "vanilla", "mars_pgm": "pgm", "digrap_from_1": "digrap"}
_OTHERS = {"zero_shot": (GREY, "*"), "wise_ft": (GREY, ".")}


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


def of(method: str) -> dict[str, Any]:
    """Colour and marker of a method; variants (`ftp, reanchored`, `ftp+wise_ft`) are hollow."""
    name = method.replace("-", "_")
    name = _MAIN_NAMES.get(name, name)
    family = next((n for n in (name, *(name[:i] for i in range(len(name), 0, -1))) if n in STYLES or n in _OTHERS), "")
    colour, marker = _OTHERS.get(family) or STYLES[family][:2]
    return {"color": colour, "marker": marker, "mfc": colour if family == name else "white", "ms": 7}


def clean(axes: Any, grid: str = "both") -> None:
    """A light grid behind the data, and no box."""
    del grid
    tidy(axes)


def save(figure: Any, path: Path) -> None:
    """Writes the figure and frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
