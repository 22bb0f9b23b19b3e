"""The anchor: which leaves are constrained, the copy of their pre-trained values, and the checks of both.

`init` decides which leaves are constrained and records it in the state: an unconstrained leaf is an `optax.MaskedNode`
there. `update` reads the state, so a buffer always belongs to its leaf, also when a tree changes.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _checks, _layers, _trees, _units


def _is_bool(value: Any) -> bool:
    """Whether an entry of a mask is one boolean of Python, NumPy or JAX."""
    return isinstance(value, bool) or (getattr(value, "dtype", None) == jnp.bool_ and jnp.ndim(value) == 0)


def chosen_by(mask: Any, params: Any, leaves: _trees.Leaves, method: str) -> list[bool]:
    """Which leaves a mask constrains, as one boolean per leaf. False for leaves that are already masked.

    Raises:
      ValueError: if the mask does not fit the params or constrains nothing.
      TypeError: if an entry of the mask is not a boolean.
    """
    present = [not _trees.is_masked(v) for v in leaves.values]
    if mask is None or not any(present):  # optax.tree.map_params calls init without leaves
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


class Constraint(NamedTuple):
    """Which leaves a method constrains, and their anchor: the parts that all methods share.

    The arguments are those of the methods.
    """

    method: str  # the public function's name, for the messages
    unit_axes: _units.UnitAxes
    layer_axes: _units.LayerAxes
    mask: Any
    anchor: Any
    anchor_dtype: Any

    def checked(self) -> "Constraint":
        """Returns the constraint. Raises an error if a static argument is wrong."""
        _checks.rules(self.method, unit_axes=self.unit_axes)
        _checks.floating_dtypes(self.method, anchor_dtype=self.anchor_dtype)
        _units.require_layer_axes(self.layer_axes, self.method)
        return self

    def layers(self, params: Any, *, full_precision: bool = False) -> _layers.Layers:
        """Decides in `init` which leaves are constrained, and how each is split.

        Raises:
          ValueError: if the mask does not fit the params or constrains nothing.
          TypeError: if an entry of the mask is not a boolean, or a constrained leaf is not a real floating-point array.
        """
        leaves = _trees.flatten(params)
        chosen = chosen_by(self.mask, params, leaves, self.method)
        for path, value, here in zip(leaves.paths, leaves.values, chosen, strict=True):
            if here:
                _checks.trainable(value, path, self.method, full_precision)
        return self._split(leaves, chosen)

    def copy(self, layers: _layers.Layers) -> Any:
        """A copy of the anchor for the state, `optax.MaskedNode` at unconstrained leaves.

        It is always a copy, because a step cannot donate two trees that share buffers.

        Raises:
          ValueError: if the anchor has another structure or shape.
          TypeError: if it has another dtype and `anchor_dtype` is None.
        """
        leaves, what = layers.leaves, f"{self.method}: the anchor"
        source = leaves if self.anchor is None else _trees.require_like(self.anchor, leaves, layers.layouts, what)
        copies = {}
        for i in layers.layouts:
            value, dtype = source.values[i], jnp.result_type(leaves.values[i])
            if self.anchor_dtype is None and jnp.result_type(value) != dtype:
                raise TypeError(
                    f"{what}'s leaf {leaves.paths[i]!r} is {jnp.result_type(value)}, the parameter {dtype}; convert it "
                    "or say which to store with anchor_dtype=."
                )
            copies[i] = jnp.array(value, dtype=self.anchor_dtype or dtype, copy=True)
        return leaves.masked(copies)

    def zeros(self, layers: _layers.Layers) -> Any:
        """Zeros like the constrained leaves, in at least float32, `optax.MaskedNode` at the others."""
        values = layers.leaves.values
        return layers.leaves.masked(
            {i: jnp.zeros_like(values[i], dtype=_units.wide_dtype(values[i])) for i in layers.layouts}
        )

    def recall(self, recorded: Any, params: Any, updates: Any) -> _layers.Layers:
        """Reads in `update`, from a tree of the state, the decisions of `init`.

        Raises:
          ValueError: if params are missing or the trees do not fit each other.
        """
        method = self.method
        if params is None:
            raise ValueError(f"{method}: update needs the current parameters: call tx.update(grads, state, params).")
        leaves, record = _trees.flatten(params), _trees.flatten(recorded)
        _trees.require_same(record, leaves, f"{method}: the state")
        chosen = [not _trees.is_masked(value) for value in record.values]
        own = [i for i, here in enumerate(chosen) if here]
        gradients = _trees.require_like(updates, leaves, own, f"{method}: the gradient")
        for i in own:
            _trees.require_shape(record.values[i], leaves.values[i], leaves.paths[i], f"{method}: the state")
            _checks.floating(leaves.values[i], leaves.paths[i], f"{method}: the parameter")
        return self._split(leaves, chosen, gradients, record)

    def _split(self, leaves: _trees.Leaves, chosen: list[bool], *others: _trees.Leaves) -> _layers.Layers:
        rows = zip(leaves.paths, leaves.values, chosen, strict=True)
        layouts = {
            i: _units.resolve(path, jnp.shape(value), self.unit_axes, self.layer_axes)
            for i, (path, value, here) in enumerate(rows)
            if here
        }
        return _layers.Layers(leaves, layouts, *others)


def refresh(tree: Any, params: Any) -> Any:
    """A copy of the params with the structure, the dtypes and the mask of an anchor."""
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
    """A method's state that can restart at other parameters."""

    def restart(self, params: Any) -> Any:
        """The state that `init` would make at the params, with the base optimizer's state unchanged."""
        ...


def reanchor(state: Any, params: optax.Params) -> Any:
    """Makes the current parameters the anchor and resets the radii or strengths.

    Use it for continual learning: the methods then constrain the next task to the result of this one. It finds every
    method's state in `state`, inside any chain or wrapper. It keeps the base optimizer's state; to reset that too, call
    ``tx.init``. The new state shares these buffers with the old one, so do not use the old one again.

    Args:
      state: the optimizer state, or any pytree that holds it.
      params: the parameters to anchor at, of the structure that `init` was given.

    Returns:
      A state of the same structure, shapes and dtypes. The params are copied, so both can be donated.

    Raises:
      TypeError: if state and params are swapped.
      ValueError: if no method's state is found, or if the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import drift, ftp, reanchor
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> tx = ftp(optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update({"kernel": jnp.ones((2, 3))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> drift(state, params)["kernel"] > 0
      True
      >>> state = reanchor(state, params)
      >>> drift(state, params)
      {'kernel': 0.0}

    References:
      Tian et al., `Fast Trainable Projection <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023. Its continual-learning
      experiments anchor each task at the result of the last one.
    """
    require_state_first(state, params, "reanchor")
    if not states_in(state):
        raise ValueError(
            "reanchor: the state holds no anchored method's state (ftp or digrap); pass the optimizer state."
        )
    return _restarted(state, params)


def _restarted(tree: Any, params: Any) -> Any:
    """The tree with every method's state restarted, including those inside another's inner state."""

    def restart(node: Any) -> Any:
        if not _is_anchored(node):
            return node
        new = node.restart(params)
        return new._replace(inner_state=_restarted(new.inner_state, params)) if hasattr(new, "inner_state") else new

    return jax.tree.map(restart, tree, is_leaf=_is_anchored)


def _is_anchored(node: Any) -> bool:
    return isinstance(node, Anchored)


def states_in(tree: Any, field: str | None = None) -> list[Any]:
    """The outermost methods' states in a tree; with a field, the outermost states that have it."""
    wanted = lambda node: _is_anchored(node) and (field is None or getattr(node, field, None) is not None)
    return [node for node in jax.tree.leaves(tree, is_leaf=wanted) if wanted(node)]


def require_state_first(state: Any, params: Any, reader: str) -> None:
    """Raises TypeError for the order (params, state), which some functions had in version 0.1."""
    if not states_in(state) and states_in(params):
        raise TypeError(
            f"{reader}: the first argument holds no optimizer state, the second does; call {reader}(state, params)."
        )
