"""The page docs/evidence.md: every number of it comes from the rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from robust import summary, tables
from robust.experiments import main_backbone
from robust.methods import METHODS, RATE
from robust.rows import Row, read
from robust.study import DEFAULT_RATE
from robust.summary import SCORES, Group
from robust.tables import figure, gap, setting
from writer import markdown

__all__ = ["evidence"]

_TITLES = {
    "emoji": "Emoji by ten artists",
    "digits": "Digits on photographs",
    "fashion": "Fashion-MNIST on photographs",
}

_ABOUT = {
    "emoji": """The same objects, drawn by ten artists, in sixteen classes. EfficientNet-Lite0, its ImageNet weights
trained on with a head for the classes on 45 % of the emoji in six colour styles, is fine-tuned for ten epochs on
other emoji in ONE style and tested on a third set of emoji in every style: *ID*, the style fine-tuned on; *OOD seen*,
the mean over colour styles of the foundation model, but for that one; *OOD held out*, the mean over styles that no
training has seen.""",
    "digits": """A 153,418-parameter network, pre-trained on six renderings of handwritten digits, is fine-tuned for
fifteen epochs on digits blended into photographs and tested on other digits in every rendering: *ID*, the
photographs; *OOD seen*, the mean over the six; *OOD held out*, the mean over low contrast and stripes.""",
    "fashion": """The same with clothes: 3,400 of the 70,000 images of Fashion-MNIST for each seed (1,500 to pre-train,
600 to fine-tune, 300 to choose by, 1,000 to test), in the digits' renderings.""",
}

_INTRODUCTION = """# Evidence

What fine-tuning keeps of a pre-trained model, by method. Accuracies are in %, with the 95 % interval over seeds
(Student's t; a seed is another split, another foundation model, another order of the images). Every number on this
page is from a row of [robustness.csv](../benchmarks/results/robustness.csv); `python benchmarks/robustness.py`
appends what is missing, `--report` writes this page.

**Protocol.** AdamW without weight decay, warm-up over a tenth, cosine decay, gradients clipped to norm 1; the head is
pre-trained, and constrained like the rest. Every method has one knob, and the same number of settings of it is tried
([robustness_trials.csv](../benchmarks/results/robustness_trials.csv)): on the first seed only, judged by ID
validation images only, the default first among equals. The learning rate is the one that vanilla fine-tuning chose.
Where a method was also run at its default and the learning rate 1e-3 (`--trials 1`), the table has the setting that is
better on the validation images over all seeds; a table below it has both. FTP's defaults were run so after its chosen
setting had been seen to gain little.
The validation set is small, so choices are noisy, for all methods alike. TPGM trains its radii on the same validation
images that judge it. `wise_ft` is vanilla fine-tuning interpolated with the foundation model, at the alpha that is
best on the validation images; `NAME+wise_ft` is the same for another method.
"""


def evidence(found: Mapping[Group, Sequence[Row]], results: Path) -> str:
    """The page."""
    sections = [
        _section(group, rows, results)
        for group, rows in found.items()
        if group.backbone == main_backbone(group.experiment)  # the others have a page of their own
    ]
    return "\n".join([_INTRODUCTION, *sections])


def _section(group: Group, rows: Sequence[Row], results: Path) -> str:
    (experiment, id_domain, _), lines, name = group, summary.lines(rows), group.name
    walls = f"robustness-{name}-walls.png"
    seeds = sorted({row["seed"] for row in rows})
    parts = [
        f"## {_TITLES[experiment]}: fine-tuned on {id_domain}\n",
        f"{_ABOUT[experiment]}\n",
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. {_trials(group, results)}\n",
        tables.scores(lines, SCORES),
        figure(
            f"robustness-{name}.png",
            "Accuracy in domain against out of domain, by method, with intervals.",
            "Bars: 95 % intervals of the differences to `vanilla`, paired by seed.",
        ),
        f"### Paired differences\n\n{tables.differences(lines, SCORES)}",
        _all_settings(rows),
        tables.curve(rows, SCORES),
    ]
    if (results / walls).exists():
        parts += [
            "### Radii and walls\n",
            figure(walls, "Radii of all kernels over training, and the share of units at the wall, by depth."),
            "FTP at seed 0. A unit is at the wall if the projection holds it at its layer's radius.\n",
        ]
    return "\n".join(parts)


def _trials(group: Group, results: Path) -> str:
    mine = summary.groups(read(results / "robustness_trials.csv")).get(group, [])
    if not mine:
        return (
            "No setting was tried here: every method has its default, and vanilla fine-tuning the learning rate 1e-3."
        )
    counts = {name: sum(row["method"] == name for row in mine) for name in METHODS}
    tried = sorted({count for count in counts.values() if count})
    return f"Settings tried for each method: {', '.join(map(str, tried))}."


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
            cells = [f"{cell} ({gap(line, peer, c)})" for cell, c in zip(cells, SCORES.values(), strict=True)]
        body.append([f"`{line.method}`", setting(line), str(len(line.rows)), f"{100 * line.validation:.1f}", *cells])
    return f"{head}\n{markdown(('method', 'setting', 'seeds', 'validation', *SCORES), body, left=2)}"
