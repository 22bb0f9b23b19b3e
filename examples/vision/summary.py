"""Several seeds of one run: means, their intervals, and differences to plain fine-tuning."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from vision.figures import finish_frontier
from vision.style import DPI, GREY, STYLES
from vision.table import print_fitting, rows_table, wise_caption

__all__ = ["draw_summary", "print_summary", "summarise"]

BASE = "vanilla"
_LEVEL = 0.95


def summarise(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the reports of several seeds say together.

    Every number of a report's rows becomes `mean`, `deviation` (of one seed, n - 1) and `half_width`: the mean's 95 %
    t-interval over seeds is `mean ± half_width`.

    Args:
        reports: One of each seed, of one configuration otherwise.

    Returns:
        `seeds`, `task`, `model` and `rows`, which are as those of a report; where seeds have chosen several points of
        the path, `alpha` is a list. Where there is a row `vanilla`, all others have `difference`: to it, paired by
        seed. With one seed there is no deviation and no interval.
    """
    first = reports[0]
    rows = [[report["rows"][index] for report in reports] for index in range(len(first["rows"]))]
    base = next((seeds for seeds in rows if seeds[0]["name"] == BASE), None)
    summary = []
    for seeds in rows:
        name = seeds[0]["name"]
        alphas = [one["alpha"] for one in seeds]  # of each seed its own, where it was chosen
        row = {"name": name, "method": seeds[0]["method"], "alpha": alphas[0] if len({*alphas}) == 1 else alphas}
        row |= _combined(seeds, _interval)
        if base is not None and seeds is not base:
            pairs = [_combined(pair, lambda values: _minus(*values)) for pair in zip(seeds, base, strict=True)]
            row["difference"] = _combined(pairs, _interval)
        assert all(report["name"] == name for report in seeds), "reports of one configuration"
        summary.append(row)
    return {
        "seeds": [report["config"]["seed"] for report in reports],
        "task": first["task"],
        "model": first["model"],
        "rows": summary,
    }


def _combined(trees: Sequence[Mapping[str, Any]], combine: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """The scores of rows, each one made of those that have the same place."""
    found = {}
    for key, value in trees[0].items():
        if key in ("name", "method", "alpha"):
            continue
        same = [tree[key] for tree in trees]
        found[key] = _combined(same, combine) if isinstance(value, Mapping) else combine(same)
    return found


def _minus(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _interval(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """None where a seed has no such score."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    mean, n = float(np.mean(known)), len(known)
    if n == 1:
        return {"mean": mean, "deviation": None, "half_width": None}
    deviation = float(np.std(known, ddof=1))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return {"mean": mean, "deviation": deviation, "half_width": half}


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Prints means and intervals; on a narrow terminal without the single domains."""
    rows, seeds = summary["rows"], summary["seeds"]
    score = "ood_mean" if rows[0]["ood"] else "id"
    differences = [row.get("difference", {}).get(score) for row in rows]
    title = f"{'mean OOD' if score == 'ood_mean' else 'ID'} minus {BASE}"
    more = [(title, differences)] if any(differences) else []
    caption = f"Mean of {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    if len(seeds) > 1:
        caption += " ± half of its 95 % t-interval over seeds."
        caption += f" Minus {BASE}: paired by seed." if more else ""
    if any(row["name"].endswith(" + WiSE auto") for row in rows):
        caption += f" {wise_caption(rows)}"
    print_fitting(lambda by_domain: rows_table(summary, _shown, caption, by_domain=by_domain, more=more), console)


def _shown(score: Mapping[str, float] | None) -> str:
    if score is None:
        return ""
    half = "" if score["half_width"] is None else f" ± {100 * score['half_width']:.1f}"
    return f"{100 * score['mean']:.1f}{half}"


def draw_summary(summary: Mapping[str, Any], path: Path) -> None:
    """ID against mean OOD accuracy with 95 % intervals; a thin line to each method from its interpolation.

    Args:
        summary: What `summarise` gives, of a task with OOD domains.
        path: The PNG to write.
    """
    figure = Figure(figsize=(7, 5.2), layout="constrained")
    axes = figure.add_subplot()
    drawn = [row for row in summary["rows"] if row["id"] is not None and row["ood_mean"] is not None]
    ends = {row["method"]: row for row in drawn if row["name"] == row["method"]}
    for row in drawn:
        style, end = STYLES.get(row["method"]), ends.get(row["method"])
        x, y = _point(row)
        across, up = (100 * (row[score]["half_width"] or 0) for score in ("id", "ood_mean"))
        label: str | None = None
        marks: dict[str, Any]
        if style is None:  # the start of all methods
            marks, label = {"marker": "*", "color": GREY, "markersize": 15}, row["name"]
        elif end is row:
            marks, label = style.marks(), row["name"]
        else:
            marks = style.marks(style.size / 2) | {"markerfacecolor": "none"}
            if end is not None:
                axes.plot(*zip((x, y), _point(end), strict=True), color=style.colour, linewidth=1, alpha=0.8)
        axes.errorbar(x, y, up, across, **marks, linestyle="none", linewidth=1, capsize=2, label=label)
    finish_frontier(axes, summary, f"Means of {len(summary['seeds'])} seeds, 95 % intervals; small: WiSE-FT")
    figure.savefig(path, dpi=DPI)


def _point(row: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * row["id"]["mean"], 100 * row["ood_mean"]["mean"]
