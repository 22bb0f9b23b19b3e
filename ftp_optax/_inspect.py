"""Looking inside: radii, strengths and drift by path, found in any chain or wrapper."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _trees, _units

Number: TypeAlias = float | jax.Array


def find(state: Any, field: str) -> list[Any]:
    """All methods' states that have a field, however deep."""
    has_field = lambda node: isinstance(node, _anchor.Anchored) and getattr(node, field, None) is not None
    return [node for node in jax.tree.leaves(state, is_leaf=has_field) if has_field(node)]


def _record(state: Any) -> _trees.Leaves:
    """The leaves of a params-shaped tree of the state, masked where unconstrained."""
    return _trees.flatten(state.displacement if state.anchor is None else state.anchor)


def _scalars(state: Any) -> jax.Array | None:
    """The learned scalars of a state, without what nnx.Optimizer wraps them in; None for methods that learn none."""
    leaves = jax.tree.leaves(getattr(state, "radii", getattr(state, "strengths", None)))
    return leaves[0] if leaves else None


def _number(value: jax.Array) -> Number:
    """One number as a Python float, or as a traced scalar under jit; else the array with one number a layer."""
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
        raise ValueError("With layer axes the number of layers is not known under jit; read the state outside of it.")
    return [int(n) for n in layers]


def _by_path(state: Any, params: Any, field: str, method: str) -> dict[str, Number]:
    """The scalars of all states with a field, by path."""
    states, leaves = find(state, field), _trees.flatten(params)
    if not states:
        raise ValueError(f"{field}: the state holds none; pass the state of an optimizer with {method}.")
    found: dict[str, Number] = {}
    for one in states:
        record = _trees.aligned(_record(one), leaves, f"{field}: the state")
        chosen = [path for path, leaf in zip(leaves.paths, record, strict=True) if not _trees.is_masked(leaf)]
        parts = _units.cut_scalars(jax.tree.leaves(getattr(one, field))[0], _counts(one, len(chosen)))
        found.update((path, _number(part)) for path, part in zip(chosen, parts, strict=True))
    return found


def projected(state: Any, leaves: _trees.Leaves) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """Path, displacement before the last projection, and radii of every leaf that an `ftp` constrains."""
    for one in find(state, "displacement"):
        record = _trees.aligned(_trees.flatten(one.displacement), leaves, "layer_table: the state")
        rows = [(path, leaf) for path, leaf in zip(leaves.paths, record, strict=True) if not _trees.is_masked(leaf)]
        if hasattr(one, "radii"):
            parts = _units.cut_scalars(jax.tree.leaves(one.radii)[0], _counts(one, len(rows)))
            yield from ((path, jnp.asarray(leaf), part) for (path, leaf), part in zip(rows, parts, strict=True))


def radii(state: optax.OptState, params: optax.Params) -> dict[str, Number]:
    """The radius of every constrained leaf, in the units of its norm.

    Args:
      state: the optimizer state, or any pytree that holds the states of one or more `ftp` or `tpgm`.
      params: the parameters, for their paths.

    Returns:
      A dict from path, such as ``"body/kernel"``, to a float; to an array with one number a layer where the leaf has
      layer axes; to a tracer under jit.

    Raises:
      ValueError: if the state holds no radii, or if the params do not fit it.

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
      A dict from path, such as ``"body/kernel"``, to a float; to an array with one number a layer where the leaf has
      layer axes; to a tracer under jit.

    Raises:
      ValueError: if the state holds no strengths, or if the params do not fit it.

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
    gap = _ball.displacement(param, anchor)
    return _number(jnp.linalg.norm(gap.reshape(count, -1), axis=1))


def drift(params: optax.Params, state: optax.OptState) -> dict[str, Number]:
    """How far every constrained leaf is from its anchor: the l2 norm ``|W - W0|``.

    Args:
      params: the parameters.
      state: the optimizer state, or any pytree that holds states of this package's methods. Where several
        constrain a leaf, the first one's anchor counts.

    Returns:
      A dict from path, such as ``"body/kernel"``, to a float; to an array with one number a layer where the leaf has
      layer axes; to a tracer under jit.

    Raises:
      ValueError: if the state holds no anchor (`ftp` with ``memory="lean"`` keeps none), or the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import drift, ftp
      >>> params = {"kernel": jnp.zeros((2, 3))}
      >>> state = ftp(optax.sgd(0.1)).init(params)
      >>> drift({"kernel": params["kernel"].at[0, 0].set(0.5)}, state)
      {'kernel': 0.5}

    References:
      Li et al., `Explicit Inductive Bias for Transfer Learning with Convolutional Networks
      <https://arxiv.org/abs/1802.01483>`_, ICML 2018, on the starting point as a reference.
    """
    leaves, states = _trees.flatten(params), find(state, "anchor")
    if not states:
        raise ValueError("drift: the state holds no anchor; ftp with memory='lean' keeps none.")
    found: dict[str, Number] = {}
    for one in states:
        rows = zip(leaves.paths, leaves.values, _trees.aligned(_record(one), leaves, "drift: the state"), strict=True)
        constrained = [row for row in rows if not _trees.is_masked(row[2])]
        for (path, param, anchor), count in zip(constrained, _counts(one, len(constrained)), strict=True):
            if path not in found:
                found[path] = _distance(param, anchor, count)
    return found
