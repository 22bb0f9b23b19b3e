"""The figures of a run: the ID/OOD frontier, radii and strengths over training, example images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import ftp_optax
from vision.data import Domain
from vision.report import Results, result_rows, test_sets
from vision.training import Trained

__all__ = ["draw_examples", "draw_frontier", "draw_scalars", "has_scalars"]

# Okabe and Ito's palette, told apart by marker too. Methods with DiGraP often end where the same without it does, so
# theirs are larger and hollow: colour, marker, size.
_STYLE = {
    "vanilla": ("#E69F00", "o", 9),
    "ftp": ("#0072B2", "s", 9),
    "digrap": ("#009E73", "^", 14),
    "ftp+digrap": ("#CC79A7", "D", 14),
}
_HOLLOW = ("digrap", "ftp+digrap")
_GREY = "#444444"
_RIGHT, _WRONG = "#00614A", "#B02A00"
_DPI = 150
_MAX_LEGEND = 12


def draw_frontier(report: Mapping[str, Any], path: Path) -> None:
    """ID accuracy against mean OOD accuracy: one marker a method, its WiSE-FT path as a thin line.

    Args:
        report: The run's report; it must have OOD domains.
        path: The PNG to write.
    """
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for name, method in report["methods"].items():
        colour, marker, size = _STYLE[name]
        face = "none" if name in _HOLLOW else colour
        points = [(100 * p["id"], 100 * p["ood_mean"]) for p in method["wise_path"]]
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, "-", color=colour, linewidth=1, alpha=0.8, zorder=2)
        axes.plot(xs[1:-1], ys[1:-1], marker, color=colour, markersize=size / 2, markerfacecolor="none", zorder=3)
        axes.plot(
            xs[-1], ys[-1], marker, color=colour, markersize=size, markerfacecolor=face, markeredgewidth=2,
            linestyle="none", label=name, zorder=4,
        )  # fmt: skip
    start = report["rows"][0]
    if start["name"] == report["model"]["head"]:
        axes.plot(
            100 * start["id"],
            100 * start["ood_mean"],
            "*",
            color=_GREY,
            markersize=15,
            label=start["name"],
            zorder=4,
            linestyle="none",
        )
    axes.plot([], [], "-", color=_GREY, linewidth=1, label="WiSE-FT path (pre-trained to fine-tuned)")
    axes.set_xlabel(f"ID accuracy on {report['task']['id']} (%)")
    domains = list(report["rows"][0]["ood"])
    axes.set_ylabel(
        f"OOD accuracy on {domains[0]} (%)" if len(domains) == 1 else f"mean accuracy on {len(domains)} OOD domains (%)"
    )
    axes.set_title(f"ID and OOD accuracy, one seed ({report['config']['seed']})")
    axes.margins(0.08)
    _tidy(axes)
    axes.legend(frameon=False, fontsize=9, loc="best", labelspacing=0.8)
    figure.savefig(path, dpi=_DPI)


def has_scalars(results: Results) -> bool:
    """Whether any method has radii or strengths to draw."""
    return bool(_scalar_panels(results))


def draw_scalars(results: Results, path: Path) -> None:
    """FTP's radii and DiGraP's strengths of every layer over training, coloured by depth.

    Args:
        results: The run's results; see `has_scalars`.
        path: The PNG to write.
    """
    panels = _scalar_panels(results)
    names = {panel: _column_names(results.trained[panel[0]], panel[1]) for panel in panels}
    figure = Figure(figsize=(1.5 + 4.2 * min(len(panels), 2), 3.9 * -(-len(panels) // 2)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 2), min(len(panels), 2), squeeze=False)
    used = sorted({p for columns in names.values() for p in columns}, key=results.order.index)
    colour = dict(zip(used, colormaps["viridis"](np.linspace(0, 0.92, len(used))), strict=True))
    # Radii in the left column, strengths in the right one, if there are two of each.
    cells = grid.T.ravel() if len(panels) == 4 else grid.ravel()
    for axes, (name, kind) in zip(cells, panels, strict=False):
        _draw_panel(axes, results.trained[name].history[kind], names[name, kind], colour, kind)
        axes.set_title(f"{kind}, {name}", fontsize=11)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    if len(used) <= _MAX_LEGEND:
        lines = {line.get_label(): line for axes in cells for line in axes.get_lines()}
        figure.legend([lines[p] for p in used], used, loc="outside right center", frameon=False, fontsize=9)
    else:
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colormaps["viridis"]), ax=list(cells), pad=0.02)
        bar.set_ticks([0, 1], labels=["input", "output"])
        bar.set_label("depth (dashed: biases and scales)")
    figure.savefig(path, dpi=_DPI)


def _scalar_panels(results: Results) -> list[tuple[str, str]]:
    return [(name, kind) for kind in ("radii", "strengths") for name, t in results.trained.items() if kind in t.history]


def _column_names(trained: Trained, kind: str) -> list[str]:
    """The paths that the columns of the history belong to, in their order."""
    read = {"radii": ftp_optax.radii, "strengths": ftp_optax.strengths}[kind]
    return list(read(trained.opt_state, trained.params))


def _draw_panel(axes: Axes, values: np.ndarray, names: Sequence[str], colour: Mapping[str, Any], kind: str) -> None:
    steps = np.arange(1, len(values) + 1)
    columns = values.shape[1] // len(names)  # more than one where a leaf stacks several layers
    for index, name in enumerate(np.repeat(names, columns)):
        style = "-" if str(name).endswith(("kernel", "embedding")) else "--"
        axes.plot(steps, values[:, index], style, color=colour[str(name)], linewidth=1.3, label=str(name))
    if kind == "radii":
        axes.set_yscale("log")
        # All radii start at 1e-8 and a closed one falls back to it; four decades show the open ones.
        axes.set_ylim(bottom=max(1e-4 * values.max(), 0.5 * values[values > 0].min()))
        axes.set_ylabel("radius (MARS norm)")
    else:
        axes.set_ylabel("strength")
        axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("step")
    _tidy(axes)


def draw_examples(results: Results, path: Path, *, per_domain: int = 3, max_domains: int = 9) -> None:
    """Random test images of every domain with their predictions before and after.

    Args:
        results: The run's results.
        path: The PNG to write.
        per_domain: Images of each domain.
        max_domains: The first so many domains are shown, ID first.
    """
    task = results.task
    sets = [(name, d) for name, d in test_sets(task).items() if d is task.id_test or d is not task.validation]
    domains = sets[:max_domains]
    shown = [(name, candidate) for name, candidate in result_rows(results) if name == candidate.method]
    rows = min(per_domain, *(len(domain) for _, domain in domains))
    wide = 1.5 if max(map(len, task.classes)) <= 3 else 2.2
    tall = wide + 0.155 * (len(shown) + 1) + 0.1
    figure = Figure(figsize=(wide * len(domains), 0.7 + rows * tall), layout="constrained")
    figure.suptitle(f"Random test images: true class, then predictions (seed {results.config.seed})", fontsize=11)
    grid = figure.subplots(rows, len(domains), squeeze=False)
    for column, (name, domain) in enumerate(domains):
        picked = np.random.default_rng((results.config.seed, column)).choice(len(domain), rows, replace=False)
        for row, index in enumerate(picked):
            predicted = [(label, int(results.predictions[c][name][index])) for label, c in shown]
            _draw_example(grid[row, column], domain, int(index), predicted, task.classes)
        title = _short(domain.name, 20) + (" (ID)" if domain is task.id_test else "")
        grid[0, column].set_title(title, fontsize=10, fontweight="bold")
    figure.savefig(path, dpi=_DPI)


def _draw_example(
    axes: Axes, domain: Domain, index: int, predicted: Sequence[tuple[str, int]], classes: Sequence[str]
) -> None:
    example = domain[index]
    true = int(example["label"])
    axes.imshow(example["image"], interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.annotate(
        f"true: {_short(classes[true])}", (0.5, 0), (0, -4), "axes fraction", "offset points", ha="center", va="top",
        fontsize=7.5, fontweight="bold",
    )  # fmt: skip
    for line, (name, label) in enumerate(predicted, start=1):
        right = label == true
        axes.annotate(
            f"{name} {_short(classes[label])} {'✓' if right else '✗'}",
            (0.5, 0), (0, -4 - 10 * line), "axes fraction", "offset points", ha="center", va="top",
            fontsize=7, color=_RIGHT if right else _WRONG, fontweight="normal" if right else "bold",
        )  # fmt: skip


def _short(name: str, length: int = 14) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _tidy(axes: Axes) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
