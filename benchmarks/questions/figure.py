"""The figure: what fine-tuning keeps, by method, and what a shift costs against how far it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from questions.domains import FAR, NEAR
from questions.tables import SCORES, Shift, loss_mean
from robust import summary
from robust.figures import paired_bar
from robust.rows import Row
from robust.summary import Line

# first style, which chooses the backend
from style import METHODS as STYLE
from style import clean, plt, save

__all__ = ["draw"]

_NAMES = {"vanilla": "base", "l2_sp": "l2-sp"}
_OTHERS = {"zero_shot": ("#444444", "X"), "digrap_from_1": ("#009E73", "v")}
_COMPARED = ("vanilla", "ftp")


def draw(rows: Sequence[Row], shifts: Mapping[str, Shift], path: Path) -> None:
    """ID accuracy against that under near and far shifts; accuracy lost against distance, domain by domain.

    Only methods with all the seeds: a mean over other splits is no neighbour of theirs.
    """
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    lines = summary.lines(rows)
    most = max(len(line.rows) for line in lines)
    lines = [line for line in lines if len(line.rows) == most]
    for axes, name in zip(panels, ("near", "far"), strict=False):
        _frontier(axes, rows, lines, name)
    panels[0].legend(frameon=False, fontsize=8)
    _losses(panels[2], lines, shifts)
    save(figure, path)


def _frontier(axes: Any, rows: Sequence[Row], lines: Sequence[Line], name: str) -> None:
    ends = {line.method: line for line in lines if line.method in ("zero_shot", "vanilla")}
    curve = [ends["zero_shot"], *summary.curve(rows, "wise_ft"), ends["vanilla"]]
    points = [[line.score(SCORES[title]).mean for line in curve] for title in ("ID", name)]
    axes.plot(*points, color="#444444", lw=1.2, marker=".", ms=5, label="wise_ft", zorder=1)
    for line in lines:
        if line.method != "wise_ft":
            own, other = (line.score(SCORES[title]).mean for title in ("ID", name))
            x_bar, y_bar = (paired_bar(line, ends["vanilla"], SCORES[title]) for title in ("ID", name))
            colour, marker = _style(line.method)
            axes.errorbar(
                own, other, xerr=x_bar, yerr=y_bar, color=colour, marker=marker, ms=8, lw=0.8, ls="",
                label=line.method,
            )  # fmt: skip
    axes.set_xlabel("accuracy in domain (%)")
    axes.set_ylabel(f"mean accuracy under {name} shifts (%)")
    clean(axes)


def _losses(axes: Any, lines: Sequence[Line], shifts: Mapping[str, Shift]) -> None:
    found = {line.method: line for line in lines}
    for method in (name for name in _COMPARED if name in found):
        colour, marker = _style(method)
        for names, face in ((NEAR, "none"), (FAR, colour)):
            far, lost = [shifts[n].fused for n in names], [loss_mean(found[method], n) for n in names]
            label = method if names is FAR else None
            axes.scatter(far, lost, edgecolors=colour, facecolors=face, marker=marker, label=label, s=36)
    for name in (*NEAR, *FAR):
        top = max(loss_mean(found[method], name) for method in _COMPARED if method in found)
        axes.annotate(name, (shifts[name].fused, top), (4, 4), textcoords="offset points", fontsize=7)
    axes.axhline(0, color="#999999", lw=0.8)
    axes.margins(x=0.2)
    axes.set_xlabel("distance, picture and question fused (hollow: near, filled: far)")
    axes.set_ylabel("accuracy lost to the shift (points)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    clean(axes)


def _style(method: str) -> tuple[str, str]:
    return _OTHERS.get(method) or STYLE[_NAMES.get(method, method)]
