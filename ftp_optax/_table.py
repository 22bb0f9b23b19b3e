"""A table of the learned scalars and of the layers that the ball constrains, for terminals and notebooks."""

import html
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _inspect, _trees, _units

_HEADER = ("layer", "radius", "largest norm", "at radius", "strength", "drift")


class LayerRow(NamedTuple):
    """One constrained layer. A number that its method does not have is None.

    Attributes:
      path: the leaf's path, such as ``"body/kernel"``; ``"blocks/kernel[3]"`` for a layer of a stacked leaf.
      radius: its radius.
      norm: its largest norm, that of ``W - W0`` if the state keeps the anchor. It is above the radius only if the layer
        is outside its ball.
      held: the share of its units that the last projection moved: those at the radius. The table calls the layer "free"
        if there are none.
      strength: its strength.
      drift: the l2 norm of ``W - W0``.
    """

    path: str
    radius: float | None = None
    norm: float | None = None
    held: float | None = None
    strength: float | None = None
    drift: float | None = None


class LayerTable(tuple[LayerRow, ...]):
    """Rows of `layer_table`. They print as a table with notes below it: as text, in notebooks, and with rich.

    Attributes:
      notes: short sentences that say what is unusual and what to change. Empty if nothing is unusual.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        return (*_on_balls(self), *_on_strengths(self))

    def __str__(self) -> str:
        cells = [_HEADER, *(_cells(row) for row in self)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADER))]
        line = lambda c: "  ".join(
            [c[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(c[1:], widths[1:], strict=True))]
        )
        return "\n".join([*(line(c).rstrip() for c in cells), *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The table for notebooks."""
        row = lambda tag, c: "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in c) + "</tr>"
        table = "<table>" + row("th", _HEADER) + "".join(row("td", _cells(r)) for r in self) + "</table>"
        return table + "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)

    def __rich__(self) -> Any:
        """The table for rich. Only rich calls this method, so rich can be imported."""
        from rich.table import Table

        table = Table(caption="\n".join(self.notes) or None, caption_justify="left")
        for i, name in enumerate(_HEADER):
            table.add_column(name, justify="right" if i else "left")
        for row in self:
            table.add_row(*_cells(row), style="bold" if row.held else None)
        return table


def _cells(row: LayerRow) -> tuple[str, ...]:
    number = lambda x: "" if x is None else f"{x:.3g}"
    held = "" if row.held is None else f"{100 * row.held:.0f} %" if row.held else "free"
    return row.path, number(row.radius), number(row.norm), held, number(row.strength), number(row.drift)


def _on_balls(rows: LayerTable) -> tuple[str, ...]:
    """Notes on the balls of `ftp`."""
    moved = [(row.radius or 0.0, row.norm, row.held or 0.0) for row in rows if row.norm]
    outside = sum(held > 0 and norm > radius for radius, norm, held in moved)
    inside = sum(held == 0 and norm <= radius for radius, norm, held in moved)
    at_radius = sum(held >= 0.5 for _, _, held in moved)
    if outside:
        return (
            f"Outside their ball: {outside} of {len(moved)} layers. Something after ftp moved them: put ftp last.",
            "If it is last, give layer_table the params of its last step, and its unit_axes and layer_axes.",
        )
    if 2 * at_radius > len(moved):
        return (
            f"At their radius: {at_radius} of the {len(moved)} layers that moved. Their radii limit the training.",
            "To learn more, train longer or raise the hyper-optimizer's rate: radii grow by about that rate a step.",
        )
    if moved and inside == len(moved):
        return (
            "At their radius: no layer. ftp acts as plain fine-tuning.",
            "To constrain the layers, lower the hyper-optimizer's rate.",
        )
    return ()


def _on_strengths(rows: LayerTable) -> tuple[str, ...]:
    """Notes on the strengths of `digrap`."""
    strengths = [row.strength for row in rows if row.strength is not None]
    if not strengths or any(strengths):
        return ()
    return (
        "All strengths are 0: digrap removes nothing.",
        "To make it act, start from 1: digrap(initial_strength=1.0, hyper_optimizer=optax.adam(1e-2)).",
    )


def layer_table(
    state: optax.OptState,
    params: optax.Params,
    *,
    unit_axes: _units.UnitAxes = _units.flax_units,
    layer_axes: _units.LayerAxes | None = None,
) -> LayerTable:
    """A table of all constrained layers: radius, largest norm, share of projected units, strength and drift.

    Args:
      state: the optimizer state, or any pytree that holds states of this package's methods. If several of the same kind
        constrain a leaf, the first one counts.
      params: the parameters after the state's last step.
      unit_axes: the unit rule that `ftp` was given.
      layer_axes: the layer axes that `ftp` was given. None (default): the leading axes that match a leaf's number of
        radii. A leaf with one radius has none.

    Returns:
      A tuple of `LayerRow`, in the order of the params. It prints as a table in a terminal, in a notebook and with
      rich. Its ``notes``, printed below, say what is unusual and what to change.

    Raises:
      TypeError: if state and params are swapped, or for axes that are not rules.
      ValueError: if the state holds no method's state or has a leading axis (pass one member of an ensemble), if the
        params or axes do not fit it, if the units depend on ``layer_axes`` and it is None, or under jit.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, layer_table
      >>> params = {"conv": jnp.zeros((2, 3)), "dense": jnp.zeros((2, 3))}
      >>> tx = ftp(optax.sgd(1.0), hyper_optimizer=optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"conv": -jnp.ones((2, 3)), "dense": jnp.zeros((2, 3))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(layer_table(state, params))
      layer  radius  largest norm  at radius  strength  drift
      conv      0.3           0.3      100 %            0.367
      dense   1e-08             0       free                0
      At their radius: 1 of the 1 layers that moved. Their radii limit the training.
      To learn more, train longer or raise the hyper-optimizer's rate: radii grow by about that rate a step.

    References:
      Tian et al., `Fast Trainable Projection <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023, on which layers need
      to move.
    """
    _checks.rules("layer_table", unit_axes=unit_axes)
    if layer_axes is not None:
        _units.require_layer_axes(layer_axes, "layer_table")
    leaves = _inspect.checked(state, params, "layer_table")
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((params, state))):
        raise ValueError(
            "layer_table: not under jit or vmap; call radii, strengths or drift there, or the table outside."
        )
    columns = {
        "radius": _inspect.radii(state, params) if _anchor.states_in(state, "radii") else {},
        "strength": _inspect.strengths(state, params) if _anchor.states_in(state, "strengths") else {},
        "drift": _inspect.drift(state, params) if _anchor.states_in(state, "anchor") else {},
        **_on_radius(state, leaves, unit_axes, layer_axes),
    }
    paths = [path for path in leaves.paths if any(path in column for column in columns.values())]
    if not paths:
        raise ValueError("layer_table: the state holds no method's state; pass the optimizer state.")
    return LayerTable(row for path in paths for row in _rows(path, columns))


def _rows(path: str, columns: dict[str, dict[str, Any]]) -> Iterator[LayerRow]:
    """A leaf's rows, one for each of its layers. The drift is left out if it is known only for the whole leaf."""
    values = {name: jnp.atleast_1d(jnp.asarray(column[path])) for name, column in columns.items() if path in column}
    count = max(x.shape[0] for x in values.values())
    values = {name: jnp.broadcast_to(x, count) for name, x in values.items() if name != "drift" or x.shape[0] == count}
    for layer in range(count):
        name = path if count == 1 else f"{path}[{layer}]"
        yield LayerRow(name, **{key: float(x[layer]) for key, x in values.items()})


def _on_radius(
    state: Any, leaves: _trees.Leaves, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes | None
) -> dict[str, dict[str, jax.Array]]:
    """By path, for leaves that `ftp` constrains: the largest norm, and the share of units that the projection moved."""
    norms: dict[str, jax.Array] = {}
    held: dict[str, jax.Array] = {}
    for ball in _inspect.balls(state, leaves):
        layout = _layout(ball, unit_axes, layer_axes)
        reached = _unit_norms(ball.reached, layout)
        others = tuple(range(len(layout.layers), reached.ndim))
        gamma = ball.radii.astype(reached.dtype).reshape(layout.layers + (1,) * len(others))
        largest = jnp.max(_norms(ball, layout, reached, gamma), axis=others, initial=0)
        norms.setdefault(ball.path, largest.reshape(layout.scalars))
        moved = jnp.mean(~(reached <= gamma), axis=others)  # NaN counts as moved
        held.setdefault(ball.path, moved.reshape(layout.scalars))
    return {"norm": norms, "held": held}


def _unit_norms(array: jax.Array, layout: _units.Layout) -> jax.Array:
    """The l1 norm of every unit, with all axes kept."""
    return jnp.sum(jnp.abs(array), axis=layout.summed(array.ndim), keepdims=True)


def _norms(ball: _inspect.Ball, layout: _units.Layout, reached: jax.Array, gamma: jax.Array) -> jax.Array:
    """The unit norms of ``W - W0``. Where only the rounding of ``W`` makes them larger than the radius, the radius."""
    if ball.anchor is None:
        return jnp.minimum(reached, gamma)
    norms = _unit_norms(_ball.displacement(jnp.asarray(ball.param), jnp.asarray(ball.anchor)), layout)
    info = jnp.finfo(jnp.result_type(ball.param))
    spacing = float(info.eps) * jnp.abs(jnp.asarray(ball.param, norms.dtype)) + float(info.smallest_subnormal)
    most = 1.001 * gamma + _unit_norms(spacing, layout)
    return jnp.where(norms > most, norms, jnp.minimum(norms, gamma))


def _layout(ball: _inspect.Ball, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes | None) -> _units.Layout:
    """How a leaf is split. The state records only the number of its layers."""
    path, shape, count = ball.path, ball.reached.shape, ball.radii.shape[0]
    if layer_axes is not None:
        layout = _units.resolve(path, shape, unit_axes, layer_axes)
        if layout.scalars != count:
            raise ValueError(
                f"layer_table: layer_axes gives {path!r} of shape {shape} {layout.scalars} layers, the state has "
                f"{count}; pass the layer_axes that ftp was given."
            )
        return layout
    depths = [depth for depth in range(len(shape) + 1) if math.prod(shape[:depth]) == count]
    if count in (1, math.prod(shape)):  # no layer axes, or one element per layer at any depth
        depths = depths[:1]
    layouts = [_units.resolve(path, shape, unit_axes, depth) for depth in depths]
    if len({tuple(axis for axis in layout.axes if shape[axis] > 1) for layout in layouts}) > 1:
        raise ValueError(
            f"layer_table: {path!r} of shape {shape} has {count} layers on its first {' or '.join(map(str, depths))} "
            "axes, which leads to different units; pass the layer_axes= that ftp was given."
        )
    return layouts[0]
