"""WiSE-FT: interpolation between the anchor and the fine-tuned parameters, and the choice of its coefficient."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _checks, _trees, _units


def wise_ft(params: optax.Params, anchor: optax.Params, alpha: float | jax.Array, *, mask: Any = None) -> optax.Params:
    r"""Interpolates between the anchor and the fine-tuned parameters.

    .. math::

      W = (1 - \alpha) W_0 + \alpha W_\mathrm{ft}

    :math:`W_0` is the ``anchor`` and :math:`W_\mathrm{ft}` the ``params``. Use it after training. It learns nothing.

    Args:
      params: the fine-tuned parameters.
      anchor: the pre-trained parameters, a tree like the params.
      alpha: 0 gives the anchor, 1 the params. A number or a 0-D array. `jax.vmap` over an array gives several points,
        stacked.
      mask: which leaves are interpolated: a tree or prefix tree of booleans, where True means interpolated, or a
        function from params to one. None (default) for all. Leave out a new head: it has no pre-trained values.

    Returns:
      The interpolated parameters, in the params' structure and dtypes. Leaves that the
      mask leaves out keep the params' values, and may have another shape in the anchor. So do leaves that are not
      floating-point (counters, random keys).

    Raises:
      ValueError: if the anchor has another structure or shape, if the mask does not fit the params or chooses nothing,
        or if alpha is an array with axes.
      TypeError: if an entry of the mask is not a boolean.

    Example:
      >>> import jax.numpy as jnp
      >>> from ftp_optax import wise_ft
      >>> wise_ft({"bias": jnp.array([4.0])}, {"bias": jnp.array([2.0])}, 0.25)
      {'bias': Array([2.5], dtype=float32)}
      >>> curve = jax.vmap(lambda a: wise_ft({"bias": jnp.array([4.0])}, {"bias": jnp.array([2.0])}, a))
      >>> curve(jnp.array([0.0, 0.5, 1.0]))["bias"].ravel()
      Array([2., 3., 4.], dtype=float32)

    References:
      Wortsman et al., `Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_, CVPR 2022.
    """
    if getattr(alpha, "ndim", 0):
        raise ValueError(
            f"wise_ft: alpha has shape {jnp.shape(alpha)}; pass one number, and jax.vmap over it for a curve."
        )
    _checks.numbers("wise_ft", alpha=alpha)
    leaves, anchors = _trees.flatten(params), _trees.flatten(anchor)
    _trees.require_same(anchors, leaves, "wise_ft: the anchor")
    chosen, mixed = _anchor.chosen_by(mask, params, leaves, "wise_ft"), {}
    for i, (path, param, start) in enumerate(zip(leaves.paths, leaves.values, anchors.values, strict=True)):
        if not chosen[i] and (mask is not None or _trees.is_masked(start)):
            continue  # left out, or masked in both
        _trees.require_shape(start, param, path, "wise_ft: the anchor")
        if jnp.issubdtype(_checks.dtype_of(param, path, "wise_ft: params"), jnp.floating):
            _checks.floating(start, path, "wise_ft: the anchor")
            mixed[i] = _mix(param, start, alpha)
    return leaves.replaced(mixed)


def _mix(param: Any, start: Any, alpha: float | jax.Array) -> jax.Array:
    """``(1 - alpha) W0 + alpha W`` in at least float32, exact at both ends."""
    wide = _units.wide_dtype(param)
    weight = jnp.asarray(alpha, wide)
    return ((1 - weight) * jnp.asarray(start, wide) + weight * jnp.asarray(param, wide)).astype(jnp.result_type(param))


def smallest_share(alphas: Sequence[float], scores: Sequence[float], count: int, *, errors: float = 1.0) -> float:
    r"""Chooses alpha for WiSE-FT on validation images, by the one-standard-error rule.

    .. math::

      \min \Big\{ \alpha : s_\alpha \ge s^* - k \sqrt{s^* (1 - s^*) / n} \Big\}, \qquad s^* = \max_\alpha s_\alpha

    :math:`s_\alpha` are the ``scores`` at the ``alphas``, :math:`n` is the ``count`` and :math:`k` is ``errors``. The
    rule takes the smallest alpha whose score is within :math:`k` standard errors of the best. It needs no
    out-of-distribution images. Smaller alphas are nearer to the pre-trained weights and usually more robust.

    One standard error of 100 images is 4 to 5 points. ``errors=0`` takes the smallest alpha that has the best score. It
    gives up less in-distribution accuracy if there are few images.

    Args:
      alphas: values of alpha, as `wise_ft` takes them.
      scores: the accuracy at each alpha on in-distribution validation images, in [0, 1].
      count: the number of validation images.
      errors: k, the number of standard errors below the best score that are allowed. Not negative; 1 by default.

    Returns:
      One of the alphas.

    Raises:
      ValueError: if there are no alphas, not one score for each, a score out of range, no image, or negative errors.
      TypeError: for values that are not numbers.

    Example:
      >>> from ftp_optax import smallest_share
      >>> smallest_share([0.0, 0.5, 0.75, 1.0], [0.71, 0.86, 0.88, 0.87], count=300)  # standard error 0.019
      0.75
      >>> smallest_share([0.0, 0.5, 0.75, 1.0], [0.71, 0.86, 0.88, 0.87], count=100)  # standard error 0.032
      0.5

    References:
      The interpolation: Wortsman et al., `Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_,
      CVPR 2022. The rule: Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section
      3.4.3.
    """
    _checks.numbers("smallest_share", count=count)
    _checks.numbers("smallest_share", "be finite and not negative", errors=errors)
    try:
        points = [*zip(map(float, alphas), map(float, scores), strict=True)]
    except TypeError:
        raise TypeError("smallest_share: alphas and scores must be sequences of numbers.") from None
    except ValueError:
        raise ValueError("smallest_share: give one score for each of the alphas, all of them numbers.") from None
    if not points or not all(0 <= score <= 1 for _, score in points) or not count >= 1:
        raise ValueError("smallest_share: give alphas, scores in [0, 1] and a count of at least one image.")
    best = max(score for _, score in points)
    level = best - errors * math.sqrt(best * (1 - best) / count)
    return min(alpha for alpha, score in points if score >= level)
