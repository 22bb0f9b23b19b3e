"""All tasks at once, from the rows that are there: methods minus plain fine-tuning, as a forest plot and a table.

Every method has the setting that ID validation images chose; with few labels, the one chosen with all. Nothing is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import style
from evidence import dense, low_label, summary, vqa
from evidence.command import Evidence
from evidence.rows import COLUMNS, File
from evidence.summary import Estimate, Line, paired
from style import plt
from writer import markdown

HEADINGS = tuple(summary.SCORES)
METHODS = {"ftp": "FTP", "wise_ft": "WiSE-FT"}
"""What is shown: the method of this library, and the peer that costs no training."""


class Source(NamedTuple):
    """Where the rows of a task are."""

    file: str
    columns: Sequence[str]  # of the file
    only: Mapping[str, object]  # what the rows of the task have in common
    scores: Sequence[str] = tuple(summary.SCORES.values())  # those of the three headings


def _main(experiment: str, backbone: str, style: str = "photo") -> Source:
    return Source("robustness.csv", COLUMNS, {"experiment": experiment, "backbone": backbone, "id_domain": style})


def _few(experiment: str) -> Source:
    return Source("low_label.csv", low_label.COLUMNS, {"experiment": experiment, "share": 0.05})


_STYLE = "fluent-high-contrast"
TASKS = {
    "digits": _main("digits", "small-cnn"),
    "digits, 5 % of the labels": _few("digits"),
    "digits, residual network": _main("digits", "resnet"),
    "digits, ViT": _main("digits", "vit"),
    "Fashion-MNIST": _main("fashion", "small-cnn"),
    "emoji": _main("emoji", "efficientnet-lite0", _STYLE),
    "emoji, 5 % of the labels": _few("emoji"),
    "emoji, second style": _main("emoji", "efficientnet-lite0", "noto"),
    "emoji, residual network": _main("emoji", "resnet", _STYLE),
    "emoji, ViT": _main("emoji", "vit", _STYLE),
    "emoji scenes, segmentation": Source("dense.csv", dense.COLUMNS, {}, tuple(dense.SCORES.values())[:3]),
    "emoji scenes, questions": Source("vqa.csv", vqa.COLUMNS, {}, tuple(vqa.SCORES.values())),
}
"""By name. Scores are accuracies, of the segmentation mean IoU; the questions' OOD domains are the near and the far."""


@dataclass(frozen=True)
class Options(Evidence):
    """Shows all tasks in one figure and one table."""

    def fill(self) -> None:
        """Runs nothing: the tasks' own commands do."""

    def tell(self) -> None:
        """Writes overview.md and overview.png of the tasks that have rows."""
        found = compared(self.results)
        self.write("overview", table(found))
        draw(found, self.results / "overview.png")


class Compared(NamedTuple):
    """One task."""

    seeds: int
    # by method its points above plain fine-tuning in each score, paired by seed; None without a common seed
    gains: Mapping[str, Sequence[Estimate | None]]


def compared(results: Path) -> dict[str, Compared]:
    """The tasks that have rows."""
    found = {}
    for name, source in TASKS.items():
        rows = File(results / source.file, source.columns).read()
        mine = [row for row in rows if all(row[key] == value for key, value in source.only.items())]
        lines = {line.method: line for line in summary.lines(mine)}
        if plain := lines.get("vanilla"):
            there = {method: lines.get(method, Line(method, {}, {})) for method in METHODS}
            gains = {method: [paired(line, plain, c) for c in source.scores] for method, line in there.items()}
            found[name] = Compared(len(plain.rows), gains)
    return found


def table(found: Mapping[str, Compared]) -> str:
    """A line for each task and a column for each method and score."""
    head = ["task", "seeds", *(f"{title}: {heading}" for title in METHODS.values() for heading in HEADINGS)]
    cells = lambda one: [gain.difference if gain else "" for gains in one.gains.values() for gain in gains]
    return markdown(head, [[name, str(one.seeds), *cells(one)] for name, one in found.items()])


def verdict(found: Mapping[str, Compared], method: str) -> str:
    """On how many tasks a method is above plain fine-tuning, and below it, by score."""
    told = []
    for column, heading in enumerate(HEADINGS):
        gains = [one.gains[method][column] for one in found.values()]
        better, worse = (sum(bool(g and g.clear and s * g.mean > 0) for g in gains) for s in (1, -1))
        told.append(f"{heading} better on {better}, worse on {worse}")
    return f"{METHODS[method]} against plain fine-tuning on {len(found)} tasks\n{'; '.join(told)}"


def draw(found: Mapping[str, Compared], path: Path) -> None:
    """A forest plot: a row for each task, a panel for each score."""
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 0.42 * len(found) + 1.9), layout="constrained", sharey=True)
    for column, (axes, heading) in enumerate(zip(panels, HEADINGS, strict=True)):
        for shift, (method, title) in zip((-0.14, 0.14), METHODS.items(), strict=True):
            for place, one in enumerate(found.values()):
                if gain := one.gains[method][column]:
                    look = {**style.of(method), "ms": 6, "label": title if place == 0 else None}
                    axes.errorbar(gain.mean, place + shift, xerr=gain.half or 0, lw=1.4, ls="", **look)
        axes.axvline(0, color="#444444", lw=1)
        axes.set_title(heading, fontsize=11)
        style.label(axes, "points above plain fine-tuning", "")
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(METHODS))
    figure.suptitle(verdict(found, "ftp"), fontsize=11)
    style.save(figure, path)
