"""Radii, strengths and drift by path, found in any chain or wrapper."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _trees

Number: TypeAlias = Any  # a float, an array with one number per layer, or a tracer; no static type can say which

_MEMBER = "jax.tree.map(lambda x: x[i], (state, params))"


def checked(state: Any, params: Any, reader: str) -> _trees.Leaves:
    """The flattened params, after a check of the order of the arguments and of the state.

    Raises:
      TypeError: if state and params are swapped.
      ValueError: if the state has a leading axis.
    """
    _anchor.require_state_first(state, params, reader)
    sizes = [size for one in _anchor.states_in(state) for size in _leading(one)]
    if sizes:
        every = "" if reader == "layer_table" else f"call jax.vmap({reader})(state, params), or "
        raise ValueError(
            f"{reader}: the state has a leading axis of {sizes[0]}, as jax.vmap(tx.init) makes one; {every}read one "
            f"member, {_MEMBER}."
        )
    return _trees.flatten(params)


def _leading(state: Any) -> tuple[int, ...]:
    """The sizes of the axes of a state before those that `init` made."""
    for field, axes in {"radii": 1, "strengths": 1, "spd_steps": 0, "anchor_steps": 0}.items():
        for array in jax.tree.leaves(getattr(state, field, None)):
            return jnp.shape(array)[: jnp.ndim(array) - axes]
    return ()


def _constrained(state: Any, leaves: _trees.Leaves, reader: str) -> list[tuple[str, Any, Any]]:
    """Path, parameter and recorded value of every leaf that a state constrains."""
    record = _trees.flatten(state.displacement if state.anchor is None else state.anchor)
    found = _trees.aligned(record, leaves, f"{reader}: the state")
    rows = zip(leaves.paths, leaves.values, found, strict=True)
    return [row for row in rows if not _trees.is_masked(row[2])]


def _scalars(state: Any) -> jax.Array | None:
    """The learned scalars of a state, without the wrapper of nnx.Optimizer; None for methods that learn none."""
    leaves = jax.tree.leaves(getattr(state, "radii", getattr(state, "strengths", None)))
    return leaves[0] if leaves else None


def _number(value: jax.Array) -> Number:
    """One number as a Python float, or as a traced scalar under jit; several as an array, one per layer."""
    if value.shape != (1,):
        return value
    return value[0] if isinstance(value, jax.core.Tracer) else float(value[0])


def _counts(state: Any, leaves: int) -> list[int]:
    """The number of scalars of each constrained leaf."""
    scalars = _scalars(state)
    if scalars is None or scalars.shape[0] == leaves:
        return [1] * leaves
    layers = jax.tree.leaves(state.layers)[0]
    if isinstance(layers, jax.core.Tracer):
        raise ValueError(
            "With layer axes the number of layers is not known under jit or vmap; read the state outside of it, or one "
            f"member of an ensemble, {_MEMBER}."
        )
    return [int(n) for n in layers]


def _cut(scalars: jax.Array, counts: list[int]) -> list[jax.Array]:
    """Each leaf's own scalars."""
    ends = itertools.accumulate(counts)
    return [scalars[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _by_path(state: Any, params: Any, field: str, method: str) -> dict[str, Number]:
    """The scalars of all states with a field, by path."""
    leaves, states = checked(state, params, field), _anchor.states_in(state, field)
    if not states:
        raise ValueError(f"{field}: the state holds none; pass the state of an optimizer with {method}.")
    found: dict[str, Number] = {}
    for one in states:
        rows = _constrained(one, leaves, field)
        parts = _cut(jax.tree.leaves(getattr(one, field))[0], _counts(one, len(rows)))
        found.update((path, _number(part)) for (path, _, _), part in zip(rows, parts, strict=True))
    return found


class Ball(NamedTuple):
    """A leaf that `ftp` constrains: its parameter, and its entries in the state."""

    path: str
    param: Any
    anchor: Any  # None with lean memory
    reached: jax.Array  # the displacement before the last projection
    radii: jax.Array  # one for each layer


def balls(state: Any, leaves: _trees.Leaves) -> Iterator[Ball]:
    """The balls of all `ftp` in a state."""
    for one in _anchor.states_in(state, "displacement"):
        if hasattr(one, "radii"):
            rows = _constrained(one, leaves, "layer_table")
            reached = [x for x in _trees.flatten(one.displacement).values if not _trees.is_masked(x)]
            parts = _cut(jax.tree.leaves(one.radii)[0], _counts(one, len(rows)))
            for (path, param, recorded), last, part in zip(rows, reached, parts, strict=True):
                yield Ball(path, param, None if one.anchor is None else recorded, jnp.asarray(last), part)


def radii(state: optax.OptState, params: optax.Params) -> dict[str, Number]:
    """The radius of every constrained leaf, in the units of its norm.

    Args:
      state: the optimizer state, or any pytree that holds the states of one or more `ftp` or `tpgm`.
      params: the parameters, for their paths.

    Returns:
      A dict from path, such as ``"body/kernel"``, to a float. A leaf with layer axes has an array with one number per
      layer. Under jit and vmap the values are tracers. For an ensemble, call ``jax.vmap(radii)(state, params)``.

    Raises:
      TypeError: if state and params are swapped.
      ValueError: if the state holds no radii or has a leading axis, or if the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, radii
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> state = ftp(optax.sgd(0.1), initial_radius=0.5).init(params)
      >>> radii(state, params)
      {'kernel': 0.5}

    References:
      gamma in Tian et al., `Fast Trainable Projection <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023.
    """
    return _by_path(state, params, "radii", "ftp or tpgm")


def strengths(state: optax.OptState, params: optax.Params) -> dict[str, Number]:
    """The projection strength of every constrained leaf, in [0, 1].

    Args:
      state: the optimizer state, or any pytree that holds the states of one or more `digrap`.
      params: the parameters, for their paths.

    Returns:
      A dict from path, such as ``"body/kernel"``, to a float. A leaf with layer axes has an array with one number per
      layer. Under jit and vmap the values are tracers. For an ensemble, call ``jax.vmap(strengths)(state, params)``.

    Raises:
      TypeError: if state and params are swapped.
      ValueError: if the state holds no strengths or has a leading axis, or if the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import digrap, strengths
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> strengths(digrap().init(params), params)
      {'kernel': 0.0}

    References:
      omega in Huang et al., `Directional Gradient Projection <https://arxiv.org/abs/2502.15895>`_, ICLR 2025.
    """
    return _by_path(state, params, "strengths", "digrap")


def _distance(param: Any, anchor: Any, count: int) -> Number:
    """The l2 distance of a leaf from its anchor, for each of its `count` layers."""
    squares = _ball.squares(_ball.displacement(jnp.asarray(param), jnp.asarray(anchor)))
    return _number(_ball.length(*(jnp.sum(x.reshape(count, x.size // max(count, 1)), axis=1) for x in squares)))


def drift(state: optax.OptState, params: optax.Params) -> dict[str, Number]:
    """The distance of every constrained leaf from its anchor: the l2 norm ``|W - W0|``.

    Args:
      state: the optimizer state, or any pytree that holds states of this package's methods. If several methods
        constrain a leaf, the anchor of the first one counts.
      params: the parameters.

    Returns:
      A dict from path, such as ``"body/kernel"``, to a float. A leaf with layer axes has an array with one number per
      layer. Under jit and vmap the values are tracers. For an ensemble, call ``jax.vmap(drift)(state, params)``.

    Raises:
      TypeError: if state and params are swapped.
      ValueError: if the state holds no anchor (`ftp` with ``memory="lean"`` keeps none) or has a leading axis, or if
        the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import drift, ftp
      >>> params = {"kernel": jnp.zeros((2, 3))}
      >>> state = ftp(optax.sgd(0.1)).init(params)
      >>> drift(state, {"kernel": params["kernel"].at[0, 0].set(0.5)})
      {'kernel': 0.5}

    References:
      Li et al., `Explicit Inductive Bias for Transfer Learning with Convolutional Networks
      <https://arxiv.org/abs/1802.01483>`_, ICML 2018, which uses the starting point as the reference.
    """
    leaves, states = checked(state, params, "drift"), _anchor.states_in(state, "anchor")
    if not states:
        raise ValueError("drift: the state holds no anchor; ftp with memory='lean' keeps none.")
    found: dict[str, Number] = {}
    for one in states:
        rows = _constrained(one, leaves, "drift")
        for (path, param, anchor), count in zip(rows, _counts(one, len(rows)), strict=True):
            if path not in found:
                found[path] = _distance(param, anchor, count)
    return found
