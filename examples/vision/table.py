"""The tables of a run's accuracies, and what they say."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vision.conclusion import conclusion, gain_shown, labels_shown
from vision.results import AUTO
from vision.summary import BASE, summarise

__all__ = ["print_report"]

_ENOUGH = 1000
# Which columns there are: each OOD domain, the means of their groups, the mean of all alone.
_LEVELS = ("domains", "groups", "mean")

Column = tuple[str, list[str]]


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Prints the accuracies and what they say; on a narrow terminal means only (the report has them all)."""
    if "summaries" not in report:
        rows, summaries = report["rows"], [summarise([report])]
        task, title = report["task"], "Accuracy in %"
        tables = [_table(title, rows, _columns(task, rows, _percent, level), level) for level in _LEVELS]
        _print_fitting(tables, console)
        console.print(_one_seed(report))
    else:
        summaries = report["summaries"]
        for summary in summaries:
            _print_fitting([_summary_table(summary, level) for level in _LEVELS], console)
        console.print(_several_seeds(summaries))
    told = [line for line in map(conclusion, summaries) if line]
    for line in told:
        console.print(line, style="bold", markup=False)
    if told:
        console.print(f"A row beats {BASE} if its ID or mean OOD accuracy is above it and neither is below it.")
    if told and len(summaries[0]["seeds"]) == 1:
        console.print("One seed may be chance: --seeds 0,1,2,3,4 gives intervals.")


def _print_fitting(tables: Sequence[Table], console: Console) -> None:
    """Prints the first table that has room, or the last."""
    # Measured where there is room: a measure never exceeds the width that it is given.
    roomy = console.options.update(width=_ENOUGH)
    fitting = (table for table in tables if console.measure(table, options=roomy).minimum <= console.width)
    console.print(next(fitting, tables[-1]))


def _summary_table(summary: Mapping[str, Any], level: str) -> Table:
    """Means of several seeds, and beside them the differences to plain fine-tuning; without that, intervals."""
    task, rows, seeds = summary["task"], summary["rows"], len(summary["seeds"])
    differences = [row.get("difference") for row in rows]
    columns = _columns(task, rows, _mean if any(differences) else _interval, level)
    if any(differences):
        less = "mean" if level == "mean" else "groups"
        columns += [(f"{title} minus {BASE}", cells) for title, cells in _columns(task, differences, gain_shown, less)]
    return _table(f"{labels_shown(summary)}, {seeds} seed{'s' * (seeds > 1)}: accuracy in %", rows, columns, level)


def _columns(
    task: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None], shown: Callable[[Any], str], level: str
) -> list[Column]:
    """Titles and entries of one level; a row that is None has none."""
    first = next(row for row in rows if row is not None)
    column = lambda score: [shown(score(row)) if row is not None else "" for row in rows]
    columns = [(f"ID {task['id']}", column(lambda row: row["id"]))]
    if level == "domains":
        columns += [(name, column(lambda row, name=name: row["ood"][name])) for name in first["ood"]]
    if level != "mean" and len(task["ood_groups"]) > 1:
        columns += [
            (f"mean {name}", column(lambda row, name=name: row["ood_group_means"][name])) for name in task["ood_groups"]
        ]
    if first["ood"]:
        columns.append(("mean OOD", column(lambda row: row["ood_mean"])))
    return columns


def _table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], level: str) -> Table:
    table = Table(title=title, title_justify="left")
    longest = max(len(row["name"]) for row in rows)
    # Where there is nothing left to leave out, names may wrap.
    table.add_column("", overflow="fold", min_width=None if level == _LEVELS[-1] else longest)
    for name, entries in columns:
        # A header may wrap between words, not within one; an entry not at all.
        table.add_column(name, justify="right", width=max(map(len, (*name.split(), *entries))))
    for index, row in enumerate(rows):
        last_of_section = not _wise(row) and any(map(_wise, rows[index + 1 : index + 2]))
        table.add_row(row["name"], *(entries[index] for _, entries in columns), end_section=last_of_section)
    return table


def _wise(row: Mapping[str, Any]) -> bool:
    return row["name"].startswith(f"{row['method']} + ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _mean(score: Mapping[str, float] | None) -> str:
    return "" if score is None else _percent(score["mean"])


def _interval(score: Mapping[str, float | None] | None) -> str:
    return "" if score is None else gain_shown(score).removeprefix("+")


def _one_seed(report: Mapping[str, Any]) -> str:
    task = report["task"]
    counts = [n for name, n in task["test_images"].items() if name != "validation"]
    images = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    error = 50 / math.sqrt(max(1, min(counts)))
    return (
        f"One seed ({report['config']['seed']}); {images} test images per domain; standard error of a number up to "
        f"{error:.1f} points. {_wise_note({'': report['rows']})}{_subsets(task)}{_left_out(task)}"
    )


def _several_seeds(summaries: Sequence[Mapping[str, Any]]) -> str:
    first = summaries[0]
    seeds = first["seeds"]
    notes = [f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}."]
    if len(seeds) > 1:
        paired = "; differences are paired by seed" if any("difference" in row for row in first["rows"]) else ""
        notes.append(f"± is half of the 95 % t-interval over seeds{paired}.")
    parts = {labels_shown(summary): summary["rows"] for summary in summaries}
    notes.append(_wise_note(parts if len(parts) > 1 else {"": first["rows"]}))
    return " ".join(notes) + _subsets(first["task"]) + _left_out(first["task"])


def _wise_note(parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What the interpolated rows are; by part, which point of each method's path validation images chose."""
    names = [row["name"] for rows in parts.values() for row in rows]
    named = next((rule for rule in AUTO for name in names if name.endswith(f" + WiSE {rule}")), None)
    chosen = []
    for title, rows in parts.items():
        own = (f"{row['method']} {_alphas(row['alpha'])}" for row in rows if row["name"].endswith(f" + WiSE {named}"))
        chosen.append(f"{title}: {', '.join(own)}" if title else ", ".join(own))
    which = f"; {named} is chosen on validation images: {'; '.join(chosen)}" if named else ""
    return f"WiSE a: (1 - a) times the pre-trained weights plus a times the fine-tuned ones{which}."


def _alphas(alpha: float | Sequence[float]) -> str:
    """One number, or those of several seeds."""
    return f"{alpha:g}" if isinstance(alpha, int | float) else ", ".join(f"{one:g}" for one in alpha)


def _subsets(task: Mapping[str, Any]) -> str:
    """Which domains are scored among fewer classes than there are."""
    total = len(task["classes"])
    among = [f"{name} {count}" for name, count in task["scored_among"].items() if count < total]
    return f" Domains scored among fewer than all {total} classes: {', '.join(among)}." if among else ""


def _left_out(task: Mapping[str, Any]) -> str:
    """Where images could not be read."""
    out = [f"{name} {count}" for name, count in task["skipped_images"].items() if count]
    return f" Test images that could not be read and are not counted: {', '.join(out)}." if out else ""
