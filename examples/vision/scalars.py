"""What the methods have learned: radii and strengths of every layer, over training and at its end, by depth."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vision.depth import depth_of, depths
from vision.results import Results
from vision.style import DPI, GREY, tidy

__all__ = ["draw_scalars", "has_scalars", "write_scalars"]

KINDS = ("radii", "strengths")
_THIRDS = ("early", "middle", "late")
_COLOURS = tuple(colormaps["viridis"]([0.0, 0.45, 0.82]))
# So many lines can be told apart.
_MAX_LINES = 12


class _Learned(NamedTuple):
    """The scalars of one method and kind; columns are layers, and belong to the paths."""

    method: str
    kind: str
    paths: list[str]
    values: np.ndarray
    ends: np.ndarray


def has_scalars(results: Results) -> bool:
    """Whether any method has learned radii or strengths."""
    return bool(_learned(results))


def write_scalars(results: Results, path: Path) -> None:
    """Writes all that was learned as CSV: method, kind, path, layer (where the path stacks several), value at the end.

    Args:
        results: The run's results.
        path: The file to write.
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "kind", "path", "layer", "value"))
        for method, trained in results.trained.items():
            for kind in KINDS:
                for name, value in getattr(trained, kind).items():
                    layers = [("", value)] if np.ndim(value) == 0 else enumerate(np.ravel(value))
                    writer.writerows((method, kind, name, layer, float(one)) for layer, one in layers)


def draw_scalars(results: Results, path: Path) -> None:
    """Radii and strengths of every layer over training: a line each where they are few, else by depth.

    By depth means the median and the quartiles of each third of the network over training, and beside it every layer
    at the end.

    Args:
        results: The run's results; see `has_scalars`.
        path: The PNG to write.
    """
    learned = _learned(results)
    few = len({path for one in learned for path in one.paths}) <= _MAX_LINES
    figure = _lines(results, learned) if few else _bands(results, learned)
    figure.savefig(path, dpi=DPI)


def _learned(results: Results) -> list[_Learned]:
    return [
        _Learned(
            method,
            kind,
            [path for path, value in getattr(trained, kind).items() for _ in range(np.size(value))],
            trained.history[kind],
            np.concatenate([np.ravel(value) for value in getattr(trained, kind).values()]),
        )
        for kind in KINDS
        for method, trained in results.trained.items()
        if getattr(trained, kind)
    ]


def _lines(results: Results, learned: Sequence[_Learned]) -> Figure:
    """A panel a method and kind, a line a layer."""
    rows, columns = -(-len(learned) // 2), min(len(learned), 2)
    figure = Figure(figsize=(1.5 + 4.2 * columns, 3.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    place = {path: index for index, path in enumerate(results.order)}
    known = depths(results.order)
    # an adapter is in no model's order
    used = sorted(
        {p for one in learned for p in one.paths}, key=lambda p: (depth_of(p, known), place.get(p, len(place)))
    )
    colours = dict(zip(used, colormaps["viridis"](np.linspace(0, 0.92, len(used))), strict=True))
    # Radii in the left column, strengths in the right one, if there are two of each.
    cells = grid.T.ravel() if [one.kind for one in learned] == ["radii"] * 2 + ["strengths"] * 2 else grid.ravel()
    handles: dict[str, Any] = {}
    for axes, one in zip(cells, learned, strict=False):
        steps = np.arange(1, len(one.values) + 1)
        for path, values in zip(one.paths, one.values.T, strict=True):
            style = "-" if _is_kernel(path) else "--"
            (handles[path],) = axes.plot(steps, values, style, color=colours[path], linewidth=1.3)
        _scale(axes, one)
        axes.set_xlabel("step")
        axes.set_title(f"{one.kind}, {one.method}", fontsize=11)
    for axes in cells[len(learned) :]:
        axes.set_axis_off()
    figure.legend([handles[p] for p in used], used, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _bands(results: Results, learned: Sequence[_Learned]) -> Figure:
    """A row a method and kind: the thirds of the network over training, and every layer at the end."""
    known = depths(results.order)
    levels = max(known.values()) + 1
    figure = Figure(figsize=(10.5, 0.6 + 3.3 * len(learned)), layout="constrained")
    grid = figure.subplots(len(learned), 2, squeeze=False)
    for (over, end), one in zip(grid, learned, strict=True):
        depth = np.array([depth_of(path, known) for path in one.paths])
        third = np.minimum(3 * depth // levels, 2)
        _draw_bands(over, one, third)
        _draw_end(end, one, depth, third)
        over.set_title(f"{one.kind}, {one.method}: median and quartiles", fontsize=11)
        closed = " (on the edge: closed)" if one.ends.min() < end.get_ylim()[0] else ""
        end.set_title(f"{one.kind}, {one.method}: every layer at the end{closed}", fontsize=11)
        end.set_xlim(-0.6, levels - 0.4)
    handles = grid[0, 0].get_lines() + grid[0, 1].get_lines()
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _draw_bands(axes: Axes, one: _Learned, third: np.ndarray) -> None:
    steps = np.arange(1, len(one.values) + 1)
    for index, (name, colour) in enumerate(zip(_THIRDS, _COLOURS, strict=True)):
        if (third == index).any():
            low, middle, high = np.percentile(one.values[:, third == index], (25, 50, 75), axis=1)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(steps, middle, color=colour, linewidth=1.8, label=f"{name} third")
    axes.set_xlabel("step")
    _scale(axes, one)


def _draw_end(axes: Axes, one: _Learned, depth: np.ndarray, third: np.ndarray) -> None:
    _scale(axes, one)
    # A closed radius would be far below: it lies on the edge.
    shown = np.maximum(one.ends, axes.get_ylim()[0])
    kernels = np.array([_is_kernel(path) for path in one.paths])
    for chosen, face, name in ((kernels, GREY, "kernel"), (~kernels, "none", "bias, scale or other")):
        colours: Any = np.array(_COLOURS)[third[chosen]]
        axes.scatter(
            depth[chosen], shown[chosen], 22, edgecolors=colours, facecolors=colours if face != "none" else "none",
            linewidths=1, clip_on=False, zorder=3,
        )  # fmt: skip
        axes.plot([], [], "o", color=GREY, markerfacecolor=face, markersize=5, label=name)
    levels = np.unique(depth)
    medians = [np.median(shown[depth == level]) for level in levels]
    axes.plot(levels, medians, "-", color=GREY, linewidth=1.2, label="median of a depth", zorder=2)
    axes.set_xlabel("depth: 0 is the input")


def _scale(axes: Axes, one: _Learned) -> None:
    if one.kind == "radii":
        axes.set_yscale("log")
        # All radii start at 1e-8 and a closed one falls back to it; four decades show the open ones.
        largest, positive = one.values.max(), one.values[one.values > 0]
        axes.set_ylim(max(1e-4 * largest, 0.5 * positive.min(initial=largest)), 2 * largest)
        axes.set_ylabel("radius (largest norm)")
    else:
        axes.set_ylabel("strength")
        axes.set_ylim(-0.03, max(1.03, 1.03 * one.values.max()))
    tidy(axes)


def _is_kernel(path: str) -> bool:
    return path.endswith(("kernel", "embedding"))
