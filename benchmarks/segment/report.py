"""The report: tables, JSON, figures and the page docs/dense.md, all from the rows."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from measure.report import environment
from measure.report import write as write_json
from robust import summary
from robust.summary import estimate
from segment import figures, gallery, page, rows
from segment.rows import BOUNDARIES, SCORES, Row
from segment.worlds import WORLDS

__all__ = ["write"]


def write(results: Path, console: Console, docs: Path | None = None) -> None:
    """Tabulates and draws what is in `dense.csv`.

    Args:
        results: Directory of the rows; dense.json and the figures are written there.
        console: Where the table is printed.
        docs: Where `dense.md` is written; None for nowhere.
    """
    found = rows.read(results / "dense.csv")
    if not found:
        console.print(f"{results / 'dense.csv'}: no rows yet")
        return
    _print(found, console)
    world = WORLDS[found[0]["experiment"]]
    write_json(
        results / "dense.json",
        {"environment": environment(), "scenes": world.description(), "tables": page.as_data(found)},
    )
    figures.draw_frontier(found, results / "dense.png")
    if (results / "dense_scenes.npz").exists():
        gallery.draw(results / "dense_scenes.npz", results / "dense_scenes.png")
    if docs is not None:
        (docs / "dense.md").write_text(page.dense(found, rows.read(results / "dense_trials.csv")), "utf-8")


def _print(found: Sequence[Row], console: Console) -> None:
    table = Table(title="mean IoU and boundary F-score in %, mean and 95 % interval over seeds", title_justify="left")
    for i, column in enumerate(("method", "setting", "seeds", *SCORES, *(f"{name}, F" for name in BOUNDARIES))):
        table.add_column(column, justify="right" if i > 1 else "left", no_wrap=i != 1)
    for line in summary.lines(found):
        columns = (*SCORES.values(), *BOUNDARIES.values())
        cells = [page.shown(estimate([row[column] for row in line.rows.values()])) for column in columns]
        table.add_row(line.method, page.setting(line), str(len(line.rows)), *cells)
    console.print(table)
