"""Several seeds of one run: means, their intervals, and differences to plain fine-tuning."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["BASE", "summarise"]

BASE = "vanilla"
_LEVEL = 0.95


def summarise(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the reports of several seeds say together.

    Every number of a report's rows becomes `mean`, `deviation` (of one seed, n - 1) and `half_width`: the mean's 95 %
    t-interval over seeds is `mean ± half_width`.

    Args:
        reports: One of each seed, of one configuration otherwise.

    Returns:
        `labels`, `seeds`, `task`, `model` and `rows`, which are as those of a report; where seeds have chosen several
        points of the path, `alpha` is a list. Where there is a row `vanilla`, all others have `difference`: to it,
        paired by seed. With one seed there is no deviation and no interval.
    """
    first = reports[0]
    rows = [[report["rows"][index] for report in reports] for index in range(len(first["rows"]))]
    base = next((seeds for seeds in rows if seeds[0]["name"] == BASE), None)
    summary = []
    for seeds in rows:
        name = seeds[0]["name"]
        assert all(seed["name"] == name for seed in seeds), "reports of one configuration"
        alphas = [one["alpha"] for one in seeds]  # of each seed its own, where it was chosen
        row = {"name": name, "method": seeds[0]["method"], "alpha": alphas[0] if len({*alphas}) == 1 else alphas}
        row |= _combined(seeds, _interval)
        if base is not None and seeds is not base:
            pairs = [_combined(pair, lambda values: _minus(*values)) for pair in zip(seeds, base, strict=True)]
            row["difference"] = _combined(pairs, _interval)
        summary.append(row)
    return {
        "labels": first["config"]["labels"],
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
