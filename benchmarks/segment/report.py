"""The report: tables, JSON, figures and the page docs/dense.md, all from the rows."""

from pathlib import Path

from rich.console import Console

from robust import summary
from robust.tables import print_lines
from segment import figures, gallery, page, rows
from segment.rows import BOUNDARIES, SCORES
from segment.worlds import WORLDS
from writer import environment
from writer import write as write_json

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
    lines, columns = summary.lines(found), SCORES | {f"{name}, boundary F": c for name, c in BOUNDARIES.items()}
    print_lines("mean IoU and boundary F-score in %, mean and 95 % interval over seeds", lines, columns)
    world = WORLDS[found[0]["experiment"]]
    write_json(
        results / "dense.json",
        {"environment": environment(), "scenes": world.description(), "tables": summary.as_data(lines, columns)},
    )
    figures.draw_frontier(found, results / "dense.png")
    if (results / "dense_scenes.npz").exists():
        gallery.draw(results / "dense_scenes.npz", results / "dense_scenes.png")
    if docs is not None:
        (docs / "dense.md").write_text(page.dense(found, rows.read(results / "dense_trials.csv")), "utf-8")
