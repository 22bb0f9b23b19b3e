"""Tables and figures of accuracy under natural corruptions."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

# first style, which chooses the backend
from matplotlib import pyplot as plt

from breadth import look, tables
from robust import rows, summary
from robust.rows import Row
from style import clean, save
from writer import environment, print_table
from writer import write as write_json

__all__ = ["COLUMNS", "FAMILIES", "FILE", "by_family", "write"]

FILE = "corruptions.csv"
COLUMNS = (*rows.COLUMNS[:6], "clean_accuracy", "corrupted_accuracy", "kinds")
"""The main benchmark's first ones, then the scores. `kinds`, JSON: accuracy by kind, in the order of severity."""

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}
"""ImageNet-C's."""

_PEER = "vanilla"


def write(results: Path) -> None:
    """Prints the tables; writes them as Markdown, with a figure, for every experiment in the rows."""
    data, settings = {}, {}
    for group, found in summary.groups(rows.read(results / FILE, COLUMNS)).items():
        stem, values = results / f"corruptions-{group.experiment}", by_family(found)
        head, lines = tables.header(values), tables.table(values, _PEER)
        seeds = len({row["seed"] for row in found})
        title = f"{group.experiment}, {seeds} seed{'s' if seeds > 1 else ''}"
        print_table(f"{title}: accuracy in %", "", head, [lines])
        stem.with_suffix(".md").write_text(f"{title}:\n\n{tables.markdown(head, lines)}", "utf-8")
        data[group.experiment] = values
        settings[group.experiment] = tables.settings(found)
        _draw(found, stem.with_suffix(".png"))
    write_json(results / "corruptions.json", {"environment": environment(), "settings": settings, "accuracy": data})


def by_family(found: Sequence[Row]) -> tables.Values:
    """Accuracy on clean images, under all corruptions, and by family; of a method's settings the last one's."""
    scores: dict[str, Callable[[Row], float]] = {
        "clean": lambda row: row["clean_accuracy"],
        "corrupted": lambda row: row["corrupted_accuracy"],
    }
    for family, kinds in FAMILIES.items():
        scores[family] = lambda row, kinds=kinds: fmean(fmean(row["kinds"][kind]) for kind in kinds)
    values: tables.Values = defaultdict(lambda: defaultdict(dict))
    for row in found:
        for name, score in scores.items():
            values[row["method"]][name][row["seed"]] = score(row)
    return {method: dict(cells) for method, cells in values.items()}


def _draw(found: Sequence[Row], path: Path) -> None:
    """Accuracy by severity; and what each method adds to plain fine-tuning, kind by kind, paired by seed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=(2, 3))
    by_method: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in found:
        by_method[row["method"]][row["seed"]] = row
    for method, mine in by_method.items():
        severities = zip(*(values for row in mine.values() for values in row["kinds"].values()), strict=True)
        clean_images = fmean(row["clean_accuracy"] for row in mine.values())
        left.plot([100 * clean_images, *(100 * fmean(values) for values in severities)], **look.of(method), lw=1)
    kinds = [kind for family in FAMILIES.values() for kind in family]
    others = [method for method in by_method if method not in (_PEER, "zero_shot")]
    for i, method in enumerate(others):
        for place, kind in enumerate(kinds):
            of_kind = lambda name, kind=kind: {s: fmean(row["kinds"][kind]) for s, row in by_method[name].items()}
            gap = tables.gap(of_kind(method), of_kind(_PEER))
            style = look.of(method) | {"ls": "", "label": None}
            right.errorbar(place + 0.14 * (i - len(others) / 2), gap.mean, gap.half or 0.0, lw=0.8, **style)
    left.set_xlabel("severity, 0 for clean images")
    left.set_ylabel("accuracy, mean over kinds (%)")
    left.legend(frameon=False, fontsize=8)
    right.axhline(0, color="#444444", lw=0.8)
    right.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], fontsize=8, rotation=40, ha="right")
    right.set_ylabel("points above plain fine-tuning")
    for axes in (left, right):
        clean(axes)
    save(figure, path)
