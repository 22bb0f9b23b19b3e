"""The look of the figures: one colour and one marker for each method, in all of them."""

from typing import Any, NamedTuple

from matplotlib.axes import Axes

__all__ = ["DPI", "GREY", "START", "STYLES", "Style", "legend", "tidy"]

GREY = "#444444"
DPI = 150
# So many names have room inside.
_MAX_INSIDE = 8


class Style(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    size: float = 9
    hollow: bool = False

    def marks(self, size: float | None = None) -> dict[str, Any]:
        """Arguments of `Axes.plot` and `Axes.errorbar` for its markers."""
        size = size or self.size
        face = "none" if self.hollow else self.colour
        return {"marker": self.marker, "color": self.colour, "markersize": size, "markerfacecolor": face}


START = Style(GREY, "*", 15)
"""The model that all methods start from."""

# Okabe and Ito's colours and some of Tol's, told apart by marker too. Methods that often end where a relative of theirs
# does are larger and hollow, so that both are seen: colour, marker, size.
STYLES = {
    "vanilla": Style("#E69F00", "o"),
    "vanilla_averaged": Style("#E69F00", "o", 14, hollow=True),
    "ftp": Style("#0072B2", "s"),
    "ftp_exact": Style("#56B4E9", "s", 14, hollow=True),
    "ftp_scale_free": Style("#5D3A9B", "d"),
    "ftp_lean": Style("#56B4E9", "P"),
    "digrap": Style("#009E73", "^", 14, hollow=True),
    "ftp+digrap": Style("#CC79A7", "D", 14, hollow=True),
    "tpgm": Style("#D55E00", "v"),
    "tpgm_project": Style("#D55E00", "v", 14, hollow=True),
    "spd": Style("#8C510A", "p"),
    "maps": Style("#8C510A", "p", 14, hollow=True),
    "pgm": Style("#B8A000", "X"),
    "l2_sp": Style("#999999", "h"),
    "linear_probe": Style("#AA4499", ">"),
    "lp_ft": Style("#882255", "<"),
}


def tidy(axes: Axes) -> None:
    """A light grid behind the data, and no box."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes) -> None:
    """Names what is drawn: inside where there is room, or to the right."""
    handles, names = axes.get_legend_handles_labels()
    options = {"frameon": False, "fontsize": 9, "labelspacing": 0.8}
    if len(names) <= _MAX_INSIDE:
        axes.legend(loc="best", **options)
    else:
        axes.figure.legend(handles, names, loc="outside right upper", **options)
