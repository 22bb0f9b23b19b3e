"""Tables and figures of the same methods on several networks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

# first style, which chooses the backend
from matplotlib import pyplot as plt

from breadth import look, tables
from robust import rows, summary
from robust.rows import Row
from robust.summary import SCORES, Group
from style import clean, save
from writer import print_table

__all__ = ["METHODS", "experiments", "values", "write"]

METHODS = ("zero_shot", "vanilla", "wise_ft", "ftp", "ftp+wise_ft", "digrap")
"""Those that are run on every network."""

_PEER = "vanilla"


def write(results: Path) -> None:
    """Prints the tables; writes them as Markdown, with a figure, for every experiment with several networks."""
    for experiment, groups in experiments(rows.read(results / "robustness.csv")).items():
        texts = []
        for group, found in groups.items():
            shown = values(found)
            head, lines = tables.header(shown), tables.table(shown, _PEER)
            seeds = len(shown[_PEER]["ID"])
            print_table(f"{experiment}, {group.backbone}, {seeds} seeds: accuracy in %", "", head, [lines])
            texts.append(f"{group.backbone}, {seeds} seeds:\n\n{tables.markdown(head, lines)}")
        stem = results / f"backbones-{experiment}"
        stem.with_suffix(".md").write_text("\n".join(texts), "utf-8")
        _draw(groups, stem.with_suffix(".png"))


def experiments(found: Sequence[Row]) -> dict[str, dict[Group, list[Row]]]:
    """The rows by experiment and network, on the ID domain that several networks were fine-tuned on."""
    every: dict[tuple[str, str], dict[Group, list[Row]]] = defaultdict(dict)
    for group, mine in summary.groups(found).items():
        every[group.experiment, group.id_domain][group] = mine
    return {experiment: groups for (experiment, _), groups in every.items() if len(groups) > 1}


def values(found: Sequence[Row]) -> tables.Values:
    """Each score by method and seed, at the setting that the main benchmark shows."""
    lines = {line.method: line for line in summary.lines(found)}
    return {
        method: {
            title: {seed: row[column] for seed, row in lines[method].rows.items()} for title, column in SCORES.items()
        }
        for method in METHODS
        if method in lines
    }


def _draw(groups: Mapping[Group, Sequence[Row]], path: Path) -> None:
    """What each method adds to plain fine-tuning, paired by seed, network by network."""
    figure, panels = plt.subplots(1, len(SCORES), figsize=(12, 3.8), layout="constrained")
    by_network = {group.backbone: values(found) for group, found in groups.items()}
    for axes, title in zip(panels, SCORES, strict=True):
        for i, method in enumerate(name for name in METHODS if name not in (_PEER, "zero_shot")):
            for place, shown in enumerate(by_network.values()):
                gap = tables.gap(shown[method][title], shown[_PEER][title])
                style = look.of(method) | {"ls": "", "label": method if place == 0 else None}
                axes.errorbar(place + 0.12 * (i - 1.5), gap.mean, gap.half or 0.0, lw=1, **style)
        axes.axhline(0, color="#444444", lw=0.8)
        axes.set_xticks(range(len(by_network)), list(by_network))
        axes.set_ylabel(f"points above plain fine-tuning, {title}")
        clean(axes, "y")
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
