"""WiSE-FT: the straight line in weight space from the anchor to the fine-tuned parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _checks, _trees


def wise_ft(
    params: optax.Params, anchor: optax.Params, alpha: float | jax.Array, *, mask: Any = None
) -> optax.Params:
    r"""Interpolates between the anchor and the fine-tuned parameters.

    .. math::

      W = (1 - \alpha) W_0 + \alpha W_\mathrm{ft}

    with :math:`W_0` the ``anchor`` and :math:`W_\mathrm{ft}` the ``params``. After training; nothing is learned.

    Args:
      params: the fine-tuned parameters.
      anchor: the pre-trained parameters, a tree like the params.
      alpha: 0 gives the anchor, 1 the params. A number or a 0-D array; `jax.vmap` over an array of them gives the
        whole curve, stacked.
      mask: which leaves are interpolated, as in `ftp`: True = interpolated. The others are the params'. None (default)
        interpolates every leaf. Leave out what was not pre-trained: a new head's start is nothing to go back to.

    Returns:
      The interpolated parameters, in the params' structure and dtypes. Leaves that are not floating-point (counters,
      random keys) are the params'.

    Raises:
      ValueError: if the anchor has another structure, or another shape where it counts; if the mask does not fit the
        params or leaves nothing to interpolate; if alpha is an array with axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from ftp_optax import wise_ft
      >>> wise_ft({"bias": jnp.array([4.0])}, {"bias": jnp.array([2.0])}, 0.25)
      {'bias': Array([2.5], dtype=float32)}
      >>> tuned, start = {"body": 1.0, "head": 1.0}, {"body": 0.0, "head": 0.0}
      >>> jax.tree.map(float, wise_ft(tuned, start, 0.5, mask={"body": True, "head": False}))
      {'body': 0.5, 'head': 1.0}
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
    chosen = _anchor.chosen_leaves(mask, params, leaves, "wise_ft")
    mixed = {}
    for i, (path, param, start) in enumerate(zip(leaves.paths, leaves.values, anchors.values, strict=True)):
        if not chosen[i] and (mask is not None or _trees.is_masked(start)):
            continue
        _trees.require_shape(start, param, path, "wise_ft: the anchor")
        if jnp.issubdtype(_checks.dtype_of(param, path, "wise_ft: params"), jnp.floating):
            _checks.floating(start, path, "wise_ft: the anchor")
            mixed[i] = _mix(param, start, alpha)
    return leaves.replaced(mixed)


def _mix(param: Any, start: Any, alpha: float | jax.Array) -> jax.Array:
    """``(1 - alpha) W0 + alpha W`` in at least float32, exact at both ends."""
    wide = _anchor.wide_dtype(param)
    weight = jnp.asarray(alpha, wide)
    return ((1 - weight) * jnp.asarray(start, wide) + weight * jnp.asarray(param, wide)).astype(jnp.result_type(param))
