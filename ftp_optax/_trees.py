"""Trees as lists of leaves with paths. Masked leaves keep their places, and trees are matched by path.

Matching by path works where tree structures differ: NNX passes trees of Variables to `init` and trees of arrays to
`update`, and a plain nested dict of masks or strengths fits both.
"""

import collections
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _checks


class Leaves(NamedTuple):
    """A flattened tree: the leaves' paths, without the wrappers of Flax, the leaves, and the structure."""

    paths: tuple[str, ...]
    values: list[Any]
    treedef: Any

    def replaced(self, new: Mapping[int, Any]) -> Any:
        """The tree with some of its leaves replaced, by position."""
        return jax.tree.unflatten(self.treedef, [new.get(i, v) for i, v in enumerate(self.values)])

    def masked(self, new: Mapping[int, Any]) -> Any:
        """The tree with only these leaves, by position; `optax.MaskedNode` for all others and their wrappers."""
        tree = jax.tree.unflatten(self.treedef, [new.get(i, optax.MaskedNode()) for i in range(len(self.values))])
        return jax.tree.map(_emptied, tree, is_leaf=_is_masked_or_wrapper)


def is_masked(node: Any) -> bool:
    """Whether a node marks a masked leaf, of optax's masks and partitions or of ours."""
    return isinstance(node, optax.MaskedNode)


def _is_wrapper(node: Any) -> bool:
    """Whether a node is a wrapper of Flax around an array: an NNX Variable, or a linen box with axis names.

    This package does not import Flax. If there is a wrapper, the user has imported it.
    """
    kinds = (("flax.nnx", "Variable"), ("flax.core.meta", "AxisMetadata"))
    return isinstance(node, tuple(getattr(sys.modules.get(module), name, ()) for module, name in kinds))


def _is_masked_or_wrapper(node: Any) -> bool:
    return is_masked(node) or _is_wrapper(node)


def _emptied(node: Any) -> Any:
    """`optax.MaskedNode` instead of a wrapper around one: optax's masks leave no wrapper, and NNX expects none."""
    found = jax.tree_util.tree_leaves_with_path(node, is_leaf=is_masked) if _is_wrapper(node) else []
    match found:
        case [((_,), optax.MaskedNode() as masked)]:
            return masked
        case _:  # a wrapper of several arrays, each masked separately
            return node


def flatten(tree: Any) -> Leaves:
    """Flattens a tree and keeps `optax.MaskedNode` as a leaf, so that differently masked trees stay aligned.

    Raises:
      ValueError: if a dict's keys cannot be sorted, or two leaves have the same path.
    """
    try:
        values, treedef = jax.tree.flatten(tree, is_leaf=is_masked)
    except ValueError as error:
        raise ValueError(f"A tree has a dict with keys that cannot be sorted; give them one type. ({error})") from None
    paths = tuple(
        jax.tree_util.keystr((*path, *inner[1:]), simple=True, separator="/")  # without the key of a wrapper
        for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_masked_or_wrapper)
        for inner, _ in jax.tree_util.tree_leaves_with_path(node, is_leaf=is_masked)
    )
    shared = next((path for path, count in collections.Counter(paths).items() if count > 1), None)
    if shared is not None:
        raise ValueError(f"Two leaves of a tree have the path {shared!r}; rename one of them.")
    return Leaves(paths, values, treedef)


def require_same(tree: Leaves, params: Leaves, what: str) -> None:
    """Raises, naming the first different leaf, if a tree does not have the leaves of the params."""
    if tree.paths == params.paths:
        return
    missing = [p for p in params.paths if p not in set(tree.paths)]
    extra = [p for p in tree.paths if p not in set(params.paths)]
    odd = f"has no leaf {missing[0]!r}" if missing else f"has a leaf {extra[0]!r} that params lacks" if extra else ""
    raise ValueError(
        f"{what} {odd or 'has its leaves in another order'}: it must have the structure of params "
        f"({len(params.paths)} leaves, found {len(tree.paths)})."
    )


def require_shape(value: Any, param: Any, path: str, what: str) -> None:
    """Raises if a leaf does not have the shape of its parameter, or is masked."""
    if is_masked(value) or is_masked(param):
        raise ValueError(f"{what} and params must both have an array at {path!r}; one of them is masked there.")
    _checks.dtype_of(value, path, what)
    _checks.dtype_of(param, path, f"{what.partition(':')[0]}: params")
    if jnp.shape(value) != jnp.shape(param):
        raise ValueError(f"{what} has shape {jnp.shape(value)} at {path!r}, the parameter {jnp.shape(param)}.")


def require_like(tree: Any, params: Leaves, chosen: Iterable[int], what: str) -> Leaves:
    """The flattened tree. It must have the leaves of the params, and real arrays of their shapes at the chosen ones."""
    found = flatten(tree)
    require_same(found, params, what)
    for i in chosen:
        require_shape(found.values[i], params.values[i], params.paths[i], what)
        _checks.floating(found.values[i], params.paths[i], what)
    return found


def aligned(record: Leaves, params: Leaves, what: str) -> list[Any]:
    """A record's leaf for every leaf of the params. A masked subtree of the record counts for all leaves inside it.

    Raises:
      ValueError: if the record has other leaves, or one of another shape.
    """
    masked = [path for path, value in zip(record.paths, record.values, strict=True) if is_masked(value)]
    kept = [path for path in params.paths if path in record.paths or not any(inside(path, m) for m in masked)]
    own = [path for path in record.paths if path not in masked or path in params.paths]
    require_same(record._replace(paths=tuple(own)), params._replace(paths=tuple(kept)), what)
    entries = dict(zip(record.paths, record.values, strict=True))
    found = [entries.get(path, optax.MaskedNode()) for path in params.paths]
    for path, value, param in zip(params.paths, found, params.values, strict=True):
        if not is_masked(value):
            require_shape(value, param, path, what)
            _checks.floating(param, path, f"{what.partition(':')[0]}: the parameter")
    return found


def inside(path: str, subtree: str) -> bool:
    """Whether a leaf is at a path or below it."""
    return subtree in ("", path) or path.startswith(subtree + "/")


def prefixes(path: str) -> list[str]:
    """The subtrees that contain a leaf, from its own path to the whole tree, which has the empty path."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def spread(tree: Any, paths: Sequence[str], what: str) -> list[Any]:
    """A prefix tree's entry for each path: its own or that of its subtree.

    Raises:
      ValueError: if there is no entry for a path.
    """
    entries = dict(zip(*flatten(tree)[:2], strict=True))
    found = []
    for path in paths:
        prefix = next((p for p in prefixes(path) if p in entries), None)
        if prefix is None:
            raise ValueError(f"{what} has no entry for {path!r}; give one for it or for its subtree.")
        found.append(entries[prefix])
    return found
