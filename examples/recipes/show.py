"""Tables of the results of an example."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.table import Table

from ftp_optax import drift, flax_units, radii
from recipes.digits import Scores
from vision.networks import path_of
from vision.progress import make_console

__all__ = ["balls", "scores", "table"]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    """Prints a table. Numbers have four digits."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
    for column, name in enumerate(header):
        shown.add_column(name, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, str) else f"{cell:.4g}" for cell in row))
    console = make_console()
    console.print(shown)
    console.print()


def scores(rows: Mapping[str, Scores]) -> None:
    """Prints the scores on the fine-tuning domain and on the pre-training domains."""
    header = ("weights", "training loss", "accuracy on photo", "on the pre-trained domains")
    table("Fine-tuned on photo", header, [(name, *row) for name, row in rows.items()])


def balls(params: Any, state: Any, plain: Any, pretrained: Any, unit_axes: Any = flax_units) -> None:
    """Prints the radius of each layer, its largest norm, and its drift with and without the method.

    The radius bounds the l1 distance of each unit (a row or column of weights) from its pre-trained value. The largest
    norm therefore never exceeds the radius.

    Args:
        params: The parameters after training with `ftp`.
        state: Its optimizer state.
        plain: The parameters after training with the base optimizer alone.
        pretrained: The parameters before both.
        unit_axes: The rule for units that `ftp` was given.
    """
    learned, near, far = radii(state, params), drift(state, params), _by_path(plain, pretrained)
    rows = []
    for path, gap in _by_path(params, pretrained).items():
        if path in learned:
            kept = unit_axes(path, gap.shape)
            largest = np.abs(gap).sum(tuple(axis for axis in range(gap.ndim) if axis not in kept)).max()
            plain_drift = np.sqrt(np.square(far[path]).sum())
            rows.append((path, float(learned[path]), float(largest), float(near[path]), float(plain_drift)))
    table("Layers under ftp", ("layer", "radius", "largest norm", "drift", "drift without ftp"), rows)


def _by_path(params: Any, pretrained: Any) -> dict[str, np.ndarray]:
    gaps = jax.tree.map(lambda new, old: np.subtract(new, old), params, pretrained)
    return {path_of(path): gap for path, gap in jax.tree_util.tree_leaves_with_path(gaps)}
