"""What every page of recorded results must hold: its tables are those of the rows, its numbers are in the tables."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def numbers_beyond_the_tables(name: str, rows: str, write: Callable[[Path], None], folder: Path) -> set[str]:
    """Makes a page's tables anew from the recorded rows, holds them against the recorded ones and the page.

    Args:
        name: Of the page and, before a hyphen, of its tables.
        rows: File of the rows.
        write: Writes the tables of the rows in a directory.
        folder: An empty one.

    Returns:
        The page's numbers with a decimal that no table has.
    """
    shutil.copy(RESULTS / rows, folder)
    write(folder)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    said = set(re.findall(r"\d+\.\d", page))
    made = sorted(path.name for path in folder.glob(f"{name}-*.md"))
    assert made
    assert made == sorted(path.name for path in RESULTS.glob(f"{name}-*.md"))
    for table in made:
        text = (RESULTS / table).read_text()
        assert text == (folder / table).read_text()
        assert table in page
        said -= set(re.findall(r"\d+\.\d", text))
    return said
