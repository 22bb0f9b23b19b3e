"""What each method gains on plain fine-tuning: a figure of differences and their intervals."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vision.conclusion import conclusion, labels_shown
from vision.style import DPI, GREY, START, STYLES, Style, tidy
from vision.summary import BASE

__all__ = ["draw_gains"]

Score = Callable[[Mapping[str, Any]], Mapping[str, float] | None]
_CHARACTERS = 13  # of the title, in an inch
_APART = 0.34  # of the markers in one row


def draw_gains(summaries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Differences to plain fine-tuning, ID and OOD, with their 95 % intervals; without it, accuracies.

    A row for each of the table's rows, in it a marker for each number of labels: filled for the first, hollow for the
    last. The title says what is seen.

    Args:
        summaries: What `vision.summary.summarise` gives, one for each number of labels.
        path: The PNG to write.
    """
    first = summaries[0]
    compared = any("difference" in row for row in first["rows"])
    names = [row["name"] for row in first["rows"] if not compared or "difference" in row]
    panels = _panels(first)
    figure = Figure(figsize=(2.3 + 2.1 * len(panels), 2.1 + 0.42 * len(names)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, score) in zip(grid, panels.items(), strict=True):
        for index, summary in enumerate(summaries):
            place = index / max(1, len(summaries) - 1)
            _draw(axes, summary, score, compared, _APART * (place - 0.5) * (len(summaries) > 1), place)
        axes.set_title(title, fontsize=10)
        if compared:
            axes.axvline(0, color=GREY, linewidth=1)
            at = " and ".join(_percent(score(_base(summary))) for summary in summaries)
            axes.set_xlabel(f"points above {BASE}\n(at {at})")
        else:
            axes.set_xlabel("accuracy (%)")
        axes.locator_params(axis="x", nbins=5)
        tidy(axes)
    grid[0].set_yticks(range(len(names)), names, fontsize=10)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    lines = [
        textwrap.fill(told, int(_CHARACTERS * figure.get_figwidth())) for told in map(conclusion, summaries) if told
    ]
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")
    figure.legend(handles=_legend(summaries), loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    figure.savefig(path, dpi=DPI)


def _panels(summary: Mapping[str, Any]) -> dict[str, Score]:
    """By title: the ID domain, and each group of OOD domains."""
    task = summary["task"]
    panels: dict[str, Score] = {f"ID\n{task['id']}": lambda row: row["id"]}
    groups = task["ood_groups"]
    for name, members in groups.items():
        which = f"mean of {len(members)} domains" if len(members) > 1 else members[0]
        title = f"OOD {name}\n{which}" if len(groups) > 1 else f"OOD\n{which}"
        panels[title] = lambda row, name=name: row["ood_group_means"][name]
    return panels


def _draw(axes: Axes, summary: Mapping[str, Any], score: Score, compared: bool, shift: float, hollow: float) -> None:
    """The markers of one number of labels, their faces so far on the way from their colour to white."""
    rows = [row for row in summary["rows"] if not compared or "difference" in row]
    for index, row in enumerate(rows):
        if found := score(row["difference"] if compared else row):
            style = STYLES.get(row["method"], START)
            marks = {"marker": style.marker, "color": style.colour, "markersize": 8 if style.marker != "*" else 12}
            axes.errorbar(
                100 * found["mean"], index + shift, xerr=100 * (found["half_width"] or 0), linestyle="none",
                linewidth=1.4, capsize=3, markerfacecolor=_face(style, hollow), markeredgewidth=1.4, **marks,
            )  # fmt: skip


def _face(style: Style, hollow: float) -> Any:
    return tuple((1 - hollow) * np.array(to_rgb(style.colour)) + hollow)


def _base(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in summary["rows"] if row["name"] == BASE)


def _percent(score: Mapping[str, float] | None) -> str:
    return "no score" if score is None else f"{100 * score['mean']:.1f} %"


def _legend(summaries: Sequence[Mapping[str, Any]]) -> list[Line2D]:
    handles = []
    for index, summary in enumerate(summaries):
        face = _face(START, index / max(1, len(summaries) - 1))
        label = labels_shown(summary)
        handles.append(Line2D([], [], marker="o", linestyle="none", color=GREY, markerfacecolor=face, label=label))
    seeds = len(summaries[0]["seeds"])
    if seeds > 1:
        handles.append(Line2D([], [], color=GREY, linewidth=1.4, label=f"95 % interval, {seeds} seeds"))
    return handles
