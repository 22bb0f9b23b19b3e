"""What one unit of a leaf is, and the norms that go with it. Pure functions on one array.

A *unit* is the part of a leaf that is projected as one: an output neuron, a channel, a token's row. A unit rule says
which axes index the units; every other axis is summed over. *Layer axes* are leading axes along which separate layers
are stacked (scan over layers); every layer has scalars of its own, exactly as if it were a leaf of its own.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from ftp_optax import _checks, _one_pass

UnitAxes: TypeAlias = Callable[[str, tuple[int, ...]], tuple[int, ...]]
LayerAxes: TypeAlias = int | Callable[[str, tuple[int, ...]], int]

_VECTORS = ("bias", "scale")
_ATTENTION_INPUTS = ("query", "key", "value", "qkv", "kv")
_EMBEDDED_TOKENS = re.compile(r"(^|_)(pos|posemb|posembed|position|positional|cls|class|register|mask)(_|$)")


def _names(path: str) -> tuple[str, str]:
    """The names of the leaf and of the module that holds it."""
    module, _, leaf = path.rpartition("/")
    return module.rpartition("/")[2], leaf


def flax_units(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Units of a Flax (or Keras, or Haiku) parameter, told by its name and shape.

    ==============================================  ==================  =====================
    leaf                                            shape               one unit is
    ==============================================  ==================  =====================
    kernel of a dense or convolution layer          [..., in, out]      an output channel
    ``query``, ``key``, ``value`` kernel            [in, heads, dim]    a head's feature
    attention's output kernel                       [heads, dim, out]   an output feature
    ``Embed`` table (leaf ``embedding``)            [tokens, features]  a token's row
    positional, class, register and mask tokens     any                 the whole leaf
    ``bias`` and ``scale``, vectors and scalars     any                 the whole leaf
    ==============================================  ==================  =====================

    Args:
      path: the leaf's path, such as ``"encoder/query/kernel"``.
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the units.

    Example:
      >>> flax_units("conv/kernel", (3, 3, 16, 32))
      (3,)
      >>> flax_units("attention/query/kernel", (64, 4, 16))
      (1, 2)
      >>> flax_units("conv/bias", (32,))
      ()

    References:
      Tian et al., `Fast Trainable Projection for Robust Fine-Tuning <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023.
    """
    _checks.leaves("flax_units", path, shape)
    module, leaf = _names(path)
    if len(shape) <= 1 or leaf in _VECTORS or (leaf != "kernel" and _EMBEDDED_TOKENS.search(leaf)):
        return ()
    if leaf == "embedding":
        return (0,)
    if module in _ATTENTION_INPUTS and len(shape) >= 3:
        return tuple(range(1, len(shape)))
    return (len(shape) - 1,)


def torch_units(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Units of a parameter in torch layout [out, in, ...]: the first axis; vectors are one unit.

    Args:
      path: the leaf's path (not looked at).
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the units.

    Example:
      >>> torch_units("conv.weight", (32, 16, 3, 3))
      (0,)

    References:
      The rule of the authors' released FTP code.
    """
    _checks.leaves("torch_units", path, shape)
    return () if len(shape) <= 1 else (0,)


def whole_leaf(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The whole leaf is one unit.

    Args:
      path: the leaf's path (not looked at).
      shape: the leaf's shape, without its layer axes (not looked at).

    Returns:
      No axis.

    Example:
      >>> whole_leaf("dense/kernel", (16, 32))
      ()

    References:
      With it the norm of a leaf is its l1 norm.
    """
    _checks.leaves("whole_leaf", path, shape)
    return ()


def elementwise(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Every element is a unit of its own, so that the ball is a box.

    Args:
      path: the leaf's path (not looked at).
      shape: the leaf's shape, without its layer axes.

    Returns:
      All axes.

    Example:
      >>> elementwise("norm/scale", (32,))
      (0,)

    References:
      Gouk et al., `Distance-Based Regularisation of Deep Networks for Fine-Tuning
      <https://arxiv.org/abs/2002.08253>`_, ICLR 2021: its rule for batch-norm parameters.
    """
    _checks.leaves("elementwise", path, shape)
    return tuple(range(len(shape)))


def flax_fibers(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Fibers of a Flax parameter: every index is fixed but the input's.

    A kernel [..., in, out] has its input axis second to last, so a convolution has one fiber for each tap and output
    channel. ``query``, ``key`` and ``value`` kernels [in, heads, dim] have it first, attention's ``out`` kernel
    [heads, dim, out] has two. An ``Embed`` table has one fiber for each token, a vector is one fiber. These are the
    fibers that the released code's ``F.normalize(..., dim=1)`` finds in the same layer in torch layout.

    Args:
      path: the leaf's path.
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the fibers.

    Example:
      >>> flax_fibers("conv/kernel", (3, 3, 16, 32))
      (0, 1, 3)

    References:
      Huang et al., `Directional Gradient Projection for Robust Fine-Tuning of Foundation Models
      <https://arxiv.org/abs/2502.15895>`_, ICLR 2025.
    """
    _checks.leaves("flax_fibers", path, shape)
    module, leaf = _names(path)
    if len(shape) <= 1 or leaf in _VECTORS:
        return ()
    if leaf == "embedding":
        return (0,)
    if module in _ATTENTION_INPUTS and len(shape) >= 3:
        return tuple(range(1, len(shape)))
    if module == "out" and leaf == "kernel" and len(shape) == 3:
        return (2,)
    return (*range(len(shape) - 2), len(shape) - 1)


def torch_fibers(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Fibers of a parameter in torch layout [out, in, ...]: every index is fixed but axis 1; a vector is one fiber.

    Args:
      path: the leaf's path (not looked at).
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the fibers.

    Example:
      >>> torch_fibers("conv.weight", (32, 16, 3, 3))
      (0, 2, 3)

    References:
      The rule of the authors' released DiGraP code, which crashes on vectors.
    """
    _checks.leaves("torch_fibers", path, shape)
    return () if len(shape) <= 1 else (0, *range(2, len(shape)))


class Layout(NamedTuple):
    """How one leaf is split, resolved from the rules and static under jit."""

    layers: tuple[int, ...]  # the sizes of the leading layer axes
    axes: tuple[int, ...]  # the axes of the leaf that survive in its unit norms: layer axes, then unit axes

    @property
    def scalars(self) -> int:
        """The number of learned scalars of the leaf."""
        return math.prod(self.layers)


def require_layer_axes(layer_axes: Any, method: str) -> None:
    """Raises if `layer_axes` is not static, as when `optax.inject_hyperparams` has made it an array."""
    if not callable(layer_axes) and (not isinstance(layer_axes, int) or isinstance(layer_axes, bool)):
        raise TypeError(
            f"{method}: layer_axes must be an int or a callable, got {type(layer_axes).__name__}. With "
            "optax.inject_hyperparams name it in static_args=('unit_axes', 'layer_axes', 'mask')."
        )


def resolve(path: str, shape: tuple[int, ...], unit_axes: UnitAxes, layer_axes: LayerAxes) -> Layout:
    """Applies the rules to one leaf; a rule's answer that does not fit the leaf raises with its path."""
    depth = layer_axes(path, shape) if callable(layer_axes) else min(layer_axes, len(shape))
    if not isinstance(depth, int) or not 0 <= depth <= len(shape):
        raise ValueError(
            f"layer_axes gives {depth!r} for {path!r} of shape {shape}; it must be an int in [0, {len(shape)}]."
        )
    inner = shape[depth:]
    axes = unit_axes(path, inner)
    if not isinstance(axes, tuple | list) or not all(
        isinstance(a, int) and -len(inner) <= a < len(inner) for a in axes
    ):
        raise ValueError(
            f"unit_axes gives {axes!r} for {path!r}, which is no tuple of axes of its (layer's) shape {inner}."
        )
    units = sorted({a % len(inner) + depth for a in axes})
    return Layout(shape[:depth], (*range(depth), *units))


def of_count(path: str, shape: tuple[int, ...], unit_axes: UnitAxes, count: int) -> Layout:
    """The layout of a leaf of which only the number of layers is known: the fewest leading axes that hold so many."""
    depth = next(d for d in range(len(shape) + 1) if math.prod(shape[:d]) == count)
    return resolve(path, shape, unit_axes, depth)


def resolve_all(
    paths: Sequence[str],
    leaves: Sequence[Any],
    chosen: Sequence[bool],
    unit_axes: UnitAxes,
    layer_axes: LayerAxes,
) -> dict[int, Layout]:
    """The layouts of the chosen leaves, by position in flatten order."""
    return {
        i: resolve(path, jnp.shape(leaf), unit_axes, layer_axes)
        for i, (path, leaf, here) in enumerate(zip(paths, leaves, chosen, strict=True))
        if here
    }


def unit_sums(array: jax.Array, layout: Layout) -> jax.Array:
    """Sums every unit: over all axes that index neither layers nor units, which stay with size 1."""
    return jnp.sum(array, axis=_summed(array, layout), keepdims=True)


def unit_sums_of(
    arrays: Sequence[jax.Array], layout: Layout, after: jax.Array, sums: _one_pass.Sums
) -> tuple[jax.Array, ...]:
    """`unit_sums` of several arrays that are made of the same ones, read once, `after` a number is known."""
    return sums(arrays, _summed(arrays[0], layout), after)


def _summed(array: jax.Array, layout: Layout) -> tuple[int, ...]:
    return tuple(a for a in range(array.ndim) if a not in layout.axes)


def unit_norms(displacement: jax.Array, layout: Layout) -> jax.Array:
    """The l1 norm ``n_i`` of every unit, axes kept; their maximum is the MARS norm (Gouk et al. 2021)."""
    return unit_sums(jnp.abs(displacement), layout)


def unit_lengths(array: jax.Array, layout: Layout) -> jax.Array:
    """The l2 norm of every unit, axes kept."""
    return jnp.sqrt(unit_sums(jnp.square(array), layout))


def _layers_as_units(layout: Layout) -> Layout:
    return layout._replace(axes=tuple(range(len(layout.layers))))


def layer_sums(array: jax.Array, layout: Layout) -> jax.Array:
    """Sums every layer, axes kept."""
    return unit_sums(array, _layers_as_units(layout))


def layer_sums_of(
    arrays: Sequence[jax.Array], layout: Layout, after: jax.Array, sums: _one_pass.Sums
) -> tuple[jax.Array, ...]:
    """`layer_sums` of several arrays, as `unit_sums_of`."""
    return unit_sums_of(arrays, _layers_as_units(layout), after, sums)


def layer_lengths(array: jax.Array, layout: Layout) -> jax.Array:
    """The l2 norm of every layer, axes kept; of elements whose squares overflow or vanish too."""
    others = tuple(range(len(layout.layers), array.ndim))
    largest = jnp.max(jnp.abs(array), axis=others, keepdims=True, initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * unit_lengths(array / scale, _layers_as_units(layout))


def layer_max(norms: jax.Array, layout: Layout) -> jax.Array:
    """The largest unit norm of each layer, shape ``(scalars,)``; 0 where a layer has no element."""
    return jnp.max(norms, axis=tuple(range(len(layout.layers), norms.ndim)), initial=0).reshape(layout.scalars)


def layer_min(norms: jax.Array, layout: Layout) -> jax.Array:
    """The smallest unit norm of each layer, shape ``(scalars,)``; infinite where a layer has no element."""
    return jnp.min(norms, axis=tuple(range(len(layout.layers), norms.ndim)), initial=jnp.inf).reshape(layout.scalars)


def per_layer(scalars: jax.Array, layout: Layout, ndim: int) -> jax.Array:
    """Shapes the learned scalars of a leaf with ``ndim`` axes so that they broadcast against it."""
    return scalars.reshape(layout.layers + (1,) * (ndim - len(layout.layers)))
