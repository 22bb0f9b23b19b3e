"""The ball around the anchor: the math of one leaf, in pure functions on arrays (except `norms_of`).

Notation of the papers: `W0` is the anchor, `c` the displacement from it after the base optimizer's step, `n_i` the norm
of unit i of the displacement, `gamma` the radius, `g` the loss gradient. A radius is shaped to fit its unit norms.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ftp_optax import _checks, _hyper, _layers, _units

_EPS = 1e-8  # the released code's: added to every unit norm, and the smallest radius


def magnitudes(displacement: jax.Array) -> tuple[jax.Array]:
    """``|c|``. Its sums over units are the unit norms ``n_i``; the largest is the MARS norm (Gouk et al. 2021)."""
    return (jnp.abs(displacement),)


def inner_products(gradient: jax.Array, last: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``g c`` and ``|c|`` of the last displacement: all that a hyper-gradient needs from the large arrays."""
    return gradient.astype(last.dtype) * last, jnp.abs(last)


def squares(displacement: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The squares of ``c``, scaled up and scaled down. Where one overflows or underflows, the other does not."""
    scale = _scale(displacement.dtype)
    return jnp.square(displacement * scale), jnp.square(displacement / scale)


def length(up: jax.Array, down: jax.Array) -> jax.Array:
    """The l2 norm, from the sums of the `squares`."""
    scale, fits = _scale(up.dtype), jnp.isfinite(up)
    return jnp.where(fits, 1 / scale, scale) * root(jnp.where(fits, up, down))


def units_of(norm: str, unit_axes: _units.UnitAxes, method: str) -> _units.UnitAxes:
    """The parts with their own norm: each unit for ``"mars"``, the whole layer for ``"l2"``."""
    _checks.choices(method, ("mars", "l2"), norm=norm)
    _checks.rules(method, unit_axes=unit_axes)
    return unit_axes if norm == "mars" else _units.whole_leaf


def norms_of(norm: str, layers: _layers.Layers, displacements: list[jax.Array]) -> list[jax.Array]:
    """The norms of all units: l1 for ``"mars"``, l2 for ``"l2"``."""
    if norm == "mars":
        return layers.unit_sums(magnitudes, displacements)[0]
    return layers.map(length, *layers.unit_sums(squares, displacements))


def root(squares: jax.Array) -> jax.Array:
    """The square root, with a derivative of 0 at 0."""
    some = squares > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1)), squares)


def _scale(dtype: jnp.dtype) -> float:
    """A third of the dtype's exponent range. It is a power of two, so scaling does not round."""
    return 2.0 ** (jnp.finfo(dtype).maxexp // 3)


def projection_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``clip(gamma / n_i, 0, 1)``: the share of its displacement that each unit keeps.

    The division, of ``gamma / n_i`` outside and 1 / 1 inside, comes last: XLA then computes it once per unit instead of
    once per element.
    """
    outside = norms + _EPS > radius
    return jnp.where(outside, radius, 1) / jnp.where(outside, norms + _EPS, 1)


def released_ratio(norms: jax.Array, radius: jax.Array) -> jax.Array:
    """``gamma / n_i``: the ratio in the released hyper-gradient, which treats every unit as outside the ball."""
    return radius / (norms + _EPS)


def radius_slope(
    ratio: Callable[[jax.Array, jax.Array], jax.Array], products: jax.Array, norms: jax.Array, radius: jax.Array
) -> jax.Array:
    """``d/dgamma < g, ratio_i(gamma) c_i >``: the derivative of the loss by the radius of the last projection.

    The ratio of a unit is one number, so this inner product is ``sum_i ratio_i(gamma) <g_i, c_i>``.
    """
    return _hyper.hypergradient(products, functools.partial(ratio, norms), radius)


def current_displacement(param: jax.Array, anchor: jax.Array | None, last: jax.Array, ratio: jax.Array) -> jax.Array:
    """``W - W0`` before the step, in at least float32.

    It is computed from the parameters if they have at least 32 bits. Smaller parameters lose its digits, so the last
    projected displacement serves as master weights while the parameters are equal to its rounding. If the user has
    edited them, it is computed from them. Without an anchor, the last projected displacement is used.
    """
    if anchor is not None and param.dtype == last.dtype:
        return displacement(param, anchor)
    projected = ratio * last
    if anchor is None:
        return projected
    seen, info = displacement(param, anchor), jnp.finfo(param.dtype)
    rounding = float(info.eps) * jnp.abs(anchor.astype(last.dtype) + projected) + float(info.smallest_subnormal)
    return jnp.where(jnp.abs(seen - projected) <= rounding, projected, seen)


def displacement(param: jax.Array, anchor: jax.Array) -> jax.Array:
    """``W - W0``, in at least float32."""
    wide = _units.wide_dtype(param)
    return param.astype(wide) - anchor.astype(wide)


def master(param: jax.Array, anchor: jax.Array | None, before: jax.Array) -> jax.Array:
    """The parameter for the base optimizer: the parameter itself, or ``W0 + c`` in float32 below 32 bits."""
    return param if anchor is None or param.dtype == before.dtype else anchor.astype(before.dtype) + before


def as_master(gradient: jax.Array, param: jax.Array, master: jax.Array) -> jax.Array:
    """The gradient for the base optimizer, in the dtype of the master weights if there are any."""
    return gradient if param.dtype == master.dtype else gradient.astype(master.dtype)


def known(radii: jax.Array) -> jax.Array:
    """The radii, with the smallest radius instead of values that are not finite."""
    return jnp.where(jnp.isfinite(radii), radii, _EPS)


def reached(before: jax.Array, update: jax.Array) -> jax.Array:
    """``c + u``: the displacement after the base optimizer's step."""
    return before + update.astype(before.dtype)


def bounded(radii: jax.Array, largest: jax.Array) -> jax.Array:
    """``clip(gamma, 1e-8, max_i n_i)``: a larger radius would not change the projection.

    A layer with a NaN norm has no upper bound, so its radius stays finite.
    """
    return jnp.clip(radii, _EPS, jnp.where(jnp.isnan(largest), jnp.inf, largest + _EPS))


def projection(
    param: jax.Array, anchor: jax.Array | None, update: jax.Array, reached: jax.Array, ratio: jax.Array
) -> jax.Array:
    """The update that ends at ``W0 + clip(gamma / n_i, 0, 1) c_i``, in the parameter's dtype."""
    if anchor is None:
        return (update.astype(reached.dtype) - (1 - ratio) * reached).astype(param.dtype)
    # the target is rounded first, so that parameter plus update is exactly the rounded target
    return (anchor.astype(reached.dtype) + ratio * reached).astype(param.dtype) - param
