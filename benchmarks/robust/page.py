"""The page docs/evidence.md: every number of it comes from the rows."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from robust import protocol, summary
from robust.experiments import main_backbone
from robust.methods import METHODS, RATE
from robust.rows import Row, read
from robust.summary import PEERS, SCORES, Estimate, Group, Line, estimate, paired

__all__ = ["evidence", "setting"]

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

_ENOUGH_SEEDS = 3

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


_CORRUPTIONS = """## Natural corruptions

ID test images under fifteen corruptions after ImageNet-C, at five severities each; the mean over all 75. Nothing was
trained or chosen on corrupted images: settings are those chosen above, the defaults where nothing was tried, and
interpolations are at alpha 0.7. `python benchmarks/corruptions.py`; accuracy by kind and severity is in
[corruptions.csv](../benchmarks/results/corruptions.csv).
"""


def evidence(found: Mapping[Group, Sequence[Row]], results: Path) -> str:
    """The page."""
    sections = [
        _section(group, rows, results)
        for group, rows in found.items()
        if group.backbone == main_backbone(group.experiment)  # the others have a page of their own
    ]
    return "\n".join([_INTRODUCTION, *sections, *_corruptions(results)])


def setting(line: Line) -> str:
    """A method's hyper-parameters in words."""
    return ", ".join(f"{name} {value:g}" for name, value in line.hyperparameters.items())


def _corruptions(results: Path) -> list[str]:
    """The tables of benchmarks/corruptions.py, if there are any."""
    file = results / "corruptions.csv"
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if row["kinds"]]
    parts = [_CORRUPTIONS]
    for experiment in dict.fromkeys(row["experiment"] for row in found):
        parts += [f"{_TITLES[experiment]}:\n", _row("method", "seeds", "clean", "corrupted"), _row("---", *3 * ["--:"])]
        mine = [row for row in found if row["experiment"] == experiment]
        for method in dict.fromkeys(row["method"] for row in mine):
            rows = [row for row in mine if row["method"] == method]
            cells = [_shown(estimate([float(row[column]) for row in rows])) for column in ("clean", "corrupted")]
            parts.append(_row(f"`{method}`", str(len(rows)), *cells))
        parts.append("")
    return ["\n".join(parts)]


def _section(group: Group, rows: Sequence[Row], results: Path) -> str:
    (experiment, id_domain, _), lines, name = group, summary.lines(rows), group.name
    figure = _figure(
        results / f"robustness-{name}.png", "Accuracy in domain against out of domain, by method, with intervals."
    )
    walls = results / f"robustness-{name}-walls.png"
    seeds = sorted({row["seed"] for row in rows})
    parts = [
        f"## {_TITLES[experiment]}: fine-tuned on {id_domain}\n",
        f"{_ABOUT[experiment]}\n",
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}. {_trials(group, results)}\n",
        _uneven(lines),
        _table(lines),
        figure,
        _differences(lines),
        _all_settings(rows),
        _curve(rows),
    ]
    if walls.exists():
        parts += [
            "### Radii and walls\n",
            _figure(walls, "Radii of all kernels over training, and the share of units at the wall, by depth."),
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


def _uneven(lines: Sequence[Line]) -> str:
    """A warning where not all methods have the same seeds."""
    if len({tuple(sorted(line.rows)) for line in lines}) == 1:
        return ""
    return (
        "Methods with fewer seeds are unfinished. Their means are over other splits: compare them by the paired\n"
        "differences below.\n"
    )


def _table(lines: Sequence[Line]) -> str:
    head = _row("method", "setting", "seeds", "validation", *SCORES)
    rule = _row("---", "---", "--:", "--:", *("--:" for _ in SCORES))
    body = [
        _row(
            f"`{line.method}`",
            setting(line),
            str(len(line.rows)),
            f"{100 * line.validation:.1f}",
            *(_shown(estimate([row[column] for row in line.rows.values()])) for column in SCORES.values()),
        )
        for line in lines
    ]
    return "\n".join([head, rule, *body, ""])


def _differences(lines: Sequence[Line]) -> str:
    """Each method minus vanilla fine-tuning and minus WiSE-FT, paired by seed."""
    peers = {line.method: line for line in lines if line.method in PEERS}
    parts = ["### Paired differences\n"]
    for peer in peers.values():
        parts += [
            f"Points above `{peer.method}`, paired by seed; bold where the interval excludes zero and\n"
            f"there are {_ENOUGH_SEEDS} seeds or more, not corrected for the number of comparisons.\n",
            _row("method", *SCORES),
            _row("---", *("--:" for _ in SCORES)),
        ]
        for line in lines:
            if line.method not in (peer.method, "zero_shot"):
                cells = [paired(line, peer, column) for column in SCORES.values()]
                # The interval of two differences that happen to be equal is nothing.
                enough = len(line.rows.keys() & peer.rows.keys()) >= _ENOUGH_SEEDS
                parts.append(_row(f"`{line.method}`", *(_signed(cell, enough) for cell in cells)))
        parts.append("")
    return "\n".join(parts)


def _all_settings(rows: Sequence[Row]) -> str:
    """Every setting that was run over seeds, where a method has several, against plain fine-tuning at its rate."""
    lines = [line for line in summary.settings(rows) if line.method in METHODS]
    if len({line.method for line in lines}) == len(lines):
        return ""
    peers = {line.hyperparameters[RATE]: line for line in lines if line.method == "vanilla"}
    parts = [
        "### Both learning rates\n",
        "Every setting that was run over seeds: the one that the trials chose, and the default at "
        f"{protocol.DEFAULT_RATE:g}, as\nreleased where it is. In brackets: points above vanilla fine-tuning at the "
        "same learning rate, paired by seed.\n",
        _row("method", "setting", "seeds", "validation", *SCORES),
        _row("---", "---", "--:", "--:", *("--:" for _ in SCORES)),
    ]
    for line in sorted(lines, key=lambda line: line.hyperparameters[RATE]):
        peer, cells = peers.get(line.hyperparameters[RATE]), []
        for column in SCORES.values():
            cell = _shown(estimate([row[column] for row in line.rows.values()]))
            if peer is not None and peer is not line:
                enough = len(line.rows.keys() & peer.rows.keys()) >= _ENOUGH_SEEDS
                cell += f" ({_signed(paired(line, peer, column), enough)})"
            cells.append(cell)
        validation = f"{100 * line.validation:.1f}"
        parts.append(_row(f"`{line.method}`", setting(line), str(len(line.rows)), validation, *cells))
    return "\n".join([*parts, ""])


def _curve(rows: Sequence[Row]) -> str:
    curve = summary.curve(rows, "wise_ft")
    parts = ["WiSE-FT's curve:\n", _row("alpha", *SCORES), _row("--:", *("--:" for _ in SCORES))]
    for line in curve:
        cells = (_shown(estimate([row[column] for row in line.rows.values()])) for column in SCORES.values())
        parts.append(_row(f"{line.alpha:g}", *cells))
    return "\n".join([*parts, ""]) if curve else ""


def _figure(path: Path, alternative: str) -> str:
    return f"```{{figure}} ../benchmarks/results/{path.name}\n:class: on-white\n:alt: {alternative}\n```\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(found: Estimate) -> str:
    return f"{found.mean:.1f}" + (f" ± {found.half:.1f}" if found.half is not None else "")


def _signed(found: Estimate | None, enough: bool) -> str:
    if found is None:
        return ""
    text = f"{found.mean:+.1f}" + (f" ± {found.half:.1f}" if found.half is not None else "")
    return f"**{text}**" if enough and found.half is not None and abs(found.mean) > found.half else text
