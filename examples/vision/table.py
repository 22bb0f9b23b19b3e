"""The table of a run's accuracies."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_fitting", "print_table", "rows_table", "wise_caption"]

_ENOUGH = 1000


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """Prints the accuracies; on a narrow terminal the means only (the report has them all)."""
    print_fitting(lambda by_domain: rows_table(report, _percent, _caption(report), by_domain=by_domain), console)


def print_fitting(make: Callable[[bool], Table], console: Console) -> None:
    """Prints a table with a column for each domain where there is room, else without."""
    table = make(True)
    # Measured where there is room: a measure never exceeds the width that it is given.
    if console.measure(table, options=console.options.update(width=_ENOUGH)).minimum > console.width:
        table = make(False)
    console.print(table)


def rows_table(
    report: Mapping[str, Any],
    shown: Callable[[Any], str],
    caption: str,
    *,
    by_domain: bool,
    more: Sequence[tuple[str, list[Any]]] = (),
) -> Table:
    """The table of the rows of a report, or of what has rows like it.

    Args:
        report: Has `task` and `rows`.
        shown: Writes one entry.
        caption: Below the table.
        by_domain: Whether each OOD domain has its column.
        more: Further columns: name and entries.
    """
    task, rows = report["task"], report["rows"]
    columns: list[tuple[str, list[Any]]] = [(f"ID {task['id']}", [row["id"] for row in rows])]
    if by_domain:
        columns += [(name, [row["ood"][name] for row in rows]) for name in rows[0]["ood"]]
    if len(task["ood_groups"]) > 1:
        columns += [
            (f"mean {name}", [row["ood_group_means"][name] for row in rows]) for name in rows[0]["ood_group_means"]
        ]
    if rows[0]["ood"]:
        columns.append(("mean OOD", [row["ood_mean"] for row in rows]))
    columns += more

    table = Table(caption=caption, caption_justify="left", title="Accuracy in %", title_justify="left")
    table.add_column("", no_wrap=True)
    for name, values in columns:
        # A header may wrap between words, not within one; an entry not at all.
        whole = (*name.split(), *map(shown, values))
        table.add_column(name, justify="right", min_width=max(map(len, whole)))
    for index, row in enumerate(rows):
        last_of_section = not _wise(row) and any(map(_wise, rows[index + 1 : index + 2]))
        table.add_row(row["name"], *(shown(values[index]) for _, values in columns), end_section=last_of_section)
    return table


def _wise(row: Mapping[str, Any]) -> bool:
    return row["name"].startswith(f"{row['method']} + ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _caption(report: Mapping[str, Any]) -> str:
    task = report["task"]
    counts = [n for name, n in task["test_images"].items() if name != "validation"]
    images = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    error = 50 / math.sqrt(max(1, min(counts)))
    return (
        f"One seed ({report['config']['seed']}); {images} test images a domain, standard error of one number up to "
        f"{error:.1f} points. {wise_caption(report['rows'])}{_subsets(task)}{_left_out(task)}"
    )


def wise_caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the interpolated rows are; where validation images chose it, which point of each method's path."""
    chosen = [f"{row['method']} {_alphas(row['alpha'])}" for row in rows if row["name"].endswith(" + WiSE auto")]
    auto = f"; auto is chosen on validation images: {', '.join(chosen)}" if chosen else ""
    return f"WiSE a: weights a of the way from pre-trained to fine-tuned{auto}."


def _alphas(alpha: float | Sequence[float]) -> str:
    """One number, or those of several seeds."""
    return f"{alpha:g}" if isinstance(alpha, int | float) else ", ".join(f"{one:g}" for one in alpha)


def _subsets(task: Mapping[str, Any]) -> str:
    """Which domains are scored among fewer classes than there are."""
    total = len(task["classes"])
    among = [f"{name} {count}" for name, count in task["scored_among"].items() if count < total]
    return f" Scored among the classes it has, of {total}: {', '.join(among)}." if among else ""


def _left_out(task: Mapping[str, Any]) -> str:
    """Where images could not be read."""
    out = [f"{name} {count}" for name, count in task["skipped_images"].items() if count]
    return f" Test images that could not be read and are not counted: {', '.join(out)}." if out else ""
