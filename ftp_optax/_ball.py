"""The ball round the anchor: what one leaf's trust region computes. Pure functions on arrays.

Notation of the paper: `W0` the anchor, `c` the displacement from it that the base optimizer leads to, `n_i` the norm of
the displacement's unit i, `gamma` the radius, `g` the loss gradient.
"""

import functools

import jax
import jax.numpy as jnp

from ftp_optax import _anchor, _hyper, _one_pass, _units

_EPS = 1e-8  # the released code's: added to every unit norm, and the smallest radius


def projection_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``clip(gamma / n_i, 0, 1)``: the share of its displacement that each unit keeps.

    ``gamma / n_i`` outside and 1 / 1 inside, divided last: XLA then computes it once a unit, and not once an element.
    """
    outside = norms + _EPS > radius
    return jnp.where(outside, radius, 1) / jnp.where(outside, norms + _EPS, 1)


def released_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``gamma / n_i``: the ratio that the released hyper-gradient differentiates, as if every unit were outside.

    ``n_i``, kept off zero, is the norm of the unit + 1e-8: added here, to keep an array of its own out of the step.
    """
    return radius / (norms + _EPS)


def ratio_of(norms: jax.Array, radius: jax.Array, layout: _units.Layout) -> jax.Array:
    """`projection_ratio` of a leaf or stack of leaves, whose ``(scalars,)`` radii are shaped to fit its norms."""
    return projection_ratio(norms, _gamma(radius, norms, layout))


def _gamma(radius: jax.Array, norms: jax.Array, layout: _units.Layout) -> jax.Array:
    """The ``(scalars,)`` radii, shaped to broadcast against the norms."""
    return _units.per_layer(radius.astype(norms.dtype), layout, norms.ndim)


def step_norm(update: jax.Array, layout: _units.Layout) -> jax.Array:
    """``max_i |u_i|_1``: how far the base optimizer's update goes, for each layer."""
    return _units.layer_max(_units.unit_norms(update, layout), layout)


@functools.partial(jax.jit, static_argnames=("layout", "sums"))
def inner_products(
    gradient: jax.Array, last: jax.Array, after: jax.Array, *, layout: _units.Layout, sums: _one_pass.Sums
) -> tuple[jax.Array, ...]:
    """``<g_i, c_i>`` and ``|c_i|`` of every unit of the last displacement: all that is read of the large arrays.

    The sums wait for ``after`` (`_one_pass`), the leaf before.
    """
    return _units.unit_sums_of([gradient.astype(last.dtype) * last, jnp.abs(last)], layout, after, sums)


@functools.partial(jax.jit, static_argnames=("layout", "exact"))
def radius_hypergradient(
    products: jax.Array, norms: jax.Array, radius: jax.Array, layout: _units.Layout, *, exact: bool
) -> jax.Array:
    """``d/dgamma < g, ratio_i(gamma) c_i >``: the derivative of the loss by the radius of the last projection.

    A unit's ratio is one number, so the inner product with it is ``sum_i ratio_i(gamma) <g_i, c_i>``.
    """
    ratio = projection_ratio if exact else released_ratio
    slope = _hyper.hypergradient(products, functools.partial(ratio, norms), _gamma(radius, norms, layout))
    return slope.reshape(layout.scalars)


@jax.jit
def current_displacement(
    param: jax.Array,
    anchor: jax.Array | None,
    last: jax.Array,
    ratio: jax.Array,
) -> jax.Array:
    """``W - W0`` before the step, in at least float32.

    Read off the parameters where they can hold it. Parameters of less than 32 bits cannot: there the last projected
    displacement serves as master weights for as long as the parameters are its rounding; parameters that were edited
    are read. Without an anchor the last projected displacement is all there is.
    """
    if anchor is not None and param.dtype == last.dtype:
        return _anchor.displacement(param, anchor)
    projected = ratio * last
    if anchor is None:
        return projected
    seen, info = _anchor.displacement(param, anchor), jnp.finfo(param.dtype)
    rounding = info.eps * jnp.abs(anchor.astype(last.dtype) + projected) + info.smallest_subnormal
    return jnp.where(jnp.abs(seen - projected) <= rounding, projected, seen)


def cap(norms: jax.Array, layout: _units.Layout) -> jax.Array:
    """``max_i n_i`` of each layer: a larger radius would be no other ball."""
    return _units.layer_max(norms, layout) + _EPS


def bounded(radii: jax.Array, caps: jax.Array) -> jax.Array:
    """``clip(gamma, 1e-8, max_i n_i)``; a layer whose norm is NaN has no cap, so that its radius stays finite."""
    return jnp.clip(radii, _EPS, jnp.where(jnp.isnan(caps), jnp.inf, jnp.maximum(caps, _EPS)))


@jax.jit
def project(
    param: jax.Array,
    anchor: jax.Array | None,
    update: jax.Array,
    reached: jax.Array,
    ratio: jax.Array,
) -> jax.Array:
    """Projects where the base optimizer led to: ``W0 + clip(gamma / n_i, 0, 1) c_i``.

    Args:
      param: the parameter before the step.
      anchor: its anchor, or None with lean memory.
      update: the base optimizer's update.
      reached: ``c``, the displacement after it.
      ratio: ``clip(gamma / n_i, 0, 1)`` of its units.

    Returns:
      The update that ends at the projection, in the parameter's dtype.
    """
    if anchor is None:
        return (update.astype(reached.dtype) - (1 - ratio) * reached).astype(param.dtype)
    # rounded first: the difference of two numbers of the parameter's dtype then ends exactly at the rounded target
    return (anchor.astype(reached.dtype) + ratio * reached).astype(param.dtype) - param
