"""What one unit of a leaf is: the rules, and how a leaf is split by them.

A *unit* is the part of a leaf that is projected as one: an output neuron, a channel, a token's row. A unit rule says
which axes index the units; every other axis is summed over. *Layer axes* are leading axes along which separate layers
are stacked (scan over layers); every layer has scalars of its own, exactly as if it were a leaf of its own.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from ftp_optax import _checks, _names

UnitAxes: TypeAlias = Callable[[str, tuple[int, ...]], tuple[int, ...]]
LayerAxes: TypeAlias = int | Callable[[str, tuple[int, ...]], int]


def flax_units(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Units of a Flax, Keras or Haiku parameter, told by its name and shape.

    They are the rows of the same tensor in torch's layout [out, in, ...], which are the released code's units:

    ==============================================  ===================  =======================
    leaf                                            shape                one unit is
    ==============================================  ===================  =======================
    kernel of a dense or convolution layer          [..., in, out]       an output channel
    kernel of attention's query, key or value       [in, heads, dim]     a head's feature
    kernel of attention's output                    [heads, dim, out]    an output feature
    Keras' depthwise kernel                         [..., in, factor]    an output channel
    table: leaf ``embedding`` or ``embeddings``     [tokens, features]   a token's row
    positions, tokens, ``gamma``, ``beta``          [n, ...]             an index of the first axis
    register and mask tokens                        any                  the whole leaf
    parameters that are no kernel                   [1, 1, ..., n]       the whole leaf
    ``bias``, ``scale``, ``offset``                 any                  the whole leaf
    vectors and scalars                             [n], []              the whole leaf
    ``kernel/scale`` of linen's ``WeightNorm``      [out]                an element
    ==============================================  ===================  =======================

    A kernel is a leaf ``w``, or one whose name ends in ``kernel``. Attention's inputs are modules called ``query``,
    ``key``, ``value``, ``q``, ``k``, ``v``, ``kv`` or ``qkv``, also with ``_proj`` or ``to_``; its outputs are ``out``,
    ``o``, ``to_out``, ``out_proj``, ``o_proj``, ``output_proj`` and ``attention_output``.

    What name and shape do not tell comes out otherwise than in torch; write a rule of your own for such a leaf, which
    calls this one for all others:

    - ``LinearGeneral``, ``DenseGeneral``, ``Einsum`` and ``EinsumDense`` of other names are read as [..., in, out], and
      so is an output of attention with several axes. Units sum over ``batch_axis``, ``batch_dims`` and the positions of
      ``ConvLocal``.
    - ``ConvTranspose``: torch has [in, out, ...], so that its unit is an input channel. Here it is one for the kernels
      [..., out, in] of Keras, Haiku and ``transpose_kernel=True``, and an output channel for Flax' [..., in, out].
    - A one-dimensional convolution that is called like an input or output of attention is read as one.
    - A normalisation over several axes is one unit, for torch one for each index of the first. The bias of Keras'
      ``GRU`` is one unit, for torch two vectors. ``hk.Bias`` and Keras' ``PReLU`` over positions are read as
      [..., in, out]; shared slopes of ``PReLU`` have a fiber each.

    Args:
      path: the leaf's path, such as ``"encoder/query/kernel"``.
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the units.

    Raises:
      ValueError: for a kernel of attention's inputs that has an axis too many, so that its layers are stacked and
        ``layer_axes`` is missing. Square taps are a convolution's.

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
    return _names.flax_axes(path, shape).outputs


def torch_units(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Units of a parameter in torch layout [out, in, ...], also Equinox': the first axis; vectors are one unit.

    A leaf ``bias`` of shape (out, 1, 1), as Equinox keeps those of convolutions, is a vector. A ``ConvTranspose`` is
    [in, out, ...] in torch and [out, in, ...] in Equinox; the unit is its first axis in both.

    Args:
      path: the leaf's path, such as ``"conv.weight"`` or ``"conv/weight"``.
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
    return _names.torch_axes(path, shape).outputs


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


def whole_layer(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The whole leaf, once its rank is seen not to be that of stacked layers."""
    _names.require_one_layer(path, shape)
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
    """Fibers of a Flax, Keras or Haiku parameter: every index is fixed but the input's.

    They are what the released code's ``F.normalize(..., dim=1)`` finds in the same tensor in torch's layout. A kernel
    [..., in, out] has its input axis second to last, so a convolution has one fiber for each tap and output channel.
    Kernels of attention's query, key and value [in, heads, dim] have it first, that of its output [heads, dim, out] has
    two. A table has one fiber for each token, a vector is one fiber. Which leaf is what is told as by `flax_units`.

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
    return _all_but(_names.flax_axes(path, shape).inputs, shape)


def torch_fibers(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Fibers of a parameter in torch layout [out, in, ...]: every index is fixed but axis 1; a vector is one fiber.

    Args:
      path: the leaf's path; what `torch_units` says of it is so here.
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
    return _all_but(_names.torch_axes(path, shape).inputs, shape)


def _all_but(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(shape)) if axis not in axes)


class Layout(NamedTuple):
    """How one leaf is split, resolved from the rules and static under jit."""

    layers: tuple[int, ...]  # the sizes of the leading layer axes
    axes: tuple[int, ...]  # the axes of the leaf that survive in its unit norms: layer axes, then unit axes

    @property
    def scalars(self) -> int:
        """The number of learned scalars of the leaf."""
        return math.prod(self.layers)

    def summed(self, ndim: int) -> tuple[int, ...]:
        """The axes of the leaf that index neither layers nor units."""
        return tuple(axis for axis in range(ndim) if axis not in self.axes)


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


def wide_dtype(leaf: Any) -> Any:
    """The dtype of what is computed of a leaf: its own, but at least float32."""
    dtype = jnp.result_type(leaf)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)  # not promoted, which the user may have forbidden
