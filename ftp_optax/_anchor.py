"""The anchor: which leaves are constrained, the copy of their pre-trained values, and the checks of what users pass.

Which leaves are constrained is decided once, in `init`, and recorded in the state itself: an unconstrained leaf is an
`optax.MaskedNode` there. `update` reads it from the state, so no positional buffer can slip when a tree changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _units


class Leaves(NamedTuple):
    """A flattened tree: paths without NNX's trailing ``/value``, leaves, and the structure to rebuild it."""

    paths: tuple[str, ...]
    values: list[Any]
    treedef: Any

    def replaced(self, new: Mapping[int, Any]) -> Any:
        """The tree with some of its leaves replaced, by position."""
        return jax.tree.unflatten(self.treedef, [new.get(i, v) for i, v in enumerate(self.values)])

    def masked(self, new: Mapping[int, Any]) -> Any:
        """The tree with some of its leaves replaced, by position, and no other leaf."""
        return jax.tree.unflatten(self.treedef, [new.get(i, optax.MaskedNode()) for i in range(len(self.values))])


def is_masked(node: Any) -> bool:
    """Whether a node stands for a leaf that is not there (optax's masks, partitions and ours)."""
    return isinstance(node, optax.MaskedNode)


def flatten(tree: Any) -> Leaves:
    """Flattens a tree with `optax.MaskedNode` kept in its place, so that trees masked differently stay aligned."""
    found, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)
    paths = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found)
    return Leaves(tuple(p.removesuffix("/value") for p in paths), [leaf for _, leaf in found], treedef)


def require_same(tree: Leaves, params: Leaves, what: str) -> None:
    """Raises, naming the first odd leaf, if a tree does not have the leaves of the params."""
    if tree.paths == params.paths:
        return
    missing = [p for p in params.paths if p not in set(tree.paths)]
    extra = [p for p in tree.paths if p not in set(params.paths)]
    odd = f"has no leaf {missing[0]!r}" if missing else f"has a leaf {extra[0]!r} that params lacks" if extra else ""
    raise ValueError(
        f"{what} {odd or 'has its leaves in another order'}: it must have the structure of params "
        f"({len(params.paths)} leaves, found {len(tree.paths)})."
    )


def spread(tree: Any, paths: Sequence[str], what: str) -> list[Any]:
    """A prefix tree's entry for each path: its own or that of the subtree it is in.

    Matched by path, not by tree structure: a plain nested dict then fits the State of an NNX model too.

    Args:
      tree: a tree or prefix tree of the params, or one value for all of them.
      paths: the paths to find entries for.
      what: the tree's name, for the message.

    Returns:
      The entries, in the order of the paths.

    Raises:
      ValueError: if there is no entry for a path.
    """
    entries = dict(zip(*flatten(tree)[:2], strict=True))
    found = []
    for path in paths:
        parts = path.split("/")
        prefixes = (p for p in ("/".join(parts[:n]) for n in range(len(parts), -1, -1)) if p in entries)
        prefix = next(prefixes, None)
        if prefix is None:
            raise ValueError(f"{what} has no entry for {path!r}; give one for it or for its subtree.")
        found.append(entries[prefix])
    return found


def _chosen(mask: Any, params: Any, leaves: Leaves, method: str) -> list[bool]:
    """Which leaves the mask constrains, one boolean a leaf; False for those that are masked already."""
    present = [not is_masked(v) for v in leaves.values]
    if mask is None or not any(present):  # optax.tree.map_params calls init with a tree without leaves
        return present
    tree = mask(params) if callable(mask) else mask
    entries = flatten(tree)
    for path, value in zip(entries.paths, entries.values, strict=True):
        if not is_masked(value) and getattr(value, "dtype", type(value)) not in (bool,):
            raise TypeError(f"{method}: the mask's entry at {path!r} is {value!r}; it must be True or False.")
        if path and not any(p == path or p.startswith(path + "/") for p in leaves.paths):
            raise ValueError(
                f"{method}: the mask has an entry {path!r}, which params lacks; it has {leaves.paths[:8]}."
            )
    there = [path for path, here in zip(leaves.paths, present, strict=True) if here]
    choices = iter(spread(tree, there, f"{method}: the mask"))
    chosen = [here and not is_masked(choice := next(choices)) and bool(choice) for here in present]
    if not any(chosen):
        raise ValueError(
            f"{method}: the mask constrains none of the {len(chosen)} leaves, so this would be plain fine-tuning. "
            f"Check its names against the paths: {leaves.paths[:8]}."
        )
    return chosen


def constrain(
    params: Any, mask: Any, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes, method: str
) -> tuple[Leaves, dict[int, _units.Layout]]:
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
    leaves = flatten(params)
    chosen = _chosen(mask, params, leaves, method)
    for path, value, here in zip(leaves.paths, leaves.values, chosen, strict=True):
        if here and not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(
                f"{method}: the leaf {path!r} has dtype {jnp.result_type(value)}; only real floating-point leaves can "
                "be constrained. Leave it out with mask=."
            )
    return leaves, _units.resolve_all(leaves.paths, leaves.values, chosen, unit_axes, layer_axes)


def recall(
    recorded: Any, params: Any, updates: Any, unit_axes: _units.UnitAxes, layer_axes: _units.LayerAxes, method: str
) -> tuple[Leaves, Leaves, list[Any], dict[int, _units.Layout]]:
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
    leaves, gradients, record = flatten(params), flatten(updates), flatten(recorded)
    require_same(gradients, leaves, f"{method}: the gradient")
    require_same(record, leaves, f"{method}: the state")
    chosen = [not is_masked(value) for value in record.values]
    layouts = _units.resolve_all(leaves.paths, leaves.values, chosen, unit_axes, layer_axes)
    for i in layouts:
        if not jnp.shape(leaves.values[i]) == jnp.shape(gradients.values[i]) == jnp.shape(record.values[i]):
            raise ValueError(
                f"{method}: {leaves.paths[i]!r} has shape {jnp.shape(leaves.values[i])} in params, "
                f"{jnp.shape(gradients.values[i])} in the gradient and {jnp.shape(record.values[i])} in the state."
            )
    return leaves, gradients, record.values, layouts


def wide_dtype(leaf: Any) -> Any:
    """The dtype of what is kept of a leaf: its own, but at least float32."""
    return jnp.promote_types(jnp.result_type(leaf), jnp.float32)


def wide_zeros(leaves: Leaves, layouts: Mapping[int, Any]) -> Any:
    """A params-shaped tree of zeros in `wide_dtype`, `optax.MaskedNode` at unconstrained leaves."""
    return leaves.masked({i: jnp.zeros_like(leaves.values[i], dtype=wide_dtype(leaves.values[i])) for i in layouts})


def make_anchor(anchor: Any, leaves: Leaves, layouts: Mapping[int, Any], dtype: Any, method: str) -> Any:
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
    source = leaves if anchor is None else flatten(anchor)
    require_same(source, leaves, f"{method}: the anchor")
    copies = {}
    for i in layouts:
        path, value, param = leaves.paths[i], source.values[i], leaves.values[i]
        if jnp.shape(value) != jnp.shape(param):
            raise ValueError(
                f"{method}: the anchor's leaf {path!r} has shape {jnp.shape(value)}, the parameter {jnp.shape(param)}."
            )
        if dtype is None and jnp.result_type(value) != jnp.result_type(param):
            raise TypeError(
                f"{method}: the anchor's leaf {path!r} is {jnp.result_type(value)}, the parameter "
                f"{jnp.result_type(param)}; convert it or say which to store with anchor_dtype=."
            )
        copies[i] = jnp.array(value, dtype=dtype or jnp.result_type(param), copy=True)
    return leaves.masked(copies)


def refresh(tree: Any, params: Any) -> Any:
    """A copy of the params in the structure, dtypes and masking of an anchor."""
    old, new = flatten(tree), flatten(params)
    require_same(new, old, "reanchor: params")
    pairs = enumerate(zip(old.values, new.values, strict=True))
    return old.replaced({i: jnp.array(n, dtype=o.dtype, copy=True) for i, (o, n) in pairs if not is_masked(o)})


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
    ``tx.init`` to drop it too).

    Args:
      state: the optimizer state, or any pytree that holds it.
      params: the parameters to anchor at, of the structure that `init` was given.

    Returns:
      A state of the same structure, shapes and dtypes. The params are copied, so that both can be donated.

    Raises:
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
    found = [s for s in jax.tree.leaves(state, is_leaf=_is_anchored) if _is_anchored(s)]
    if not found:
        raise ValueError(
            "reanchor: the state holds no anchored method's state (ftp or digrap); pass the optimizer state."
        )
    return jax.tree.map(lambda s: s.restart(params) if _is_anchored(s) else s, state, is_leaf=_is_anchored)


def _is_anchored(node: Any) -> bool:
    return isinstance(node, Anchored)
