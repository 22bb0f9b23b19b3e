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
from evidence.summary import Estimate, paired
from style import plt
from writer import markdown

HEADINGS = tuple(summary.SCORES)
METHODS = {"ftp": "FTP", "wise_ft": "WiSE-FT"}
"""What is shown: the method of this library, and the peer that costs no training."""


class Source(NamedTuple):
    """Where the rows of a task are."""

    file: str
    columns: Sequence[str]  # of the file
    scores: Sequence[str]  # those of the three headings
    only: Mapping[str, object]  # what the rows of the task have in common


def _main(experiment: str, backbone: str, style: str = "photo") -> Source:
    only = {"experiment": experiment, "backbone": backbone, "id_domain": style}
    return Source("robustness.csv", COLUMNS, tuple(summary.SCORES.values()), only)


def _few(experiment: str, share: float) -> Source:
    only = {"experiment": experiment, "share": share}
    return Source("low_label.csv", low_label.COLUMNS, tuple(summary.SCORES.values()), only)


_STYLE = "fluent-high-contrast"
TASKS = {
    "digits": _main("digits", "small-cnn"),
    "digits, 5 % of the labels": _few("digits", 0.05),
    "digits, residual network": _main("digits", "resnet"),
    "digits, ViT": _main("digits", "vit"),
    "Fashion-MNIST": _main("fashion", "small-cnn"),
    "emoji": _main("emoji", "efficientnet-lite0", _STYLE),
    "emoji, 5 % of the labels": _few("emoji", 0.05),
    "emoji, second style": _main("emoji", "efficientnet-lite0", "noto"),
    "emoji, residual network": _main("emoji", "resnet", _STYLE),
    "emoji, ViT": _main("emoji", "vit", _STYLE),
    "emoji scenes, segmentation": Source("dense.csv", dense.COLUMNS, tuple(dense.SCORES.values())[:3], {}),
    "emoji scenes, questions": Source("vqa.csv", vqa.COLUMNS, tuple(vqa.SCORES.values()), {}),
}
"""By name. Scores are accuracies, of the segmentation mean IoU; the questions' OOD domains are the near and the far."""


@dataclass(frozen=True)
class Options(Evidence):
    """Shows all tasks in one figure and one table."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods are compared with plain fine-tuning."""

    def fill(self) -> None:
        """Runs nothing: the tasks' own commands do."""

    def tell(self) -> None:
        """Writes overview.md and overview.png of the tasks that have rows."""
        found = compared(self.results)
        self.write("overview", table(found, self.methods))
        draw(found, self.methods, self.results / "overview.png")


class Compared(NamedTuple):
    """One task."""

    seeds: int
    # by method its points above plain fine-tuning in each score, paired by seed; None without a common seed
    gains: Mapping[str, Sequence[Estimate | None]]

    def of(self, method: str) -> Sequence[Estimate | None]:
        """A method's, which the task may not have."""
        return self.gains.get(method, (None,) * len(HEADINGS))


def compared(results: Path) -> dict[str, Compared]:
    """The tasks that have rows."""
    found = {}
    for name, source in TASKS.items():
        rows = File(results / source.file, source.columns).read()
        mine = [row for row in rows if all(row[key] == value for key, value in source.only.items())]
        lines = {line.method: line for line in summary.lines(mine)}
        if plain := lines.get("vanilla"):
            gains = {m: [paired(line, plain, column) for column in source.scores] for m, line in lines.items()}
            found[name] = Compared(len(plain.rows), gains)
    return found


def table(found: Mapping[str, Compared], methods: Sequence[str]) -> str:
    """A line for each task and a column for each method and score."""
    head = ["task", "seeds", *(f"{METHODS.get(m, m)}: {heading}" for m in methods for heading in HEADINGS)]
    cells = lambda one: [gain.difference if gain else "" for m in methods for gain in one.of(m)]
    return markdown(head, [[name, str(one.seeds), *cells(one)] for name, one in found.items()])


def verdict(found: Mapping[str, Compared], method: str) -> str:
    """On how many tasks a method is above plain fine-tuning, and below it, by score."""
    clear = lambda column, sign: sum(
        gain is not None and gain.clear and sign * gain.mean > 0
        for gain in (one.of(method)[column] for one in found.values())
    )
    told = [f"{heading} better on {clear(c, 1)}, worse on {clear(c, -1)}" for c, heading in enumerate(HEADINGS)]
    return f"{METHODS.get(method, method)} against plain fine-tuning on {len(found)} tasks\n{'; '.join(told)}"


def draw(found: Mapping[str, Compared], methods: Sequence[str], path: Path) -> None:
    """A forest plot: a row for each task, a panel for each score."""
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 0.42 * len(found) + 1.9), layout="constrained", sharey=True)
    for column, axes in enumerate(panels):
        for offset, method in enumerate(methods):
            shift = 0.28 * (offset - (len(methods) - 1) / 2)
            for place, one in enumerate(found.values()):
                if gain := one.of(method)[column]:
                    label = METHODS.get(method, method) if place == 0 else None
                    look = {**style.of(method), "ms": 6}
                    axes.errorbar(gain.mean, place + shift, xerr=gain.half or 0, lw=1.4, ls="", label=label, **look)
        axes.axvline(0, color="#444444", lw=1)
        axes.set_title(HEADINGS[column], fontsize=11)
        axes.set_xlabel("points above plain fine-tuning")
        style.clean(axes)
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(methods))
    figure.suptitle(verdict(found, methods[0]), fontsize=11)
    style.save(figure, path)
