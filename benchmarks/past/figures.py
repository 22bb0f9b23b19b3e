"""Tables and figures of the experiments."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from past.grids import SCALE_KNOBS, scale_axes
from past.runs import Trial
from past.trials import Row
from writer import markdown

__all__ = ["label", "mean_of", "show"]

_NUMBERS = ("validation_accuracy", "id_accuracy", "ood_seen_accuracy", "ood_held_accuracy")
_FIELDS = {"learning rate": "rate", "steps": "epochs"}
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C564B",
    "#7F7F7F",
    "#BCBD22",
    "#000000",
)


def show(experiment: str, rows: Sequence[Row], task: str, results: Path, console: Console) -> None:
    """Prints an experiment's table, writes it as Markdown, and draws its figure."""
    header, lines = _scale_table(rows, task) if experiment == "scale" else _table(rows)
    seeds = len({row.seed for row in rows})
    what = "distance to the anchor over plain fine-tuning's" if experiment == "scale" else "accuracy in %"
    table = Table(title=f"{experiment} on {task}: {what}, mean and standard deviation over {seeds} seed(s)")
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    path = results / f"past_{experiment}_{task}"
    path.with_suffix(".md").write_text(markdown(header, lines))
    {"scale": _draw_scale, "judges": _draw_judges, "strengths": _draw_strengths}[experiment](
        rows, task, path.with_suffix(".png")
    )
    console.print(f"written: {path.name}.md, .png")


def label(row: Trial) -> str:
    """The method as a table names it."""
    return f"{row.method}, held-out every {row.judge_every}" if row.judge_every else row.method


def setting(row: Row) -> Trial:
    """What was asked for, whatever the seed."""
    trial = row.trial
    return Trial(**{**vars(trial), "seed": 0})


def mean_of(rows: Sequence[Row], field: str) -> float:
    """The mean over seeds."""
    return fmean(getattr(row, field) for row in rows)


def grouped(rows: Sequence[Row]) -> dict[Trial, list[Row]]:
    """The seeds of each setting."""
    groups: dict[Trial, list[Row]] = {}
    for row in rows:
        groups.setdefault(setting(row), []).append(row)
    return groups


def _pm(rows: Sequence[Row], field: str) -> str:
    return _shown([100 * getattr(row, field) for row in rows], 1)


def _shown(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds; of one seed there is no spread to tell."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}" if values else ""


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """One line for each setting."""
    columns = {"knob": "knob", "lr": "rate", "epochs": "epochs"}
    groups = grouped(rows)
    varied = {c: f for c, f in columns.items() if len({getattr(trial, f) for trial in groups}) > 1}
    header = ["method", *varied, "validation", "ID", "OOD seen", "OOD held out", "drift", "radius or strength"]
    lines = [
        [
            label(trial),
            *(f"{getattr(trial, field):g}" for field in varied.values()),
            *(_pm(of, name) for name in _NUMBERS),
            f"{mean_of(of, 'drift'):.2f}",
            f"{mean_of(of, 'scalar'):.3f}",
        ]
        for trial, of in groups.items()
    ]
    return header, lines


def _scale_table(rows: Sequence[Row], task: str) -> tuple[list[str], list[list[str]]]:
    """One line for each point of each axis."""
    groups, lines = grouped(rows), []
    constrained = [method for method in dict.fromkeys(row.method for row in rows) if method != "vanilla"]
    for name, points in scale_axes(task).items():
        for trial in groups:
            if trial.method == constrained[0] and _on(trial, points):
                cells = []
                for method in constrained:
                    same = Trial(**{**vars(trial), "method": method, "knob": SCALE_KNOBS[method]})
                    ratios = [row.drift / _free(row, groups).drift for row in groups.get(same, [])]
                    cells.append(_shown(ratios, 2))
                lines.append([name, f"{getattr(trial, _FIELDS.get(name, name)):g}", *cells])
    return ["axis", "value", *constrained], sorted(
        lines, key=lambda line: (list(scale_axes(task)).index(line[0]), float(line[1]))
    )


def _tidy(axes: Axes) -> None:
    axes.grid(color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_scale(rows: Sequence[Row], task: str, path: Path) -> None:
    """Above: how far the constrained run goes, over how far plain fine-tuning goes. Below: what comes of it."""
    groups, axes_of = grouped(rows), scale_axes(task)
    figure, grid = plt.subplots(3, len(axes_of), figsize=(3 * len(axes_of), 7.4), layout="constrained", sharey="row")
    for column, (name, points) in enumerate(axes_of.items()):
        field = _FIELDS.get(name, name)
        for colour, method in zip(("#E69F00", *_COLOURS), ("vanilla", "ftp", "ftp scale-free"), strict=False):
            found = [(t, of) for t, of in groups.items() if t.method == method and _on(t, points)]
            found.sort(key=lambda pair: getattr(pair[0], field))
            x = [getattr(t, field) for t, _ in found]
            ratios = [[row.drift / _free(row, groups).drift for row in of] for _, of in found]
            top, middle, bottom = grid[:, column]
            if method != "vanilla":
                top.plot(x, [fmean(r) for r in ratios], color=colour, marker="o", ms=4, label=method)
                top.fill_between(x, [min(r) for r in ratios], [max(r) for r in ratios], color=colour, alpha=0.2, lw=0)
            middle.plot(x, [100 * mean_of(of, "id_accuracy") for _, of in found], color=colour, marker="o", ms=4)
            ood = [50 * (mean_of(of, "ood_seen_accuracy") + mean_of(of, "ood_held_accuracy")) for _, of in found]
            bottom.plot(x, ood, color=colour, marker="o", ms=4, label=method)
        for axes in grid[:, column]:
            axes.set_xscale("log")
            ticks = sorted({getattr(trial, field) for trial in groups if _on(trial, points)})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            _tidy(axes)
        grid[0, column].set_ylim(0, 1.05)
        grid[-1, column].set_xlabel({"steps": "epochs"}.get(name, name))
    grid[0, 0].set_ylabel("distance to the anchor\nover plain fine-tuning's")
    grid[1, 0].set_ylabel("ID accuracy (%)")
    grid[2, 0].set_ylabel("mean OOD accuracy (%)")
    grid[2, 0].legend(frameon=False, fontsize=8)
    seeds = len({row.seed for row in rows})
    shown = "lines: mean over seeds, bands: range" if seeds > 1 else "one seed"
    figure.suptitle(f"One setting of each, {task}; {shown}", fontsize=10)
    _save(figure, path)


def _on(trial: Trial, points: Sequence[dict[str, float]]) -> bool:
    """Whether a trial is one of an axis's points."""
    return any(trial == Trial(trial.task, trial.method, trial.knob, 0, **point) for point in points)  # pyright: ignore


def _free(row: Row, groups: dict[Trial, list[Row]]) -> Row:
    """Plain fine-tuning at the same point with the same seed."""
    same = Trial(**{**vars(setting(row)), "method": "vanilla", "knob": 0.0, "judge_every": 0})
    return next(other for other in groups[same] if other.seed == row.seed)


def _draw_judges(rows: Sequence[Row], task: str, path: Path) -> None:
    """The frontier of each hyper-gradient over the radii's learning rate."""
    figure, axes = plt.subplots(figsize=(6.5, 4.6), layout="constrained")
    names = list(dict.fromkeys(label(row) for row in rows))
    for name, colour in zip(names, ("#E69F00", *_COLOURS), strict=False):
        _path(axes, [row for row in rows if label(row) == name], name, colour)
    _finish_frontier(axes, f"Hyper-gradients, {task}: one point a learning rate of the radii")
    _save(figure, path)


def _path(axes: Axes, rows: Sequence[Row], name: str, colour: str) -> None:
    groups = sorted(grouped(rows).items(), key=lambda pair: pair[0].knob)
    x = [100 * mean_of(of, "id_accuracy") for _, of in groups]
    y = [50 * (mean_of(of, "ood_seen_accuracy") + mean_of(of, "ood_held_accuracy")) for _, of in groups]
    axes.plot(
        x, y, color=colour, marker="*" if name == "vanilla" else "o", ms=12 if name == "vanilla" else 5, label=name
    )


def _finish_frontier(axes: Axes, title: str) -> None:
    axes.set_xlabel("ID test accuracy (%)")
    axes.set_ylabel("mean of OOD seen and OOD held out (%)")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)


def _draw_strengths(rows: Sequence[Row], task: str, path: Path) -> None:
    """Left: how strong DiGraP gets. Right: what comes of it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    at_rate = [row for row in rows if row.rate == 1e-3]
    learned = [
        row for row in at_rate if "digrap" in row.method and "fixed" not in row.method and "ftp" not in row.method
    ]
    names = list(dict.fromkeys(row.method for row in learned))
    lengths = sorted({row.epochs for row in learned})
    for name, colour in zip(names, _COLOURS, strict=False):
        for length, style in zip(lengths, ("-", "--"), strict=False):
            of = [row for row in learned if row.method == name and row.epochs == length]
            groups = sorted(grouped(of).items(), key=lambda pair: pair[0].knob)
            x, y = [t.knob for t, _ in groups], [mean_of(g, "scalar") for _, g in groups]
            left.plot(x, y, style, color=colour, marker="o", ms=4, label=f"{name}, {length:g} epochs")
    left.set_xscale("log")
    left.set_ylim(-0.02, 1.02)
    left.set_xlabel("mu, the learning rate of the strengths")
    left.set_ylabel("mean strength in the second half")
    left.legend(frameon=False, fontsize=7)
    _tidy(left)
    shortest = [row for row in at_rate if row.epochs == min(r.epochs for r in rows)]
    for name, colour in zip(dict.fromkeys(row.method for row in shortest), _COLOURS, strict=False):
        _path(right, [row for row in shortest if row.method == name], name, colour)
    _finish_frontier(right, f"{task}, {min(row.epochs for row in rows):g} epochs")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)
