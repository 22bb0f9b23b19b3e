"""The constrained layers of a tree as one object, and all arithmetic across leaves, units and layers.

A method computes with three forms of numbers:

- *leaves*: a list with one array for each constrained leaf (`Layers.of`, `Layers.into`);
- *units*: a list with one array for each group of similar leaves. It has one number for each unit, such as its norm
  (`Layers.unit_sums`, `Layers.spread`);
- *scalars*: one array ``(n,)`` with one number for each layer of each leaf (`Layers.split`, `Layers.join`).

This module has all optimizations of a step (docs/performance.md has the measurements):

- **Similar leaves are one group.** Their units are then computed by one program. Small vectors are stacked before they
  are summed.
- **A GPU sums in two stages.** One sum per column of a matrix would occupy too few blocks. So the summed axis is cut
  into rows. The first stage sums each row, the second sums these sums for a whole group. Barriers prevent that XLA
  fuses the stages again or recomputes the sums where they are used. Two sums of the same arrays are the parts of a
  complex number, and all pairs are stacked, so one kernel reads the arrays once.
- **A CPU sums in one loop.** XLA does not fuse two results into one loop on a CPU, so each sum would read the arrays
  again. A reduction of several operands adds 24 rows at once, and the compiler unrolls it. Each leaf waits for the one
  before, so the partial sums of only one leaf are in memory.
- **New state reuses the memory of the old state** (`Layers.after`).
- **Scalars are looked up, not sliced.** XLA fuses a slice into every loop that reads it, with its offset as a constant.
  Two leaves could then not share a loop.
- **On a mesh arrays stay where they are.** They are already sharded, so there are no groups and no stages. All scalars
  are one array, so devices reduce all of them at once. Outside jit there are no groups either, because every size of a
  group would compile.
"""

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from ftp_optax import _trees, _units

Leaves: TypeAlias = list[Any]
Units: TypeAlias = list[jax.Array]
Products: TypeAlias = Callable[..., tuple[jax.Array, ...]]

_SMALL = 2**13  # elements of a vector; to stack larger ones costs more than it saves
_MOST_UNITS = 2**14  # of a group; XLA counts the whole group as read where one leaf is read
_BLOCKS, _COLUMNS = 512, 32  # enough blocks to occupy a GPU, and the sums per block
_FEWEST_ROWS, _MOST_ROWS = 12, 24  # on a CPU; fewer write too many partial sums, more are not unrolled
_MOST_LEFT = 128  # summands of a loop with several results; unlike plain sums it is not vectorised


class Cut(NamedTuple):
    """A leaf as three axes. The middle one is summed over."""

    before: int
    summed: int
    after: int

    @property
    def small(self) -> bool:
        """Whether such leaves are stacked before they are summed: vectors, which are cheap to copy."""
        return self.after == 1 and math.prod(self) <= _SMALL

    @property
    def rows(self) -> int:
        """The number of rows of the summed axis on a GPU."""
        least = -(-_BLOCKS // (self.before * -(-self.after // _COLUMNS)))
        return 1 if self.small else next((n for n in range(least, self.summed) if self.summed % n == 0), 1)


def _cut(shape: tuple[int, ...], layout: _units.Layout, arrays: Sequence[Any]) -> Cut | None:
    """How a leaf is cut. None if it is on a mesh, outside jit or empty, or if its units do not give three axes."""
    free = all(isinstance(array, Tracer) and not on_a_mesh(array) for array in arrays)
    summed = layout.summed(len(shape)) or (len(shape),)
    first, last = summed[0], summed[-1] + 1
    if not free or not math.prod(shape) or last - first != len(summed):
        return None
    return Cut(math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))


class Group(NamedTuple):
    """Similar leaves, with their units in one array ``(layers, units)``; or one leaf, with its axes kept."""

    members: tuple[int, ...]  # the numbers of the leaves
    cuts: tuple[Cut, ...]  # of each leaf; empty for one leaf with its axes
    places: np.ndarray  # the positions of the scalars of all their layers
    layers: tuple[int, ...]  # the leading axes of the units
    ndim: int  # the number of axes of the units
    dtype: Any  # of the units


class Layers:
    """The constrained leaves of a tree, each split into layers and units. Static under jit.

    Attributes:
      leaves: the flattened tree.
      layouts: how each constrained leaf is split, by its position in the tree.
      counts: the number of layers of each constrained leaf.
      dtype: of scalars: float32, or float64 if one of the leaves is.
      groups: the groups of similar leaves.
    """

    def __init__(self, leaves: _trees.Leaves, layouts: Mapping[int, _units.Layout], *others: _trees.Leaves):
        """The layers of a tree. `others` are used with it, so similar leaves are also similar in them."""
        self.leaves, self.layouts = leaves, layouts
        self.counts = [layout.scalars for layout in layouts.values()]
        self._split = [*layouts.values()]
        self._shapes = [jnp.shape(leaves.values[i]) for i in layouts]
        dtypes = [_units.wide_dtype(leaves.values[i]) for i in layouts]
        self.dtype = max([jnp.dtype(jnp.float32), *dtypes], key=lambda dtype: dtype.itemsize)

        ends, cuts, alike = np.cumsum([0, *self.counts]), [], {}
        for k, (i, layout) in enumerate(layouts.items()):
            arrays = [tree.values[i] for tree in (leaves, *others)]
            cuts.append(cut := _cut(self._shapes[k], layout, arrays))
            alike.setdefault(_kind(cut, layout, arrays) if cut else k, []).append(k)
        self.groups = []
        for members in (portion for kind in alike.values() for portion in _portions(kind, cuts)):
            places = np.concatenate([np.arange(*ends[k : k + 2]) for k in members])
            own = tuple(cuts[k] for k in members if cuts[k])
            layers, ndim = self._split[members[0]].layers, len(self._shapes[members[0]])
            layers, ndim = ((places.size,), 2) if own else (layers, ndim)
            self.groups.append(Group((*members,), own, places, layers, ndim, dtypes[members[0]]))

    # leaves

    def of(self, tree: Any, given: str = "") -> Leaves:
        """The constrained leaves of a tree like the params, or Nones. `given` is the name of a tree to check."""
        if given:
            _trees.require_like(tree, self.leaves, self.layouts, given)
        values = None if tree is None else _trees.flatten(tree).values
        return [None if values is None else jnp.asarray(values[i]) for i in self.layouts]

    def into(self, tree: Any, arrays: Sequence[Any]) -> Any:
        """The tree with new constrained leaves."""
        return _trees.flatten(tree).replaced(dict(zip(self.layouts, arrays, strict=True)))

    def map(self, function: Callable[..., Any], *forms: Sequence[Any]) -> list[Any]:
        """Applies a function to each leaf, or to each group's units. It is traced once per shape."""
        function = jax.jit(function)
        return [function(*own) for own in zip(*forms, strict=True)]

    def after(self, scalars: jax.Array, arrays: Leaves) -> Leaves:
        """The arrays, computed once and only after the scalars: divided by a 1 that XLA does not know.

        The new state takes the memory of the old state. It must therefore wait for all reads of the old state;
        otherwise XLA copies both. One value is enough for all leaves, and on a mesh it is reduced anyway. A division
        is so expensive that XLA keeps its result instead of recomputing it at every use.
        """
        never = jnp.any(scalars == jnp.inf)
        return self.map(_divided_by_one, arrays, [never] * len(arrays))

    # units

    def unit_sums(self, products: Products, *leaves: Leaves, apart: bool = False) -> tuple[Units, ...]:
        """Applies a function to the arrays of each leaf, such as ``g c`` and ``|c|``, and sums over each unit.

        With `apart` a GPU reads the arrays again. Use it if the kernel that computes them already has several results,
        because sums would make it slower.
        """
        rows = [*zip(*leaves, strict=True)]
        groups = [group for group in self.groups if group.cuts]
        stages = functools.partial(_sums_in_stages, apart)
        passes = {"cpu": _sums_in_one_loop, "cuda": stages, "rocm": stages, "default": _sums_one_by_one}
        passes = {name: functools.partial(sums, products, groups) for name, sums in passes.items()}
        of_groups = [[rows[k] for k in group.members] for group in groups]
        # one choice of the platform for all groups: two conditionals for each take a tenth longer to compile
        found = iter(lax.platform_dependent(of_groups, **passes) if groups else ())
        alone = lambda k: _plain_sums(products, self._split[k].summed(len(self._shapes[k])), *rows[k])
        sums = [next(found) if group.cuts else alone(group.members[0]) for group in self.groups]
        count = len(sums[0] if sums else jax.eval_shape(products, *(0.0 for _ in leaves)))
        return tuple([own[n] for own in sums] for n in range(count))

    def spread(self, units: Units) -> Leaves:
        """Each leaf's units, or its layers' scalars, shaped to broadcast against the leaf."""
        found: dict[int, jax.Array] = {}
        for group, array in zip(self.groups, units, strict=True):
            if not group.cuts:
                found[group.members[0]] = array
                continue
            end = 0
            for k in group.members:
                start, end, layout = end, end + self.counts[k], self._split[k]
                kept = layout.axes if array.shape[1] > 1 else range(len(layout.layers))
                shape = [n if axis in kept else 1 for axis, n in enumerate(self._shapes[k])]
                found[k] = _look_up(array, np.arange(start, end)).reshape(shape)
        return [found[k] for k in range(len(found))]

    # scalars

    def split(self, scalars: jax.Array) -> Units:
        """Each layer's scalar, shaped to broadcast against its units."""
        if sum(self.counts) != scalars.shape[0]:
            raise ValueError(
                f"The state has {scalars.shape[0]} learned scalars, its leaves have {sum(self.counts)} layers: it was "
                "made with another layer_axes."
            )
        fit = lambda group: (*group.layers, *[1] * (group.ndim - len(group.layers)))
        return [_look_up(scalars, own.places).astype(own.dtype).reshape(fit(own)) for own in self.groups]

    def join(self, units: Units, reduce: Callable[..., jax.Array] = jnp.sum) -> jax.Array:
        """One array of scalars. `reduce` makes one number from all units of a layer."""
        axes = lambda group: tuple(range(len(group.layers), group.ndim))
        parts = [_whole(reduce(x, axis=axes(own))) for own, x in zip(self.groups, units, strict=True)]
        joined = jnp.concatenate([jnp.zeros(0, self.dtype), *(part.astype(self.dtype).ravel() for part in parts)])
        order = np.concatenate([np.zeros(0, int), *(group.places for group in self.groups)])
        return joined if np.array_equal(order, np.arange(order.size)) else joined[np.argsort(order)]


def largest(units: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """The largest of non-negative numbers, for `Layers.join`; 0 if there are none."""
    return jnp.max(units, axis=axis, initial=0)


def smallest(units: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """The smallest of non-negative numbers, for `Layers.join`; infinite if there are none."""
    return jnp.min(units, axis=axis, initial=jnp.inf)


def on_a_mesh(array: jax.Array) -> bool:
    """Whether the array may already be sharded over a mesh."""
    return not jax.typeof(array).sharding.mesh.empty


def _whole(array: jax.Array) -> jax.Array:
    """The array, replicated. Only on a mesh with explicit axes does the type of an array contain its sharding."""
    place = jax.typeof(array).sharding
    whole = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(array, whole) if any(place.spec) else array


def _kind(cut: Cut, layout: _units.Layout, arrays: Sequence[Any]) -> Hashable:
    """What the leaves of a group share: the shape that is stacked, the number of units, and all dtypes."""
    stacked = (cut.small, cut.summed if cut.small else cut.rows, cut.after)
    return *stacked, cut.before // layout.scalars, *(jnp.result_type(array) for array in arrays)


def _portions(members: list[int], cuts: Sequence[Cut | None]) -> Iterator[list[int]]:
    """The members in portions with a limited number of units."""
    portion, units = [], 0
    for k in members:
        own = cut.before * cut.after if (cut := cuts[k]) else 0
        if portion and units + own > _MOST_UNITS:
            yield portion
            portion, units = [], 0
        portion, units = [*portion, k], units + own
    yield portion


def _look_up(array: jax.Array, places: np.ndarray) -> jax.Array:
    """Rows of an array, at least two: a single index would be a constant in the code, like an offset."""
    count = array.shape[0]
    if np.array_equal(places, np.arange(count)):
        return array
    two = np.append(places, (places + 1) % count) if places.size == 1 else places
    return jnp.take(array, two, axis=0, mode="clip")[: places.size]


@jax.jit
def _divided_by_one(array: jax.Array, never: jax.Array) -> jax.Array:
    return array / jnp.where(never, array, 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _plain_sums(products: Products, axes: tuple[int, ...], *leaf: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.sum(array, axis=axes, keepdims=True) for array in products(*leaf))


def _stacked(group: Group, leaves: Sequence[Sequence[Any]]) -> Iterator[tuple[Cut, list[Any]]]:
    """The parts of a group that are summed at once: the stack of all its leaves, or each leaf."""
    each = [[x if x is None else x.reshape(cut) for x in leaf] for cut, leaf in zip(group.cuts, leaves, strict=True)]
    if not group.cuts[0].small:
        yield from zip(group.cuts, each, strict=True)
    else:
        stack = [None if own[0] is None else jnp.concatenate(own) for own in zip(*each, strict=True)]
        yield Cut(sum(cut.before for cut in group.cuts), *group.cuts[0][1:]), stack


def _sums_in_stages(apart: bool, products: Products, groups: Sequence[Group], leaves: Any) -> list[Any]:
    """On a GPU: the sums of all rows of a group's leaves, then the sums of these."""
    found = []
    for group, own in zip(groups, leaves, strict=True):
        own = lax.optimization_barrier(own) if apart else own
        parts = [_row_sums(products, cut, *leaf) for cut, leaf in _stacked(group, own)]
        parts = lax.optimization_barrier(parts) if group.cuts[0].rows > 1 else parts
        sums = [jnp.sum(jnp.concatenate(same, axis=1), axis=2) for same in zip(*parts, strict=True)]
        sums = [part for each in lax.optimization_barrier(sums) for row in each for part in _parts(row)]
        found.append(tuple(array.reshape(group.places.size, -1) for array in sums))
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _row_sums(products: Products, cut: Cut, *leaf: jax.Array) -> list[jax.Array]:
    """The sums of pairs of products, and of a remaining one, as (sums, before, rows, after)."""
    arrays = products(*leaf)
    pairs = [lax.complex(*arrays[n : n + 2]) for n in range(0, len(arrays) - 1, 2)]
    stacks = [jnp.stack(some) for some in (pairs, arrays[2 * len(pairs) :]) if some]
    shape = (cut.before, cut.rows, cut.summed // cut.rows, cut.after)
    return [jnp.sum(stack.reshape(-1, *shape), axis=3) for stack in stacks]


def _parts(sums: jax.Array) -> tuple[jax.Array, ...]:
    return (sums.real, sums.imag) if jnp.iscomplexobj(sums) else (sums,)


def _sums_in_one_loop(products: Products, groups: Sequence[Group], leaves: Any) -> list[Any]:
    """On a CPU: all sums of a leaf in one loop, one leaf after the other."""
    found, after = [], leaves[0][0][0].ravel()[0]
    for group, own in zip(groups, leaves, strict=True):
        parts = []
        for cut, leaf in _stacked(group, own):
            parts.append(_add_rows(products, cut, after, *leaf))
            after = parts[-1][-1][0, 0]
        found.append(_of_group(group, parts))
    return found


def _sums_one_by_one(products: Products, groups: Sequence[Group], leaves: Any) -> list[Any]:
    """On other platforms: the compiler of a TPU fuses several sums by itself, and splits complex numbers."""
    each = lambda group, own: [_plain_sums(products, (1,), *leaf) for _, leaf in _stacked(group, own)]
    return [_of_group(group, each(group, own)) for group, own in zip(groups, leaves, strict=True)]


def _of_group(group: Group, parts: Sequence[Sequence[jax.Array]]) -> tuple[jax.Array, ...]:
    """A group's sums, from the sums of its parts."""
    whole = (jnp.concatenate([part.reshape(-1) for part in same]) for same in zip(*parts, strict=True))
    return tuple(sums.reshape(group.places.size, -1) for sums in whole)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _add_rows(products: Products, cut: Cut, after: jax.Array, *leaf: jax.Array) -> tuple[jax.Array, ...]:
    """The sums of all products, as (before, after)."""
    plain = lambda arrays: tuple(jnp.sum(array, axis=1) for array in arrays)
    arrays, rows = products(*leaf), [n for n in range(_FEWEST_ROWS, _MOST_ROWS + 1) if cut.summed % n == 0]
    if len(arrays) == 1 or not rows:
        return plain(arrays)
    # never true, but XLA does not know it: so it waits for `after` and computes the products inside the loop
    never = jnp.abs(after) < -1
    arrays = products(*(x if x is None else jnp.where(never, 0, x) for x in leaf))
    left = cut.summed // max(rows)
    arrays = _add_up(tuple(array.reshape(cut.before, max(rows), left, cut.after) for array in arrays))
    return _add_up(arrays) if left <= _MOST_LEFT else plain(arrays)


@jax.custom_jvp
def _add_up(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Sums over axis 1, all in one loop."""
    add = lambda some, more: [a + b for a, b in zip(some, more, strict=True)]
    return tuple(lax.reduce(list(arrays), [jnp.zeros((), array.dtype) for array in arrays], add, (1,)))


@_add_up.defjvp
def _(primals: Any, tangents: Any) -> Any:
    """JAX has no rule for the reduction of several operands if one has no tangent."""
    return _add_up(*primals), tuple(jnp.sum(tangent, axis=1) for tangent in tangents[0])
