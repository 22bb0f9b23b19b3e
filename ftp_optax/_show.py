"""A readable ``repr`` for states: a summary instead of all numbers."""

from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp

State = TypeVar("State", bound=type)


def readable(state: State) -> State:
    """Class decorator for a state: its ``repr`` has one line per field."""
    state.__repr__ = _repr  # pyright: ignore[reportAttributeAccessIssue]
    return state


def _repr(self: Any) -> str:
    fields = (f"\n  {name}: {_field(getattr(self, name))}" for name in self._fields)
    return f"{type(self).__name__}({','.join(fields)}\n)"


def _field(value: Any) -> str:
    """One field: the range of an array, the size of a tree, and the name of another transformation's state."""
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and jax.tree.structure(value) == jax.tree.structure(0):
        return _array(value)
    kinds = sorted({str(leaf.dtype) for leaf in leaves if hasattr(leaf, "dtype")})
    numbers = sum(getattr(leaf, "size", 1) for leaf in leaves)
    size = f"{len(leaves)} arrays, {numbers:,} numbers, {' and '.join(kinds)}" if leaves else "empty"
    name = "" if value is None or type(value) in (dict, list, tuple) else f"{type(value).__name__}: "
    return "None" if value is None else name + size


def _array(array: Any) -> str:
    """Dtype, shape and, if the values are available, the smallest and the largest."""
    if not hasattr(array, "dtype"):
        return repr(array)
    shape = f"{array.dtype}{list(array.shape)}"
    if not _known(array):
        return shape
    least, most = float(jnp.min(array)), float(jnp.max(array))
    return f"{shape} from {least:.3g} to {most:.3g}" if least < most else f"{shape} of {least:.3g}"


def _known(array: Any) -> bool:
    """Whether the values are available: not a shape, not a tracer, not on other hosts, not donated."""
    if not isinstance(array, jax.Array):
        return not isinstance(array, jax.ShapeDtypeStruct)
    concrete = not isinstance(array, jax.core.Tracer)
    return concrete and array.size > 0 and array.is_fully_addressable and not array.is_deleted()
