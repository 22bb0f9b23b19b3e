"""Random parameter trees for properties: any nesting, holes, masked subtrees, and every kind of leaf.

Each example is another tree, but its leaves come from a few kinds, so that operations run eagerly are compiled once
for each kind and not once for each example.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


class Kind(NamedTuple):
    """A leaf to be drawn: the names that end its path, and its shape."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


# 0-D to 5-D, with axes of size 0 and 1, a unit rule of each sort, and layers stacked on a leading axis.
KINDS = (
    Kind(("scale",), ()),
    Kind(("bias",), (1,)),
    Kind(("bias",), (3,)),
    Kind(("bias",), (0,)),
    Kind(("kernel",), (2, 3)),
    Kind(("kernel",), (0, 3)),
    Kind(("embedding",), (3, 2)),
    Kind(("query", "kernel"), (2, 2, 3)),
    Kind(("kernel",), (2, 1, 2, 3)),
    Kind(("kernel",), (2, 1, 2, 1, 2)),
    Kind(("layers", "kernel"), (2, 2, 3)),
    Kind(("layers", "bias"), (2, 3)),
)

# Found again at every run, so that a red CI can be repeated; more of them, and new ones, with FTP_OPTAX_EXAMPLES=1000.
_MORE = os.environ.get("FTP_OPTAX_EXAMPLES")
# As many as docs/reliability.md says where its command counts them.
EXAMPLES = int(_MORE or (200 if "FTP_OPTAX_COUNTS" in os.environ else 60))
examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=_MORE is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def is_kind(node: Any) -> bool:
    return isinstance(node, Kind)


def layer_axes(path: str, shape: tuple[int, ...]) -> int:
    """Leaves below ``layers`` have their layers stacked on the first axis."""
    del shape
    return int("layers" in path.split("/"))


def _named(kind: Kind) -> Any:
    """The kind below its names."""
    node: Any = kind
    for name in reversed(kind.names):
        node = {name: node}
    return node


_leaves = st.one_of(
    st.sampled_from(KINDS).map(_named),
    st.sampled_from(KINDS).map(_named),
    st.sampled_from(KINDS).map(_named),
    st.sampled_from([None, optax.MaskedNode()]),
)
_nested = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2),
        st.tuples(inner, inner),
    ),
    max_leaves=2,  # few at a time: the one array of radii compiles anew for every combination of sizes
)
# a dict at the root, with one leaf at least
trees = st.tuples(st.sampled_from(KINDS).map(_named), _nested).map(lambda pair: {"z": pair[0], "a": pair[1]})
seeds = st.integers(0, 2**16)


def draw(tree: Any, seed: Any, dtype: Any = jnp.float32, scale: float = 1.0) -> Any:
    """The tree with normal arrays for its kinds."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda k: jnp.asarray(scale * rng.normal(size=k.shape), dtype), tree, is_leaf=is_kind)


def random_mask(tree: Any, seed: int) -> Any:
    """True for some of the kinds, one of them at least."""
    rng = np.random.default_rng(seed)
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_kind)
    chosen = rng.random(len(leaves)) < 0.6
    chosen[rng.integers(len(leaves))] = True
    return jax.tree.unflatten(structure, [bool(c) for c in chosen])


def walk(tx: Any, tree: Any, seed: Any, steps: int = 3, dtype: Any = jnp.float32, scale: float = 1.0) -> Any:
    """Eager steps on random gradients: yields the gradients, and what they led to."""
    params = draw(tree, seed, dtype)
    state = tx.init(params)
    for step in range(steps):
        grads = draw(tree, (seed, step), dtype, scale)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yield grads, params, state
