"""Several sums over the same axes in one pass over memory, where XLA on CPU makes a pass for each.

XLA on CPU fuses no two results into one loop, so two sums that read one array read it twice. A `jax.lax.reduce` of
several operands is one loop with several results. Over a whole axis it would be slow, since the numbers of a column lie
far apart, and inexact, since it adds one number after the other. So an axis is cut into at most 24 rows; their sum is a
loop that the compiler unrolls, and vectorises along what is left. That is small: summed in one loop again if it is a
hundred numbers, and as usual if it is more.

Bytes accessed round adamw, over adamw's: `ftp` 1.83, with plain sums 1.91; `chain(digrap(), adamw)` 1.95, 2.20.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

T = TypeVar("T")

_MOST_ROWS = 24  # with 32 the compiler leaves a loop
_MOST_LEFT = 128  # numbers that one loop of several results adds up, not vectorised, where plain sums are a loop each
_FEWEST_ROWS = 12  # what is left, written and read once more, is at most a twelfth


class Sums(Protocol):
    """Sums several arrays of one shape and dtype over the same axes, which stay with size 1."""

    def __call__(
        self, arrays: Sequence[jax.Array], axes: tuple[int, ...], after: jax.Array
    ) -> tuple[jax.Array, ...]: ...


def in_turn(
    piece: Callable[..., T], layouts: Sequence[Any], leaves: Iterable[Sequence[jax.Array]], after: jax.Array
) -> list[T]:
    """``piece(*leaf, after, layout=layout, sums=sums)`` of every leaf in turn, with the sums that suit where it runs.

    `cut` on CPU, elsewhere `plain`: accelerators' compilers fuse several results by themselves (it has not been
    measured on one). Chosen once for all leaves: a choice is two conditionals, and with two for each leaf compiling
    took a tenth longer.

    Args:
      piece: what to compute of a leaf.
      layouts: how each leaf is split.
      leaves: the arrays of each leaf.
      after: what the first leaf waits for; each other one waits for the last result of the one before.

    Returns:
      The results of each leaf.
    """

    def compute(sums: Sums, leaves: Sequence[Sequence[jax.Array]], after: jax.Array) -> list[T]:
        found: list[T] = []
        for layout, leaf in zip(layouts, leaves, strict=True):
            found.append(piece(*leaf, _number(after), layout=layout, sums=sums))
            after = jax.tree.leaves(found[-1])[-1]
        return found

    sums: dict[str, Sums] = {"cpu": cut, "default": plain}
    computes = {name: functools.partial(compute, by) for name, by in sums.items()}
    return lax.platform_dependent([tuple(leaf) for leaf in leaves], after, **computes)


def on_a_mesh(array: jax.Array) -> bool:
    """Whether the array may be cut already, by a mesh of devices."""
    return not jax.typeof(array).sharding.mesh.empty


def _number(array: jax.Array) -> jax.Array:
    """The array's first number, for a leaf's program must not depend on its neighbour's shape.

    0 if it has none, or lies on a mesh, where nothing waits and the first number is not everywhere.
    """
    return jnp.zeros((), array.dtype) if on_a_mesh(array) or not array.size else array.ravel()[0]


def plain(arrays: Sequence[jax.Array], axes: tuple[int, ...], after: jax.Array) -> tuple[jax.Array, ...]:
    """One sum after the other; they wait for nothing."""
    del after
    return tuple(jnp.sum(array, axis=axes, keepdims=True) for array in arrays)


def cut(arrays: Sequence[jax.Array], axes: tuple[int, ...], after: jax.Array) -> tuple[jax.Array, ...]:
    """All sums in one pass, where an axis can be cut into rows and is not cut already, by a mesh.

    Args:
      arrays: the arrays.
      axes: the axes to sum over.
      after: a number that a sum over the leaf before gave. The pass waits for it, so that what is left of the rows is
        in memory for one leaf at a time; nothing of its value gets into the sums.

    Returns:
      The sums.
    """
    rows = {axis: _rows(arrays[0].shape[axis]) for axis in axes}
    axis = max(rows, key=lambda axis: rows[axis], default=0)
    if not rows.get(axis) or any(on_a_mesh(array) for array in arrays):
        return plain(arrays, axes, after)
    arrays = _sums_of_rows(arrays, axis, rows[axis], after)
    left = math.prod(arrays[0].shape[axis] for axis in axes)
    return _sums(arrays, axes, keepdims=True) if left <= _MOST_LEFT else plain(arrays, axes, after)


def _rows(size: int) -> int:
    """The most rows that an axis of that size can be cut into, 0 if it cannot be cut."""
    return max((n for n in range(_FEWEST_ROWS, _MOST_ROWS + 1) if size and size % n == 0), default=0)


def _sums_of_rows(arrays: Sequence[jax.Array], axis: int, rows: int, after: jax.Array) -> tuple[jax.Array, ...]:
    """Cuts an axis into rows and adds them up, all arrays in one loop."""
    shape = arrays[0].shape
    parts = [array.reshape(*shape[:axis], rows, shape[axis] // rows, *shape[axis + 1 :]) for array in arrays]
    # never true, which XLA cannot know; in the operands, since `jax.vmap` takes no start that differs by example
    parts[0] = jnp.where(jnp.abs(after) < -1, 0, parts[0])
    return _sums(parts, (axis,))


def _sums(arrays: Sequence[jax.Array], axes: tuple[int, ...], keepdims: bool = False) -> tuple[jax.Array, ...]:
    """All sums in one loop."""
    zeros = [jnp.zeros((), array.dtype) for array in arrays]
    add = lambda some, more: [a + b for a, b in zip(some, more, strict=True)]
    found = lax.reduce(list(arrays), zeros, add, axes)
    return tuple(jnp.expand_dims(total, axes) for total in found) if keepdims else tuple(found)
