"""The frame of the figures that have a row for each method."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import style


def save(figure: Any, panels: Any, names: Sequence[str], path: Path) -> None:
    """Names the rows of all panels, and writes the figure."""
    for panel in panels.flat:
        panel.set_yticks(range(len(names)), names)
        style.clean(panel)
    figure.set_layout_engine("constrained")
    style.save(figure, path)
