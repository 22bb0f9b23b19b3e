"""Radius updates scaled by the base optimizer's step size."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _checks


def own_steps(step_norms: jax.Array) -> jax.Array:
    """The layers' step norms; 0 for those that are not finite."""
    return jnp.where(jnp.isfinite(step_norms), step_norms, 0)


def common_step(step_norms: jax.Array) -> jax.Array:
    """The geometric mean of the layers' step norms, without steps that are zero or not finite; 0 if none is left."""
    moves = (step_norms > 0) & jnp.isfinite(step_norms)
    logs = jnp.where(moves, jnp.log(jnp.where(moves, step_norms, 1)), 0)
    count = jnp.sum(moves, dtype=step_norms.dtype)
    return jnp.where(count > 0, jnp.exp(jnp.sum(logs) / jnp.maximum(count, 1)), 0).astype(step_norms.dtype)


def scale_free(
    hyper_optimizer: optax.GradientTransformation, *, per_layer: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Scales radius updates by the base optimizer's step size.

    The released FTP moves a radius by about 0.01 per step, in absolute units of the norm. The effect of such a step
    depends on the learning rate and on the width of the layers. This wrapper multiplies the hyper-optimizer's step by
    the base optimizer's step size :math:`s_t`. Let :math:`u_{t,l,i}` be the base optimizer's update of unit `i` of
    layer `l`:

    .. math::

      s_t &= \Big( \prod_{l=1}^{L} \max_i \|u_{t,l,i}\|_1 \Big)^{1/L} \\
      \gamma_{t,l} &= \gamma_{t-1,l} - s_t \, \mathrm{HyperStep}(h_{t,l})

    :math:`s_t` is the geometric mean of the layers' largest norms. If the learning rate or the width of all layers is
    multiplied by a factor, :math:`s_t` is multiplied by the same factor. The radii follow the schedule of the base
    optimizer. All layers share one scale, so wide layers are still constrained more than narrow ones.

    With ``per_layer`` each layer has its own scale, :math:`s_{t,l} = \max_i \|u_{t,l,i}\|_1`. Wide and narrow layers
    are then constrained alike. With ``optax.adam(0.3)`` a radius is at most about 0.3 times the sum of the layer's
    steps so far.

    Args:
      hyper_optimizer: any optax transformation, such as ``optax.adam(0.1)``. Its learning rate is about the change of a
        radius per step, in units of a typical layer's step, or of the layer's own with ``per_layer``.
      per_layer: whether each layer has its own scale; False by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` for the argument ``hyper_optimizer`` of `ftp`, which passes the layers'
      step norms to it.

    Raises:
      ValueError: in ``update`` without step norms. It cannot optimize parameters by itself.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, radii, scale_free
      >>> params = {"kernel": jnp.zeros((4, 3))}
      >>> for rate in (0.1, 1.0):
      ...     tx = ftp(optax.sgd(rate), hyper_optimizer=scale_free(optax.adam(0.1)))
      ...     state, trained = tx.init(params), params
      ...     for _ in range(2):
      ...         updates, state = tx.update({"kernel": -jnp.ones((4, 3))}, state, trained)
      ...         trained = optax.apply_updates(trained, updates)
      ...     print(round(radii(state, trained)["kernel"] / (4 * rate), 4))  # in units of a step, 4 * rate
      0.0744
      0.0744

    References:
      The rule without the scale: Tian et al., `Fast Trainable Projection for Robust Fine-Tuning
      <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023, Algorithm 1. The scale is ours.

    .. note::
      The released code has no such scale. The default of `ftp` has none either.
    """
    _checks.transformations("scale_free", hyper_optimizer=hyper_optimizer)
    inner = optax.with_extra_args_support(hyper_optimizer)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        step_norms: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if step_norms is None:
            raise ValueError(
                "scale_free: update needs step_norms=; pass scale_free(...) as hyper_optimizer= to ftp, it is "
                "no optimizer for parameters."
            )
        updates, state = inner.update(updates, state, params, step_norms=step_norms, **extra_args)
        scale = own_steps(step_norms) if per_layer else common_step(step_norms)
        return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
