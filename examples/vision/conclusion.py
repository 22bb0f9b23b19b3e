"""What a run says of its methods, in one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["conclusion", "gain_shown", "labels_shown"]

_SCORES = {"id": "in domain", "ood_mean": "out of domain"}


def conclusion(summary: Mapping[str, Any]) -> str | None:
    """Which row is furthest above plain fine-tuning, of those that are above it somewhere and below it nowhere.

    Above is a difference whose interval lies above 0; with one seed, which has no interval, one above 0.

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
    ahead = [name for name, gain in gains.items() if _ahead([gain[score] for score in scores])]
    if not ahead:
        return f"{about}: none is above vanilla without being below it elsewhere."
    best = max(ahead, key=lambda name: sum(gains[name][score]["mean"] for score in scores))
    told = " and ".join(f"{gain_shown(gains[best][score])} {_SCORES[score]}" for score in scores)
    return f"{about}: {best} is furthest above vanilla, {told}."


def _ahead(gains: Sequence[Mapping[str, float]]) -> bool:
    lowest = [gain["mean"] - (gain["half_width"] or 0) for gain in gains]
    highest = [gain["mean"] + (gain["half_width"] or 0) for gain in gains]
    return max(lowest) > 0 and min(highest) >= 0


def gain_shown(gain: Mapping[str, float | None] | None) -> str:
    """A difference in points, ± half of its interval if it has one; empty where there is none."""
    if gain is None or gain["mean"] is None:
        return ""
    half = "" if gain["half_width"] is None else f" ± {100 * gain['half_width']:.1f}"
    return f"{100 * gain['mean']:+.1f}{half}"


def labels_shown(summary: Mapping[str, Any]) -> str:
    """How many training images there were, in words."""
    return f"{'all ' if summary['labels'] == 'all' else ''}{summary['task']['train_images']:,} labels"
