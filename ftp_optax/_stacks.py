"""Small arrays of one shape as the layers of one array, so that what is computed of them is one program and not many.

Compiling a step takes time for every operation, whatever the size of its arrays. Most of a leaf's operations are on its
unit norms, a thousandth of its elements, and most leaves are vectors, a thousandth of the parameters. Every layer of a
leaf has learned scalars of its own, so that stacked they compute what they would compute alone.

Tracing and compiling over adamw's, 600 leaves: `ftp` 3.1 to 3.8, without 4.8; `digrap` 4.0 to 4.8, without 6.0.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ftp_optax import _hyper, _one_pass, _units

_MOST = 16  # leaves: XLA counts a whole stack as read wherever one of its arrays is
_LARGEST = 2**13  # elements; copying larger arrays would cost more than it saves


class Stacks(NamedTuple):
    """Which leaves are stacked together; one that is like no other stays as it is.

    Attributes:
      members: the leaves of each stack, by number.
      layouts: how each stack is split: the leaves are its first layer axis, their own layers follow.
      places: where the scalars of each stack lie in the one array of all learned scalars.
    """

    members: list[list[int]]
    layouts: list[_units.Layout]
    places: list[np.ndarray]

    def of(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        """The stacks of the leaves' arrays."""
        return [jnp.stack([arrays[i] for i in own]) if len(own) > 1 else arrays[own[0]] for own in self.members]

    def apart(self, stacks: Sequence[jax.Array]) -> list[jax.Array]:
        """The leaves' arrays, looked up for the reason that `_hyper.look_up` gives."""
        found = {}
        for own, stack in zip(self.members, stacks, strict=True):
            for k, leaf in enumerate(own):
                two = np.array([k, (k + 1) % len(own)])
                found[leaf] = jnp.take(stack, two, axis=0, mode="clip")[0] if len(own) > 1 else stack
        return [found[leaf] for leaf in range(len(found))]

    def split(self, scalars: jax.Array) -> list[jax.Array]:
        """Cuts the one array of all learned scalars into the stacks' own."""
        return _hyper.look_up(scalars, self.places)

    def join(self, parts: Sequence[jax.Array], like: jax.Array) -> jax.Array:
        """Joins the stacks' own scalars into one array of the shape and dtype of `like`."""
        order = np.concatenate([np.zeros(0, int), *self.places])
        joined = _hyper.stack(parts, like)
        return joined if np.array_equal(order, np.arange(order.size)) else joined[np.argsort(order)]


def vectors(layouts: Sequence[_units.Layout], *arrays: Sequence[jax.Array]) -> Stacks:
    """Stacks vectors that are alike in all their arrays: parameter, gradient, anchor."""
    places = _hyper.places([layout.scalars for layout in layouts])
    return _grouped(layouts, places, arrays, lambda array: array.ndim <= 1)


def units(leaves: Stacks, sums: Sequence[jax.Array]) -> Stacks:
    """Stacks leaves, or stacks of them, whose units are alike."""
    return _grouped(leaves.layouts, leaves.places, [sums], lambda array: True)


def _grouped(
    layouts: Sequence[_units.Layout],
    places: Sequence[np.ndarray],
    arrays: Sequence[Sequence[jax.Array]],
    chosen: Callable[[jax.Array], bool],
) -> Stacks:
    """Stacks small chosen leaves of one layout, shape and dtypes.

    None on a mesh, which may place them differently; none outside of jit, where every stack's size would be compiled.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, (layout, *own) in enumerate(zip(layouts, *arrays, strict=True)):
        small = all(array.size <= _LARGEST and chosen(array) for array in own)
        free = all(isinstance(array, Tracer) and not _one_pass.on_a_mesh(array) for array in own)
        kind = (layout, *((array.shape, array.dtype) for array in own))
        groups.setdefault(kind if small and free else i, []).append(i)
    members = [group[k : k + _MOST] for group in groups.values() for k in range(0, len(group), _MOST)]
    return Stacks(
        members,
        [_stacked(layouts[own[0]], len(own)) for own in members],
        [np.concatenate([places[i] for i in own]) for own in members],
    )


def _stacked(layout: _units.Layout, leaves: int) -> _units.Layout:
    """The layout of that many leaves as one."""
    if leaves == 1:
        return layout
    return _units.Layout((leaves, *layout.layers), (0, *(axis + 1 for axis in layout.axes)))
