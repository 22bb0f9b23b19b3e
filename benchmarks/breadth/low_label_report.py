"""Tables and figures of accuracy by method and share of the labels."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

# first style, which chooses the backend
from matplotlib import pyplot as plt

from breadth import look, tables
from robust import rows, summary
from robust.rows import Row
from robust.summary import SCORES, estimate
from style import clean, save
from writer import environment, print_table
from writer import write as write_json

__all__ = ["COLUMNS", "FILE", "by_share", "write"]

FILE = "low_label.csv"
COLUMNS = (*rows.COLUMNS[:3], "share", "images", *rows.COLUMNS[3:])
"""Those of the main benchmark; share of the fine-tuning labels, and their number."""

_PEER = "vanilla"


def write(results: Path) -> None:
    """Prints the tables; writes them as Markdown, with a figure, for every experiment in the rows."""
    data, settings = {}, {}
    for group, found in summary.groups(rows.read(results / FILE, COLUMNS)).items():
        stem = results / f"low_label-{group.name}"
        texts = []
        for title, column in SCORES.items():
            values = by_share(found, column)
            head, lines = tables.header(values), tables.table(values, _PEER)
            print_table(f"{group.name}: {title} accuracy in % by share of the labels", "", head, [lines])
            texts.append(f"{title}:\n\n{tables.markdown(head, lines)}")
            data[f"{group.name}, {title}"] = values
        stem.with_suffix(".md").write_text("\n".join(texts), "utf-8")
        settings[group.name] = tables.settings(found)
        _draw(found, stem.with_suffix(".png"))
    write_json(results / "low_label.json", {"environment": environment(), "settings": settings, "accuracy": data})


def by_share(found: Sequence[Row], column: str) -> tables.Values:
    """One score by method, share and seed; a later row of the same run replaces an earlier one."""
    values: tables.Values = defaultdict(lambda: defaultdict(dict))
    for row in sorted(found, key=lambda row: row["share"]):
        values[_name(row)][_share(row, found)][row["seed"]] = row[column]
    first = [name for name in ("zero_shot", _PEER) if name in values]
    return {name: dict(values[name]) for name in [*first, *(name for name in values if name not in first)]}


def _name(row: Row) -> str:
    alpha = row["hyperparameters"].get("alpha")
    return row["method"] if alpha is None else f"{row['method']} {alpha:g}"


def _share(row: Row, found: Sequence[Row]) -> str:
    """`5 % (15)`, or `5 % (9-10)` where the seeds' splits differ in size."""
    counts = sorted({other["images"] for other in found if other["share"] == row["share"]})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"{100 * row['share']:g} % ({images})"


def _draw(found: Sequence[Row], path: Path) -> None:
    """Bars are those of `tables.gap`: intervals of the differences to plain fine-tuning."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for axes, (title, column) in zip(panels, SCORES.items(), strict=True):
        values = by_share(found, column)
        places = tables.header(values)[1:]
        for i, (method, cells) in enumerate(values.items()):
            x = [places.index(name) + 0.04 * (i - len(values) / 2) for name in cells]  # bars must not hide bars
            means = [estimate(list(seeds.values())).mean for seeds in cells.values()]
            # the foundation model has no bars: how far it is from plain fine-tuning is what the lines say
            halves = [tables.gap(seeds, values[_PEER][name]).half or 0.0 for name, seeds in cells.items()]
            bars = [0.0] * len(x) if method == "zero_shot" else halves
            axes.errorbar(x, means, bars, **look.of(method), lw=1, elinewidth=0.6)
        axes.set_xticks(range(len(places)), [place.replace(" (", "\n(") for place in places], fontsize=8)
        axes.set_xlabel("share of the labels (images)")
        axes.set_ylabel(f"accuracy, {title} (%)")
        clean(axes)
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
