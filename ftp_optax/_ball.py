"""The ball round the anchor: what one leaf's trust region computes. Pure functions on arrays.

Notation of the paper: `W0` the anchor, `c` the displacement from it that the base optimizer leads to, `n_i` the norm of
the displacement's unit i, `gamma` the radius, `g` the loss gradient.
"""

import functools

import jax
import jax.numpy as jnp

from ftp_optax import _hyper, _units

_EPS = 1e-8  # the released code's: added to every unit norm, and the smallest radius


def projection_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``clip(gamma / n_i, 0, 1)``: the share of its displacement that each unit keeps."""
    return jnp.where(norms > radius, radius / norms, 1)


def released_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``gamma / n_i``: the ratio that the released hyper-gradient differentiates, as if every unit were outside."""
    return radius / norms


def norms_of(displacement: jax.Array, layout: _units.Layout) -> jax.Array:
    """``n_i``, the norm of every unit of the displacement, kept off zero."""
    return _units.unit_norms(displacement, layout) + _EPS


def step_norm(update: jax.Array, layout: _units.Layout) -> jax.Array:
    """``max_i |u_i|_1``: how far the base optimizer's update goes, for each layer."""
    return _units.layer_max(_units.unit_norms(update, layout), layout)


def _gamma(radius: jax.Array, like: jax.Array, layout: _units.Layout) -> jax.Array:
    """The ``(scalars,)`` radii of a leaf, shaped to broadcast against its displacement."""
    return _units.per_layer(radius.astype(like.dtype), layout, like.ndim)


@functools.partial(jax.jit, static_argnames=("layout", "exact"))
def radius_hypergradient(
    gradient: jax.Array, last: jax.Array, radius: jax.Array, *, layout: _units.Layout, exact: bool
) -> jax.Array:
    """``d/dgamma < g, ratio_i(gamma) c_i >``: the derivative of the loss by the radius of the last projection."""
    ratio, norms = projection_ratio if exact else released_ratio, norms_of(last, layout)
    project = lambda gamma: ratio(norms, gamma) * last
    slope = _hyper.hypergradient(gradient.astype(last.dtype), project, _gamma(radius, last, layout))
    return slope.reshape(layout.scalars)


@functools.partial(jax.jit, static_argnames=("layout",))
def current_displacement(
    param: jax.Array, anchor: jax.Array | None, last: jax.Array, radius: jax.Array, *, layout: _units.Layout
) -> jax.Array:
    """``W - W0`` before the step, in at least float32.

    Read off the parameters where they can hold it. Parameters of less than 32 bits cannot: there the last projected
    displacement serves as master weights for as long as the parameters are its rounding; parameters that were edited
    are read. Without an anchor the last projected displacement is all there is.
    """
    if anchor is not None and param.dtype == last.dtype:
        return param - anchor.astype(last.dtype)
    projected = projection_ratio(norms_of(last, layout), _gamma(radius, last, layout)) * last
    if anchor is None:
        return projected
    seen, info = param.astype(last.dtype) - anchor.astype(last.dtype), jnp.finfo(param.dtype)
    rounding = info.eps * jnp.abs(anchor.astype(last.dtype) + projected) + info.smallest_subnormal
    return jnp.where(jnp.abs(seen - projected) <= rounding, projected, seen)


def bounded(radius: jax.Array, norms: jax.Array, layout: _units.Layout) -> jax.Array:
    """``clip(gamma, 1e-8, max_i n_i)``; a layer whose norm is NaN has no cap, so that its radius stays finite."""
    cap = _units.layer_max(norms, layout).astype(radius.dtype)
    return jnp.clip(radius, _EPS, jnp.where(jnp.isnan(cap), jnp.inf, jnp.maximum(cap, _EPS)))


@functools.partial(jax.jit, static_argnames=("layout",))
def project(
    param: jax.Array,
    anchor: jax.Array | None,
    update: jax.Array,
    reached: jax.Array,
    radius: jax.Array,
    *,
    layout: _units.Layout,
) -> tuple[jax.Array, jax.Array]:
    """Projects where the base optimizer led to: ``W0 + clip(gamma / n_i, 0, 1) c_i``.

    Args:
      param: the parameter before the step.
      anchor: its anchor, or None with lean memory.
      update: the base optimizer's update.
      reached: ``c``, the displacement after it.
      radius: the moved radius of each layer, not yet bounded.
      layout: how the leaf is split.

    Returns:
      The update that ends at the projection, in the parameter's dtype, and the bounded radius.
    """
    norms = norms_of(reached, layout)
    radius = bounded(radius, norms, layout)
    ratio = projection_ratio(norms, _gamma(radius, reached, layout))
    if anchor is None:
        return (update.astype(reached.dtype) - (1 - ratio) * reached).astype(param.dtype), radius
    # rounded first: the difference of two numbers of the parameter's dtype then ends exactly at the rounded target
    return (anchor.astype(reached.dtype) + ratio * reached).astype(param.dtype) - param, radius
