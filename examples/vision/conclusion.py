"""What a run says of its methods, in one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from vision.summary import BASE

__all__ = ["conclusion", "gain_shown", "labels_shown"]

_SCORES = {"id": "ID", "ood_mean": "OOD"}


def conclusion(summary: Mapping[str, Any]) -> str | None:
    """How many rows beat plain fine-tuning, and which of them by most.

    A row beats it that is above it in ID or mean OOD accuracy and below it in neither: by the interval of the
    difference, or with one seed, which has none, by the difference itself.

    Args:
        summary: What `vision.summary.summarise` gives.

    Returns:
        The sentence; None where there is no plain fine-tuning to compare with.
    """
    gains = {row["name"]: row["difference"] for row in summary["rows"] if "difference" in row}
    scores = [name for name in _SCORES if all(gain[name] for gain in gains.values())]
    if not gains or not scores:
        return None
    about = labels_shown(summary) + ("" if len(summary["seeds"]) > 1 else ", one seed")
    better = [name for name, gain in gains.items() if _beats([gain[score] for score in scores])]
    if not better:
        return f"{about}: none of {len(gains)} rows beats {BASE}."
    best = max(better, key=lambda name: sum(gains[name][score]["mean"] for score in scores))
    told = ", ".join(f"{_SCORES[score]} {gain_shown(gains[best][score])}" for score in scores)
    which = f"rows beat {BASE}, {best} by the most" if len(better) > 1 else f"rows beats {BASE}, {best}"
    return f"{about}: {len(better)} of {len(gains)} {which} ({told})."


def _beats(gains: Sequence[Mapping[str, float]]) -> bool:
    lowest = [gain["mean"] - (gain["half_width"] or 0) for gain in gains]
    highest = [gain["mean"] + (gain["half_width"] or 0) for gain in gains]
    return max(lowest) > 0 and min(highest) >= 0


def gain_shown(gain: Mapping[str, float | None] | None) -> str:
    """A difference in points, ± half of its interval if it has one; empty where there is none."""
    if gain is None or gain["mean"] is None:
        return ""
    half = "" if gain["half_width"] is None else f" ± {100 * gain['half_width']:.1f}"
    return f"{round(100 * gain['mean'], 1) + 0.0:+.1f}{half}"  # no -0.0


def labels_shown(summary: Mapping[str, Any]) -> str:
    """How many training images there were, in words."""
    return f"{'all ' if summary['labels'] == 'all' else ''}{summary['task']['train_images']:,} labels"
