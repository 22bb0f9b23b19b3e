"""Tables and figures of tasks learned in turn."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# first style, which chooses the backend
from matplotlib import pyplot as plt

from breadth import look, tables
from breadth.sequences import SEQUENCES
from robust import rows, summary
from robust.rows import Row
from robust.summary import estimate
from style import clean, save
from writer import environment, print_table
from writer import write as write_json

__all__ = ["COLUMNS", "FILE", "final", "scores", "write"]

FILE = "continual.csv"
COLUMNS = (
    *rows.COLUMNS[:7],
    "average_accuracy",
    "forgetting",
    "learned_accuracy",
    "seconds",
    "accuracies",
)
"""The main benchmark's first ones, then the scores. `accuracies`, JSON: a list for each task, those on all tasks
after it was learned."""

_PEER = "vanilla"
_SCORES = {
    "all tasks at the end": "average_accuracy",
    "each task when learned": "learned_accuracy",
    "forgetting": "forgetting",
}


def write(results: Path) -> None:
    """Prints the tables; writes them as Markdown, with a figure, for every experiment in the rows."""
    data, settings = {}, {}
    for group, found in summary.groups(rows.read(results / FILE, COLUMNS)).items():
        stem, texts = results / f"continual-{group.experiment}", []
        for title, values in (("scores", scores(found)), ("by task, at the end", final(found))):
            head, lines = tables.header(values), tables.table(values, _PEER)
            print_table(f"{group.experiment}, {title}: accuracy in %", "", head, [lines])
            texts.append(tables.markdown(head, lines))
            data[f"{group.experiment}, {title}"] = values
        stem.with_suffix(".md").write_text("\n".join(texts), "utf-8")
        settings[group.experiment] = tables.settings(found)
        _draw(found, stem.with_suffix(".png"))
    write_json(results / "continual.json", {"environment": environment(), "settings": settings, "accuracy": data})


def scores(found: Sequence[Row]) -> tables.Values:
    """The summary numbers by method and seed; of several settings of a method the last one's."""
    values: tables.Values = defaultdict(lambda: defaultdict(dict))
    for row in found:
        for title, column in _SCORES.items():
            values[row["method"]][title][row["seed"]] = row[column]
    return {method: dict(cells) for method, cells in values.items()}


def final(found: Sequence[Row]) -> tables.Values:
    """Accuracy on each task after the last one."""
    values: tables.Values = defaultdict(lambda: defaultdict(dict))
    for row in found:
        for task, value in zip(SEQUENCES[row["experiment"]], row["accuracies"][-1], strict=True):
            values[row["method"]][task][row["seed"]] = value
    return {method: dict(cells) for method, cells in values.items()}


def _draw(found: Sequence[Row], path: Path) -> None:
    """What is left of the first task after each one, and what each method ends with for what it learns.

    Bars are those of `tables.gap`: intervals of the differences to plain fine-tuning.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    ends = scores(found)
    for method, cells in ends.items():
        matrices = np.array([row["accuracies"] for row in found if row["method"] == method])
        first = 100 * matrices[:, :, 0].mean(0)
        left.plot(first, **look.of(method), lw=1)
        titles = ("each task when learned", "all tasks at the end")
        x, y = (estimate(list(cells[title].values())).mean for title in titles)
        x_bar, y_bar = (tables.gap(cells[title], ends[_PEER][title]).half or 0.0 for title in titles)
        right.errorbar(x, y, xerr=x_bar, yerr=y_bar, lw=0.6, **look.of(method) | {"ls": ""})
    names = SEQUENCES[found[0]["experiment"]]
    left.set_xticks(range(len(names)), names, fontsize=8)
    left.set_xlabel("after learning")
    left.set_ylabel(f"accuracy on {names[0]} (%)")
    right.set_xlabel("accuracy on each task when learned, mean (%)")
    right.set_ylabel("accuracy on all tasks at the end, mean (%)")
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        clean(axes)
    save(figure, path)
