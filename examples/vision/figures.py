"""The figures of a run: the ID/OOD frontier, example images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vision.data import Domain
from vision.results import Results, result_rows, test_sets
from vision.style import DPI, GREY, START, STYLES, legend, tidy

__all__ = ["draw_examples", "draw_frontier"]

_RIGHT, _WRONG = "#00614A", "#B02A00"


def draw_frontier(report: Mapping[str, Any], path: Path) -> None:
    """ID accuracy against mean OOD accuracy: one marker a method, its WiSE-FT path as a thin line.

    Args:
        report: The run's report; it must have OOD domains.
        path: The PNG to write.
    """
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.add_subplot()
    start = report["rows"][0] if report["rows"][0]["name"] == report["model"]["head"] else None
    for name, method in report["methods"].items():
        style = STYLES[name]
        points = ([{**start, "alpha": 0.0}] if start else []) + method["wise_path"]
        xs, ys = np.array([_point(point) for point in points]).T
        axes.plot(xs, ys, "-", color=style.colour, linewidth=1, alpha=0.8, zorder=2)
        between = [0 < point["alpha"] < 1 for point in points]
        marks: dict[str, Any] = style.marks(style.size / 2) | {"markerfacecolor": "none", "linestyle": "none"}
        axes.plot(xs[between], ys[between], **marks, zorder=3)
        axes.plot(xs[-1], ys[-1], **style.marks(), markeredgewidth=2, linestyle="none", label=name, zorder=4)
    if start:
        axes.plot(*_point(start), **START.marks(), linestyle="none", label=start["name"], zorder=4)
    axes.plot([], [], "-", color=GREY, linewidth=1, label="WiSE-FT path")
    axes.set_xlabel(f"ID accuracy on {report['task']['id']} (%)")
    domains = list(report["rows"][0]["ood"])
    axes.set_ylabel(
        f"OOD accuracy on {domains[0]} (%)" if len(domains) == 1 else f"mean accuracy on {len(domains)} OOD domains (%)"
    )
    axes.set_title(f"ID and OOD accuracy, one seed ({report['config']['seed']})")
    axes.margins(0.08)
    tidy(axes)
    legend(axes)
    figure.savefig(path, dpi=DPI)


def _point(scores: Mapping[str, Any]) -> tuple[float, float]:
    """ID and mean OOD accuracy in percent; NaN, which is not drawn, where no image could be read."""
    x, y = (np.nan if scores[name] is None else 100 * scores[name] for name in ("id", "ood_mean"))
    return x, y


def draw_examples(results: Results, path: Path, *, per_domain: int = 3, max_domains: int = 9) -> None:
    """Random test images of every domain with their predictions before and after.

    Args:
        results: The run's results.
        path: The PNG to write.
        per_domain: Images of each domain.
        max_domains: The first so many domains are shown, ID first.
    """
    task = results.task
    shown = [(name, candidate) for name, candidate in result_rows(results) if name == candidate.method]
    counted = {name: predicted.counted for name, predicted in results.predictions[shown[0][1]].items()}
    sets = [(name, d) for name, d in test_sets(task).items() if d is task.id_test or d is not task.validation]
    domains = [(name, domain) for name, domain in sets if counted[name].any()][:max_domains]
    readable = [np.flatnonzero(counted[name]) for name, _ in domains]
    rows = min(per_domain, *map(len, readable))
    wide = 1.5 if max(map(len, task.classes)) <= 3 else 2.2
    tall = wide + 0.155 * (len(shown) + 1) + 0.1
    figure = Figure(figsize=(wide * len(domains), 0.7 + rows * tall), layout="constrained")
    figure.suptitle(f"Random test images: true class, then predictions (seed {results.config.seed})", fontsize=11)
    grid = figure.subplots(rows, len(domains), squeeze=False)
    for column, (name, domain) in enumerate(domains):
        picked = np.random.default_rng((results.config.seed, column)).choice(readable[column], rows, replace=False)
        for row, index in enumerate(picked):
            predicted = [(label, int(results.predictions[c][name].labels[index])) for label, c in shown]
            _draw_example(grid[row, column], domain, int(index), predicted, task.classes)
        title = _short(domain.name, 20) + (" (ID)" if domain is task.id_test else "")
        grid[0, column].set_title(title, fontsize=10, fontweight="bold")
    figure.savefig(path, dpi=DPI)


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
