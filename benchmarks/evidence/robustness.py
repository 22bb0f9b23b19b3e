"""Does it keep models robust? Every method, on emoji in ten artists' styles, on the embedded digits, or on clothes.

The emoji take some hours on two cores, the digits half an hour; a run can be stopped at any moment. npm fetches the
emoji's drawings, which are rendered; one foundation model is trained for each seed; all that is cached. Each run is a
row of benchmarks/results/robustness.csv, and is not repeated; trials are in robustness_trials.csv. --smallest: the
digits with little data, one seed and two settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import style
from evidence import summary, tables
from evidence.command import Evidence, stage
from evidence.figures import above_plain, frontiers, legend
from evidence.methods import METHODS, RATE
from evidence.protocol import DEFAULT_RATE, main_study
from evidence.rows import COLUMNS, File, Row
from evidence.summary import SCORES, Group, Line
from evidence.tasks import classification, main_backbone
from style import plt


@dataclass(frozen=True)
class Options(Evidence):
    """Compares methods of robust fine-tuning; appends to the results what they lack, and reports."""

    # Ten artists' emoji, which npm fetches, the embedded digits, or Fashion-MNIST, a Debian package.
    experiment: Literal["emoji", "digits", "fashion"] = "emoji"
    # The emoji style that is fine-tuned on: fluent-high-contrast, the main one, or noto, the second.
    id_domain: str | None = None
    # The foundation model's network; by default efficientnet-lite0 for emoji, small-cnn for digits.
    backbone: Literal["small-cnn", "efficientnet-lite0", "resnet", "vit"] | None = None
    # Which methods; zero-shot and WiSE-FT's curve come with vanilla, two interpolations with every other.
    methods: tuple[str, ...] = tuple(METHODS)
    # Settings tried for each method, on the first seed; 1 for every method's default, and the learning rate 1e-3.
    trials: int = 3

    def fill(self) -> None:
        task = classification(self.experiment, self.id_domain, backbone=self.backbone, smallest=self.smallest)
        study = main_study(task, self.results, tried=min(self.trials, 2) if self.smallest else self.trials)
        study.run_missing(self.methods, self.range(), stage)

    def tell(self) -> None:
        found = summary.groups(self.read("robustness.csv", COLUMNS))
        trials = summary.groups(File(self.results / "robustness_trials.csv").read())
        for group, rows in found.items():
            if group.backbone != main_backbone(group.experiment):  # the others are compared below
                continue
            across = SCORES["ID"], "accuracy on the domain fine-tuned on (%)"
            ups = {SCORES[score]: f"mean accuracy, {score} (%)" for score in list(SCORES)[1:]}
            figure = frontiers(rows, across, ups, (9, 5.2))
            figure.suptitle(f"fine-tuned on {group.id_domain}", fontsize=10)
            style.save(figure, self.results / f"robustness-{group.name}.png")
            self.write(f"robustness-{group.name}", section(group, rows, trials.get(group, [])))
        for experiment, groups in several_networks(found).items():
            networks = {name: of_network(rows) for name, rows in groups.items()}
            texts = (
                f"{name}, {len(values['vanilla']['ID'])} seeds:\n\n{tables.by_condition(values)}"
                for name, values in networks.items()
            )
            self.write(f"backbones-{experiment}", "\n".join(texts))
            _draw_backbones(networks, self.results / f"backbones-{experiment}.png")


def section(group: Group, rows: Sequence[Row], trials: Sequence[Row]) -> str:
    """All tables of one experiment."""
    lines, seeds = summary.lines(rows), {row["seed"] for row in rows}
    counts = sorted({sum(row["method"] == name for row in trials) for name in METHODS} - {0})
    tried = "No setting was tried here: every method has its default, and vanilla fine-tuning the learning rate 1e-3."
    if counts:
        tried = f"Settings tried for each method: {', '.join(map(str, counts))}."
    parts = [
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. {tried}\n",
        tables.scores(lines, SCORES),
        f"### Paired differences\n\n{tables.differences(lines, SCORES)}",
        _all_settings(rows),
        tables.curve(rows, SCORES),
    ]
    return "\n".join(parts)


def _all_settings(rows: Sequence[Row]) -> str:
    """Every setting that was run over seeds, where a method has several, against plain fine-tuning at its rate."""
    lines = [line for line in summary.settings(rows) if line.method in METHODS]
    if len({line.method for line in lines}) == len(lines):
        return ""
    peers = {line.hyperparameters[RATE]: line for line in lines if line.method == "vanilla"}

    def cell(line: Line, column: str) -> str:
        peer = peers.get(line.hyperparameters[RATE])
        gap = f" ({tables.gap(line, peer, column)})" if peer is not None and peer is not line else ""
        return f"{line.score(column)}{gap}"

    head = (
        "### Both learning rates\n\n"
        "Every setting that was run over seeds: the one that the trials chose, and the default at "
        f"{DEFAULT_RATE:g}, as\nreleased where it is. In brackets: points above vanilla fine-tuning at the "
        "same learning rate, paired by seed.\n"
    )
    return f"{head}\n{tables.scores(sorted(lines, key=lambda line: line.hyperparameters[RATE]), SCORES, cell)}"


# other networks

NETWORKS_METHODS = ("zero_shot", "vanilla", "wise_ft", "ftp", "ftp+wise_ft", "digrap")
"""Those that are run on every network."""


def several_networks(found: dict[Group, list[Row]]) -> dict[str, dict[str, list[Row]]]:
    """The rows by experiment and network, on the ID domain that several networks were fine-tuned on."""
    every: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for group, mine in found.items():
        every.setdefault((group.experiment, group.id_domain), {})[group.backbone] = mine
    return {experiment: groups for (experiment, _), groups in every.items() if len(groups) > 1}


def of_network(found: Sequence[Row]) -> tables.Values:
    """Each score by method and seed, at the setting that the main benchmark shows."""
    lines = {line.method: line for line in summary.lines(found)}
    return {
        method: {title: lines[method].of_seeds(column) for title, column in SCORES.items()}
        for method in NETWORKS_METHODS
        if method in lines
    }


def _draw_backbones(networks: dict[str, tables.Values], path: Path) -> None:
    """What each method adds to plain fine-tuning, paired by seed, network by network."""
    figure, panels = plt.subplots(1, len(SCORES), figsize=(9.5, 4.4), layout="constrained")
    for axes, title in zip(panels, SCORES, strict=True):
        methods = next(iter(networks.values()))
        values = {method: {name: own[method][title] for name, own in networks.items()} for method in methods}
        above_plain(axes, values, f"points above plain fine-tuning, {title}")
    legend(panels[-1])
    style.save(figure, path)
