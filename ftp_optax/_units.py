"""What one unit of a leaf is: the rules, and how they split a leaf.

A *unit* is a part of a leaf with its own norm: an output neuron, a channel, the row of a token. A unit rule returns the
axes that index the units. All other axes are summed over. *Layer axes* are leading axes along which separate layers are
stacked (scan over layers). Each layer has its own scalars, as if it were a separate leaf.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from ftp_optax import _checks, _names

UnitAxes: TypeAlias = Callable[[str, tuple[int, ...]], tuple[int, ...]]
LayerAxes: TypeAlias = int | Callable[[str, tuple[int, ...]], int]


def flax_units(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Units of a Flax, Keras or Haiku parameter, by its name and shape.

    The units are those of the released code: the rows of the same tensor in torch's layout [out, in, ...].

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

    A kernel is a leaf ``w``, or one whose name ends in ``kernel``. Attention inputs are modules with the name
    ``query``, ``key``, ``value``, ``q``, ``k``, ``v``, ``kv`` or ``qkv``, also with ``_proj`` or ``to_``. Attention
    outputs are ``out``, ``o``, ``to_out``, ``out_proj``, ``o_proj``, ``output_proj`` and ``attention_output``.

    Name and shape are not enough for the leaves below. Their units differ from those in torch. For such a leaf write
    your own rule, which calls this one for all other leaves:

    - ``LinearGeneral``, ``DenseGeneral``, ``Einsum`` and ``EinsumDense`` with other names count as [..., in, out], and
      so does an attention output with several output axes. Units sum over ``batch_axis``, ``batch_dims`` and the
      positions of ``ConvLocal``.
    - ``ConvTranspose``: torch has [in, out, ...], so a unit is an input channel. Here a unit is an input channel for
      the kernels [..., out, in] of Keras, Haiku and ``transpose_kernel=True``, and an output channel for [..., in, out]
      of Flax.
    - A one-dimensional convolution with the name of an attention input or output counts as one.
    - A normalisation over several axes is one unit. In torch it is one for each index of the first axis.
    - The bias of ``GRU`` in Keras is one unit. In torch it is two vectors.
    - ``hk.Bias``, and ``PReLU`` of Keras over positions, count as [..., in, out]. Each shared slope of ``PReLU`` is a
      fiber.

    Args:
      path: the leaf's path, such as ``"encoder/query/kernel"``.
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the units.

    Raises:
      ValueError: for a kernel of an attention input with too many axes: its layers are stacked, and ``layer_axes`` is
        missing. A kernel with square taps counts as a convolution.

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
    """Units of a parameter in the layout of torch and Equinox, [out, in, ...]: the first axis. A vector is one unit.

    A leaf ``bias`` of shape (out, 1, 1), as in convolutions of Equinox, is a vector. A ``ConvTranspose`` is
    [in, out, ...] in torch and [out, in, ...] in Equinox. Its unit is the first axis in both.

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
      path: the leaf's path (not used).
      shape: the leaf's shape, without its layer axes (not used).

    Returns:
      No axis.

    Example:
      >>> whole_leaf("dense/kernel", (16, 32))
      ()

    References:
      With this rule the norm of a leaf is its l1 norm.
    """
    _checks.leaves("whole_leaf", path, shape)
    return ()


def whole_layer(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The whole leaf, after a check that its layers are not stacked."""
    _names.require_one_layer(path, shape)
    return ()


def elementwise(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Every element is one unit, so the ball is a box.

    Args:
      path: the leaf's path (not used).
      shape: the leaf's shape, without its layer axes.

    Returns:
      All axes.

    Example:
      >>> elementwise("norm/scale", (32,))
      (0,)

    References:
      Gouk et al., `Distance-Based Regularisation of Deep Networks for Fine-Tuning
      <https://arxiv.org/abs/2002.08253>`_, ICLR 2021, for batch-norm parameters.
    """
    _checks.leaves("elementwise", path, shape)
    return tuple(range(len(shape)))


def flax_fibers(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Fibers of a Flax, Keras or Haiku parameter: a fiber runs along the input axes, with all other indices fixed.

    They are the vectors that the released code's ``F.normalize(..., dim=1)`` normalises in the same tensor in torch's
    layout. Names and shapes have the same meaning as in `flax_units`:

    ===========================================  ===================  ==================================
    leaf                                         shape                one fiber for each
    ===========================================  ===================  ==================================
    kernel of a dense or convolution layer       [..., in, out]       tap and output channel
    kernel of attention's query, key or value    [in, heads, dim]     head and feature
    kernel of attention's output                 [heads, dim, out]    output feature
    table                                        [tokens, features]   token
    vector                                       [n]                  leaf
    ===========================================  ===================  ==================================

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
    """Fibers of a parameter in torch layout [out, in, ...]: a fiber runs along axis 1. A vector is one fiber.

    Args:
      path: the leaf's path, with the same meaning as in `torch_units`.
      shape: the leaf's shape, without its layer axes.

    Returns:
      The axes that index the fibers.

    Example:
      >>> torch_fibers("conv.weight", (32, 16, 3, 3))
      (0, 2, 3)

    References:
      The rule of the authors' released DiGraP code, which fails on vectors.
    """
    _checks.leaves("torch_fibers", path, shape)
    return _all_but(_names.torch_axes(path, shape).inputs, shape)


def _all_but(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(len(shape)) if axis not in axes)


class Layout(NamedTuple):
    """How one leaf is split. Static under jit."""

    layers: tuple[int, ...]  # the sizes of the leading layer axes
    axes: tuple[int, ...]  # the axes of the leaf in its unit norms: layer axes, then unit axes

    @property
    def scalars(self) -> int:
        """The number of learned scalars of the leaf."""
        return math.prod(self.layers)

    def summed(self, ndim: int) -> tuple[int, ...]:
        """The axes of the leaf that index neither layers nor units."""
        return tuple(axis for axis in range(ndim) if axis not in self.axes)


def require_layer_axes(layer_axes: Any, method: str) -> None:
    """Raises if `layer_axes` is not static, for example an array from `optax.inject_hyperparams`."""
    if not callable(layer_axes) and (not isinstance(layer_axes, int) or isinstance(layer_axes, bool)):
        raise TypeError(
            f"{method}: layer_axes must be an int or a callable, got {type(layer_axes).__name__}. With "
            "optax.inject_hyperparams name it in static_args=('unit_axes', 'layer_axes', 'mask')."
        )


def resolve(path: str, shape: tuple[int, ...], unit_axes: UnitAxes, layer_axes: LayerAxes) -> Layout:
    """Applies the rules to one leaf. Raises, with the path, if a result does not fit the leaf."""
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
    """The dtype for computations with a leaf: its own, but at least float32."""
    dtype = jnp.result_type(leaf)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)  # no promotion, which the user may have disabled
