"""Which layers are at the wall and which are free: a table of what was learned, for terminals and notebooks."""

import html
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import optax

from ftp_optax import _inspect, _trees, _units

_HEADER = ("layer", "radius", "largest norm", "at the wall", "strength", "drift")


class LayerRow(NamedTuple):
    """One constrained layer; a number that its method does not have is None.

    Attributes:
      path: the leaf's path, such as ``"body/kernel"``; ``"blocks/kernel[3]"`` for a layer of a stacked leaf.
      radius: its trust region's radius.
      norm: the largest norm of its units, after projection.
      held: the share of its units that the last projection moved: those at the wall. 0: the layer is free.
      strength: its projection strength.
      drift: the l2 norm of ``W - W0``.
    """

    path: str
    radius: float | None = None
    norm: float | None = None
    held: float | None = None
    strength: float | None = None
    drift: float | None = None


class LayerTable(tuple[LayerRow, ...]):
    """Rows of `layer_table`, which print as a table: as text, in notebooks, and by rich."""

    def __str__(self) -> str:
        cells = [_HEADER, *(_cells(row) for row in self)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADER))]
        line = lambda c: "  ".join(
            [c[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(c[1:], widths[1:], strict=True))]
        )
        return "\n".join(line(c).rstrip() for c in cells)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What notebooks show."""
        row = lambda tag, c: "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in c) + "</tr>"
        return "<table>" + row("th", _HEADER) + "".join(row("td", _cells(r)) for r in self) + "</table>"

    def __rich__(self) -> Any:
        """What rich prints; only rich calls it, so that rich is there."""
        from rich.table import Table

        table = Table()
        for i, name in enumerate(_HEADER):
            table.add_column(name, justify="right" if i else "left")
        for row in self:
            table.add_row(*_cells(row), style="bold" if row.held else None)
        return table


def _cells(row: LayerRow) -> tuple[str, ...]:
    number = lambda x: "" if x is None else f"{x:.3g}"
    held = "" if row.held is None else f"{100 * row.held:.0f} %" if row.held else "free"
    return row.path, number(row.radius), number(row.norm), held, number(row.strength), number(row.drift)


def layer_table(
    params: optax.Params, state: optax.OptState, *, unit_axes: _units.UnitAxes = _units.flax_units
) -> LayerTable:
    """Every constrained layer with its radius, its norm, how much of it is at the wall, its strength and its drift.

    Args:
      params: the parameters.
      state: the optimizer state, or any pytree that holds states of this package's methods. Where several of the same
        kind constrain a leaf, the first one counts.
      unit_axes: the unit rule that `ftp` was given.

    Returns:
      A tuple of `LayerRow`, in the order of the params, that prints as a table in a terminal, in a notebook and with
      rich.

    Raises:
      ValueError: if the state holds no method's state, if the params do not fit it, or under jit.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, layer_table
      >>> params = {"conv": jnp.zeros((2, 3)), "dense": jnp.zeros((2, 3))}
      >>> tx = ftp(optax.sgd(1.0), hyper_optimizer=optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"conv": -jnp.ones((2, 3)), "dense": jnp.zeros((2, 3))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(layer_table(params, state))
      layer  radius  largest norm  at the wall  strength  drift
      conv      0.3           0.3        100 %            0.367
      dense   1e-08             0         free                0

    References:
      Tian et al., `Fast Trainable Projection <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023, on which layers need
      to move.
    """
    leaves = _trees.flatten(params)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, state))):
        raise ValueError("layer_table: not under jit; call radii, strengths or drift there, or the table outside.")
    columns = {
        "radius": _inspect.radii(state, params) if _inspect.find(state, "radii") else {},
        "strength": _inspect.strengths(state, params) if _inspect.find(state, "strengths") else {},
        "drift": _inspect.drift(params, state) if _inspect.find(state, "anchor") else {},
        **_walls(state, leaves, unit_axes),
    }
    paths = [path for path in leaves.paths if any(path in column for column in columns.values())]
    if not paths:
        raise ValueError("layer_table: the state holds no method's state; pass the optimizer state.")
    return LayerTable(row for path in paths for row in _rows(path, columns))


def _rows(path: str, columns: dict[str, dict[str, Any]]) -> Iterator[LayerRow]:
    """A leaf's rows, one for each of its layers."""
    values = {name: jnp.atleast_1d(jnp.asarray(column[path])) for name, column in columns.items() if path in column}
    count = max(x.shape[0] for x in values.values())
    for layer in range(count):
        name = path if count == 1 else f"{path}[{layer}]"
        yield LayerRow(name, **{key: float(x[layer]) for key, x in values.items()})


def _walls(state: Any, leaves: _trees.Leaves, unit_axes: _units.UnitAxes) -> dict[str, dict[str, jax.Array]]:
    """By path, where there is an `ftp`: the largest norm, and the share of the units that the projection moved."""
    norms: dict[str, jax.Array] = {}
    held: dict[str, jax.Array] = {}
    for path, displacement, radius in _inspect.projected(state, leaves):
        layout = _units.of_count(path, displacement.shape, unit_axes, radius.shape[0])
        sizes = _units.unit_norms(displacement, layout)
        gamma = _units.per_layer(radius, layout, sizes.ndim)
        outside = jnp.mean(sizes > gamma, axis=tuple(range(len(layout.layers), sizes.ndim)))
        norms.setdefault(path, _units.layer_max(jnp.minimum(sizes, gamma), layout))
        held.setdefault(path, outside.reshape(layout.scalars))
    return {"norm": norms, "held": held}
