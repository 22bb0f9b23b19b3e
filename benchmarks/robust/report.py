"""The report: JSON, figures and the page docs/evidence.md, all from the rows of the CSV file."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from measure.report import environment
from measure.report import write as write_json
from robust import figures, page, rows, summary
from robust.summary import SCORES, Estimate

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
        data[name] = summary.as_data(group)
        _print(name, group, console)
        figures.draw_frontier(group, f"fine-tuned on {key.id_domain}", results / f"robustness-{name}.png")
        walls = results / "robustness_walls" / f"{name}-ftp.json"
        if walls.exists():
            figures.draw_walls(walls, results / f"robustness-{name}-walls.png")
    write_json(results / "robustness.json", {"environment": environment(), "tables": data})
    if docs is not None:
        (docs / "evidence.md").write_text(page.evidence(found, results), "utf-8")


def _print(name: str, group: list[rows.Row], console: Console) -> None:
    table = Table(title=f"{name}: accuracy in %, mean and 95 % interval over seeds", title_justify="left")
    for i, column in enumerate(("method", "setting", "seeds", *SCORES)):
        table.add_column(column, justify="right" if i > 1 else "left", no_wrap=i != 1)
    for line in summary.lines(group):
        cells = [shown(summary.estimate([row[c] for row in line.rows.values()])) for c in SCORES.values()]
        table.add_row(line.method, page.setting(line), str(len(line.rows)), *cells)
    console.print(table)


def shown(found: Estimate) -> str:
    """`58.2 ± 1.1`."""
    return f"{found.mean:.1f}" + (f" ± {found.half:.1f}" if found.half is not None else "")
