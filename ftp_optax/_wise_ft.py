"""WiSE-FT: the straight line in weight space from the anchor to the fine-tuned parameters, and which point of it."""

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

    with :math:`W_0` the ``anchor`` and :math:`W_\mathrm{ft}` the ``params``. After training; nothing is learned.

    Args:
      params: the fine-tuned parameters.
      anchor: the pre-trained parameters, a tree like the params.
      alpha: 0 gives the anchor, 1 the params. A number or a 0-D array; `jax.vmap` over an array of them gives the
        whole curve, stacked.
      mask: which leaves are interpolated: a tree or prefix tree of booleans, True = interpolated, or a callable from
        params to one. None (default) for every leaf. Leave out what was not pre-trained, such as a new head: its
        random start is nothing to go back to.

    Returns:
      The interpolated parameters, in the params' structure and dtypes. Leaves that the mask leaves out, of any shape in
      the anchor, and those that are not floating-point (counters, random keys) are the params'.

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


def smallest_share(alphas: Sequence[float], scores: Sequence[float], count: int) -> float:
    r"""The point of WiSE-FT's line to take, without an image of another domain: the one-standard-error rule.

    .. math::

      \min \Big\{ \alpha : s_\alpha \ge s^* - \sqrt{s^* (1 - s^*) / n} \Big\}, \qquad s^* = \max_\alpha s_\alpha

    with :math:`s_\alpha` the ``scores`` at the ``alphas`` and :math:`n` the ``count``. Of the points that validation
    images of the fine-tuning domain cannot tell from the best one, the nearest to the pre-trained weights, which is the
    most robust one as a rule.

    Args:
      alphas: points of the line, as `wise_ft` takes them.
      scores: accuracy of each on validation images of the fine-tuning domain, in [0, 1].
      count: how many validation images there are.

    Returns:
      One of the alphas.

    Raises:
      ValueError: if there are no alphas, not one score for each, a score out of range, or no image.
      TypeError: for what is no number.

    Example:
      >>> from ftp_optax import smallest_share
      >>> smallest_share([0.0, 0.5, 0.75, 1.0], [0.71, 0.86, 0.88, 0.87], count=300)  # an error of 0.019
      0.75
      >>> smallest_share([0.0, 0.5, 0.75, 1.0], [0.71, 0.86, 0.88, 0.87], count=100)  # of 0.032
      0.5

    References:
      The line: Wortsman et al., `Robust fine-tuning of zero-shot models <https://arxiv.org/abs/2109.01903>`_, CVPR
      2022. The rule: Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section 3.4.3.
    """
    _checks.numbers("smallest_share", count=count)
    try:
        points = [*zip(map(float, alphas), map(float, scores), strict=True)]
    except TypeError:
        raise TypeError("smallest_share: alphas and scores must be sequences of numbers.") from None
    except ValueError:
        raise ValueError("smallest_share: give one score for each of the alphas, all of them numbers.") from None
    if not points or not all(0 <= score <= 1 for _, score in points) or not count >= 1:
        raise ValueError("smallest_share: give alphas, scores in [0, 1] and a count of at least one image.")
    best = max(score for _, score in points)
    error = math.sqrt(best * (1 - best) / count)
    return min(alpha for alpha, score in points if score >= best - error)
