"""The report: a table, JSON, the figure and the page docs/vqa.md, all from the rows and the distances."""

from pathlib import Path

from rich.console import Console

from questions import figure, page, tables
from questions.protocol import COLUMNS
from robust import rows, summary
from robust.tables import print_lines
from writer import environment
from writer import write as write_json

__all__ = ["write"]


def write(results: Path, console: Console, docs: Path | None = None) -> None:
    """Tabulates and draws what is in `vqa.csv`.

    Args:
        results: Directory of the rows and distances; vqa.json and vqa.png are written there.
        console: Where the table is printed.
        docs: Where `vqa.md` is written; None for nowhere.
    """
    found = rows.read(results / "vqa.csv", COLUMNS)
    if not {"zero_shot", "vanilla"} <= {row["method"] for row in found}:
        console.print("no report: vanilla has no rows yet, and everything is compared with it")
        return
    lines, shifts = summary.lines(found), tables.shifts(results)
    print_lines("Visual question answering: accuracy in %, mean and 95 % interval over seeds", lines, tables.SCORES)
    figure.draw(found, shifts, results / "vqa.png")
    distances = {name: shift._asdict() for name, shift in shifts.items()}
    data = {"environment": environment(), "shifts": distances, "table": tables.as_data(lines, shifts)}
    write_json(results / "vqa.json", data)
    if docs is not None:
        (docs / "vqa.md").write_text(page.vqa(results), "utf-8")
