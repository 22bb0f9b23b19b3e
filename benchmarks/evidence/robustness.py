"""Does it keep models robust? Every method, on emoji in ten artists' styles, on the embedded digits, or on clothes.

The emoji take some hours on two cores, the digits half an hour; a run can be stopped at any moment. npm fetches the
emoji's drawings, which are rendered; one foundation model is trained for each seed; all that is cached. Each run is a
row of benchmarks/results/robustness.csv, and is not repeated; trials are in robustness_trials.csv. --smallest: the
digits with little data, one seed and two settings.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

import style
from evidence import summary, tables
from evidence.command import Evidence, stage
from evidence.figures import above_plain, frontiers, legend
from evidence.methods import METHODS, RATE
from evidence.protocol import DEFAULT_RATE, main_study
from evidence.rows import COLUMNS, File, Row
from evidence.summary import SCORES, Group
from evidence.tasks import Classification, Run, classification, main_backbone
from ftp_optax import layer_table
from style import plt
from vision.networks import depth_order
from writer import markdown


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
        # what the radii did is kept for the settings that were chosen
        keep = (partial(_record_layers, self.results, task),) if self.trials > 1 else ()
        study.run_missing(self.methods, self.range(), stage, *keep)

    def tell(self) -> None:
        found = summary.groups(self.read("robustness.csv", COLUMNS))
        trials = summary.groups(File(self.results / "robustness_trials.csv").read())
        for group, rows in found.items():
            name = group.name
            layers = self.results / "robustness_layers" / f"{name}-ftp.json"
            if layers.exists():
                _draw_layers(layers, self.results / f"robustness-{name}-radii.png")
            across = SCORES["ID"], "accuracy on the domain fine-tuned on (%)"
            ups = {SCORES[score]: f"mean accuracy, {score} (%)" for score in list(SCORES)[1:]}
            figure = frontiers(rows, across, ups, (9, 5.2))
            figure.suptitle(f"fine-tuned on {group.id_domain}", fontsize=10)
            style.save(figure, self.results / f"robustness-{name}.png")
            if group.backbone == main_backbone(group.experiment):  # the others are compared below
                self.write(f"robustness-{name}", section(group, rows, trials.get(group, []), layers.exists()))
        for experiment, groups in several_networks(found).items():
            networks = {name: of_network(rows) for name, rows in groups.items()}
            self.write(f"backbones-{experiment}", backbones(networks))
            _draw_backbones(networks, self.results / f"backbones-{experiment}.png")


def section(group: Group, rows: Sequence[Row], trials: Sequence[Row], layers: bool) -> str:
    """All tables of one experiment."""
    lines, seeds = summary.lines(rows), {row["seed"] for row in rows}
    counts = sorted({sum(row["method"] == name for row in trials) for name in METHODS} - {0})
    tried = "No setting was tried here: every method has its default, and vanilla fine-tuning the learning rate 1e-3."
    if counts:
        tried = f"Settings tried for each method: {', '.join(map(str, counts))}."
    parts = [
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. {tried}\n",
        tables.scores(lines, SCORES),
        tables.figure(
            f"robustness-{group.name}.png",
            "Accuracy in domain against out of domain, by method, with intervals.",
            "Bars: 95 % intervals of the differences to `vanilla`, paired by seed.",
        ),
        f"### Paired differences\n\n{tables.differences(lines, SCORES)}",
        _all_settings(rows),
        tables.curve(rows, SCORES),
    ]
    if layers:
        told = "Radii of all kernels over training, and the share of units at radius, by depth."
        parts += [
            "### Radii of the layers\n",
            tables.figure(f"robustness-{group.name}-radii.png", told),
            "FTP at seed 0. A unit is at radius if the projection holds it there.\n",
        ]
    return "\n".join(parts)


def _all_settings(rows: Sequence[Row]) -> str:
    """Every setting that was run over seeds, where a method has several, against plain fine-tuning at its rate."""
    lines = [line for line in summary.settings(rows) if line.method in METHODS]
    if len({line.method for line in lines}) == len(lines):
        return ""
    peers = {line.hyperparameters[RATE]: line for line in lines if line.method == "vanilla"}
    head = (
        "### Both learning rates\n\n"
        "Every setting that was run over seeds: the one that the trials chose, and the default at "
        f"{DEFAULT_RATE:g}, as\nreleased where it is. In brackets: points above vanilla fine-tuning at the "
        "same learning rate, paired by seed.\n"
    )
    body = []
    for line in sorted(lines, key=lambda line: line.hyperparameters[RATE]):
        peer = peers.get(line.hyperparameters[RATE])
        cells = [str(line.score(column)) for column in SCORES.values()]
        if peer is not None and peer is not line:
            gaps = [tables.gap(line, peer, column) for column in SCORES.values()]
            cells = [f"{cell} ({gap})" for cell, gap in zip(cells, gaps, strict=True)]
        words = tables.setting(line), str(len(line.rows)), f"{100 * line.validation:.1f}"
        body.append([f"`{line.method}`", *words, *cells])
    return f"{head}\n{markdown(('method', 'setting', 'seeds', 'validation', *SCORES), body, left=2)}"


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


def backbones(networks: dict[str, tables.Values]) -> str:
    """A table for each network."""
    return "\n".join(
        f"{name}, {len(values['vanilla']['ID'])} seeds:\n\n{tables.by_condition(values)}"
        for name, values in networks.items()
    )


def _draw_backbones(networks: dict[str, tables.Values], path: Path) -> None:
    """What each method adds to plain fine-tuning, paired by seed, network by network."""
    figure, panels = plt.subplots(1, len(SCORES), figsize=(9.5, 4.4), layout="constrained")
    for axes, title in zip(panels, SCORES, strict=True):
        methods = next(iter(networks.values()))
        values = {method: {name: own[method][title] for name, own in networks.items()} for method in methods}
        above_plain(axes, values, f"points above plain fine-tuning, {title}")
    legend(panels[-1])
    style.save(figure, path)


# what the radii did in training, and which units ended at radius


def _record_layers(results: Path, task: Classification, method: str, seed: int, run: Run) -> None:
    """Writes `robustness_layers/EXPERIMENT-ID-METHOD.json`: main network, first seed, methods that learn scalars."""
    if seed or task.backbone != main_backbone(task.experiment) or not run.trained.scalars:
        return
    name, trajectory = next(iter(run.trained.scalars.items()))
    table = layer_table(run.trained.opt_state, run.trained.params)
    columns = {row.path: (row, values) for row, values in zip(table, trajectory.T, strict=True)}
    layers = [
        {
            "path": path,
            "final": row.radius if name == "radii" else row.strength,
            "drift": row.drift,
            "units_at_radius": row.held,
            "trajectory": [float(f"{value:.4g}") for value in values],
        }
        for path in depth_order(task.backbone)
        for row, values in ([columns[path]] if path in columns else [])
    ]
    path = results / "robustness_layers" / f"{task.experiment}-{task.id_domain}-{method}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scalars": name, "seed": seed, "layers": layers}, indent=1) + "\n")


def _draw_layers(source: Path, path: Path) -> None:
    """A run's radii over training, coloured by depth, and the share of each layer's units that end at radius."""
    recorded: dict[str, Any] = json.loads(source.read_text())
    layers = [layer for layer in recorded["layers"] if layer["path"].endswith("kernel")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 1, len(layers)))
    for layer, colour in zip(layers, colours, strict=True):
        trajectory = np.maximum(layer["trajectory"], 1e-8)
        left.plot(np.linspace(0, 100, len(trajectory)), trajectory, color=colour, lw=1)
    left.set_yscale("log")
    style.label(left, "share of training (%)", recorded["scalars"])
    left.set_title("one line a kernel, first layer dark, last light", fontsize=10)
    right.bar(range(len(layers)), [100 * layer["units_at_radius"] for layer in layers], color=colours)
    style.label(right, "kernel, from the input to the output", "units at radius at the end (%)")
    right.set_ylim(0, 100)
    right.xaxis.get_major_locator().set_params(integer=True)
    style.save(figure, path)
