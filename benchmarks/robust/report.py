"""The report: JSON, figures and the page docs/evidence.md, all from the rows of the CSV file."""

from pathlib import Path

from rich.console import Console

from robust import figures, page, rows, summary
from robust.summary import SCORES
from robust.tables import print_lines
from writer import environment
from writer import write as write_json

__all__ = ["write"]


def write(results: Path, console: Console, docs: Path | None = None) -> None:
    """Tabulates and draws what is in `robustness.csv`.

    Args:
        results: Directory of the rows; robustness.json and the figures are written there.
        console: Where the tables are printed.
        docs: Where `evidence.md` is written; None for nowhere.
    """
    found = summary.groups(rows.read(results / "robustness.csv"))
    data = {}
    for key, group in found.items():
        name = key.name
        lines = summary.lines(group)
        data[name] = summary.as_data(lines, SCORES)
        print_lines(f"{name}: accuracy in %, mean and 95 % interval over seeds", lines, SCORES)
        figures.draw_frontier(group, f"fine-tuned on {key.id_domain}", results / f"robustness-{name}.png")
        walls = results / "robustness_walls" / f"{name}-ftp.json"
        if walls.exists():
            figures.draw_walls(walls, results / f"robustness-{name}-walls.png")
    write_json(results / "robustness.json", {"environment": environment(), "tables": data})
    if docs is not None:
        (docs / "evidence.md").write_text(page.evidence(found, results), "utf-8")
