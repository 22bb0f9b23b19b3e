"""The anchor: which leaves are constrained, the copy of their pre-trained values, and the checks of what users pass.

Which leaves are constrained is decided once, in `init`, and recorded in the state itself: an unconstrained leaf is an
`optax.MaskedNode` there. `update` reads it from the state, so no positional buffer can slip when a tree changes.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _checks, _trees, _units


def _is_bool(value: Any) -> bool:
    """Whether a mask's entry is one boolean, of Python, NumPy or JAX."""
    return isinstance(value, bool) or (getattr(value, "dtype", None) == jnp.bool_ and jnp.ndim(value) == 0)


def chosen_by(mask: Any, params: Any, leaves: _trees.Leaves, method: str) -> list[bool]:
    """Which leaves a mask constrains, one boolean a leaf; False for those that are masked already.

    Args:
      mask: a tree or prefix tree of booleans, a callable from params to one, or None for all leaves.
      params: the parameters.
      leaves: the flattened params.
      method: the public function's name, for the messages.

    Raises:
      ValueError: if the mask does not fit the params or constrains nothing.
      TypeError: if an entry of the mask is not a boolean.
    """
    present = [not _trees.is_masked(v) for v in leaves.values]
    if mask is None or not any(present):  # optax.tree.map_params calls init with a tree without leaves
        return present
    tree = mask(params) if callable(mask) else mask
    entries, subtrees = _trees.flatten(tree), {p for path in leaves.paths for p in _trees.prefixes(path)}
    masked = [path for path, here in zip(leaves.paths, present, strict=True) if not here]
    for path, value in zip(entries.paths, entries.values, strict=True):
        if not (_trees.is_masked(value) or _is_bool(value)):
            raise TypeError(f"{method}: the mask's entry at {path!r} is {value!r}; it must be True or False.")
        if path not in subtrees and not any(_trees.inside(path, m) for m in masked):
            raise ValueError(
                f"{method}: the mask has an entry {path!r}, which params lacks; it has {leaves.paths[:8]}."
            )
    there = [path for path, here in zip(leaves.paths, present, strict=True) if here]
    choices = iter(_trees.spread(tree, there, f"{method}: the mask"))
    chosen = [here and not _trees.is_masked(choice := next(choices)) and bool(choice) for here in present]
    if not any(chosen):
        raise ValueError(
            f"{method}: the mask constrains none of the {len(chosen)} leaves, so this would be plain fine-tuning. "
            f"Check its names against the paths: {leaves.paths[:8]}."
        )
    return chosen


def constrain(
    params: Any, mask: Any, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes, method: str
) -> tuple[_trees.Leaves, dict[int, _units.Layout]]:
    """Decides in `init` which leaves are constrained, and how each is split.

    Args:
      params: the parameters.
      mask: a tree or prefix tree of booleans, a callable from params to one, or None for all leaves.
      unit_axes: the rule for the units.
      layer_axes: the rule for the layers.
      method: the public function's name, for the messages.

    Returns:
      The flattened params, and the layouts of the constrained leaves by position.

    Raises:
      ValueError: if the mask does not fit the params or constrains nothing.
      TypeError: if an entry of the mask is not a boolean, or a constrained leaf is not a real floating-point array.
    """
    leaves = _trees.flatten(params)
    chosen = chosen_by(mask, params, leaves, method)
    for path, value, here in zip(leaves.paths, leaves.values, chosen, strict=True):
        if here and not jnp.issubdtype(_checks.dtype_of(value, path, f"{method}: params"), jnp.floating):
            raise TypeError(
                f"{method}: the leaf {path!r} has dtype {jnp.result_type(value)}; only real floating-point leaves can "
                "be constrained. Leave it out with mask=."
            )
    return leaves, _units.resolve_all(leaves.paths, leaves.values, chosen, unit_axes, layer_axes)


def recall(
    recorded: Any, params: Any, updates: Any, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes, method: str
) -> tuple[_trees.Leaves, _trees.Leaves, list[Any], dict[int, _units.Layout]]:
    """Reads in `update` from a tree of the state what `constrain` decided.

    Args:
      recorded: a params-shaped tree of the state, `optax.MaskedNode` at unconstrained leaves.
      params: the parameters.
      updates: the gradients.
      unit_axes: the rule for the units.
      layer_axes: the rule for the layers.
      method: the public function's name, for the messages.

    Returns:
      The flattened params, the flattened gradients, the recorded tree's leaves, and the layouts by position.

    Raises:
      ValueError: if params are missing or the trees do not fit each other.
    """
    if params is None:
        raise ValueError(f"{method}: update needs the current parameters: call tx.update(grads, state, params).")
    leaves, gradients, record = _trees.flatten(params), _trees.flatten(updates), _trees.flatten(recorded)
    _trees.require_same(gradients, leaves, f"{method}: the gradient")
    _trees.require_same(record, leaves, f"{method}: the state")
    chosen = [not _trees.is_masked(value) for value in record.values]
    for i in (i for i, here in enumerate(chosen) if here):
        _trees.require_shape(gradients.values[i], leaves.values[i], leaves.paths[i], f"{method}: the gradient")
        _trees.require_shape(record.values[i], leaves.values[i], leaves.paths[i], f"{method}: the state")
        _checks.floating(gradients.values[i], leaves.paths[i], f"{method}: the gradient")
        _checks.floating(leaves.values[i], leaves.paths[i], f"{method}: the parameter")
    layouts = _units.resolve_all(leaves.paths, leaves.values, chosen, unit_axes, layer_axes)
    return leaves, gradients, record.values, layouts


def wide_dtype(leaf: Any) -> Any:
    """The dtype of what is kept of a leaf: its own, but at least float32."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def displacement(param: Any, anchor: Any) -> jax.Array:
    """``W - W0``, in at least float32."""
    wide = wide_dtype(param)
    return jnp.asarray(param, wide) - jnp.asarray(anchor, wide)


def wide_zeros(leaves: _trees.Leaves, layouts: Mapping[int, Any]) -> Any:
    """A params-shaped tree of zeros in `wide_dtype`, `optax.MaskedNode` at unconstrained leaves."""
    return leaves.masked({i: jnp.zeros_like(leaves.values[i], dtype=wide_dtype(leaves.values[i])) for i in layouts})


def make_anchor(anchor: Any, leaves: _trees.Leaves, layouts: Mapping[int, Any], dtype: Any, method: str) -> Any:
    """A copy of the anchor, `optax.MaskedNode` at unconstrained leaves.

    Always a copy: an anchor that shares the params' buffers makes a step that donates both fail.

    Args:
      anchor: a tree like the params, or None for the params themselves.
      leaves: the flattened params.
      layouts: the constrained leaves.
      dtype: what to store the anchor in; None for each leaf's own.
      method: the public function's name, for the messages.

    Returns:
      The anchor, in the params' structure.

    Raises:
      ValueError: if the anchor has another structure or shape.
      TypeError: if it has another dtype and no `dtype` says which to keep.
    """
    source = leaves if anchor is None else _trees.flatten(anchor)
    _trees.require_same(source, leaves, f"{method}: the anchor")
    copies = {}
    for i in layouts:
        path, value, param = leaves.paths[i], source.values[i], leaves.values[i]
        _trees.require_shape(value, param, path, f"{method}: the anchor")
        if dtype is None and jnp.result_type(value) != jnp.result_type(param):
            raise TypeError(
                f"{method}: the anchor's leaf {path!r} is {jnp.result_type(value)}, the parameter "
                f"{jnp.result_type(param)}; convert it or say which to store with anchor_dtype=."
            )
        copies[i] = jnp.array(value, dtype=dtype or jnp.result_type(param), copy=True)
    return leaves.masked(copies)


def refresh(tree: Any, params: Any) -> Any:
    """A copy of the params in the structure, dtypes and masking of an anchor."""
    old, new = _trees.flatten(tree), _trees.flatten(params)
    _trees.aligned(old, new, "reanchor: the state")
    values = dict(zip(new.paths, new.values, strict=True))
    kept = (
        (i, o, values[path])
        for i, (path, o) in enumerate(zip(old.paths, old.values, strict=True))
        if not _trees.is_masked(o)
    )
    return old.replaced({i: jnp.array(n, dtype=o.dtype, copy=True) for i, o, n in kept})


@runtime_checkable
class Anchored(Protocol):
    """A method's state that can be started anew at other parameters."""

    def restart(self, params: Any) -> Any:
        """The state as `init` would make it at the params, everything of the base optimizer kept."""
        ...


def reanchor(state: Any, params: optax.Params) -> Any:
    """Makes the current parameters the anchor and starts the radii or strengths anew.

    For continual learning: after a task, the next one is constrained to stay near where this one ended. Every method's
    state inside `state` is found, through any chain or wrapper; the base optimizer's state is kept (make a new one with
    ``tx.init`` to drop it too), and shares its buffers with the old one, which should be used no more.

    Args:
      state: the optimizer state, or any pytree that holds it.
      params: the parameters to anchor at, of the structure that `init` was given.

    Returns:
      A state of the same structure, shapes and dtypes. The params are copied, so that both can be donated.

    Raises:
      TypeError: if the two are given in the other order.
      ValueError: if no method's state is found, or if the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, radii, reanchor
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> tx = ftp(optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update({"kernel": jnp.ones((2, 3))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> state = reanchor(state, params)
      >>> radii(state, params)
      {'kernel': 9.99999993922529e-09}

    References:
      Tian et al., `Fast Trainable Projection <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023, its continual-learning
      experiments anchor each task at the last one's result.
    """
    require_state_first(state, params, "reanchor")
    if not states_in(state):
        raise ValueError(
            "reanchor: the state holds no anchored method's state (ftp or digrap); pass the optimizer state."
        )
    return _restarted(state, params)


def _restarted(tree: Any, params: Any) -> Any:
    """The tree with every method's state started anew, those inside another's inner state too."""

    def restart(node: Any) -> Any:
        if not _is_anchored(node):
            return node
        new = node.restart(params)
        return new._replace(inner_state=_restarted(new.inner_state, params)) if hasattr(new, "inner_state") else new

    return jax.tree.map(restart, tree, is_leaf=_is_anchored)


def _is_anchored(node: Any) -> bool:
    return isinstance(node, Anchored)


def states_in(tree: Any) -> list[Any]:
    """All methods' states in a tree, those inside another's inner state apart."""
    return [node for node in jax.tree.leaves(tree, is_leaf=_is_anchored) if _is_anchored(node)]


def require_state_first(state: Any, params: Any, reader: str) -> None:
    """Raises TypeError for the order (params, state), which some readers had in version 0.1."""
    if not states_in(state) and states_in(params):
        raise TypeError(
            f"{reader}: the first argument holds no optimizer state, the second does; call {reader}(state, params)."
        )
