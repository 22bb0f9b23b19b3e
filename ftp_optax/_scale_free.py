"""Radii whose learning rate has no unit: their steps are measured in the base optimizer's own."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _checks


def common_step(step_norms: jax.Array) -> jax.Array:
    """The geometric mean of the layers' step norms; a layer that stands still, or whose step is not finite, has no say.

    If none has one, the scale is 0.
    """
    moves = (step_norms > 0) & jnp.isfinite(step_norms)
    logs = jnp.where(moves, jnp.log(jnp.where(moves, step_norms, 1)), 0)
    count = jnp.sum(moves, dtype=step_norms.dtype)
    return jnp.where(count > 0, jnp.exp(jnp.sum(logs) / jnp.maximum(count, 1)), 0).astype(step_norms.dtype)


def scale_free(hyper_optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Makes a hyper-optimizer of radii count in steps of the base optimizer.

    The released FTP moves a radius by about 0.01 a step in absolute units of the norm. Whether that binds depends on
    the learning rate and on the width of the layers. Here the hyper-optimizer's step is multiplied by how far the base
    optimizer goes, with :math:`u_{t,l,i}` its update of unit `i` of layer `l`:

    .. math::

      s_t &= \Big( \prod_{l=1}^{L} \max_i \|u_{t,l,i}\|_1 \Big)^{1/L} \\
      \gamma_{t,l} &= \gamma_{t-1,l} - s_t \, \mathrm{HyperStep}(h_{t,l})

    One scale :math:`s_t` for all layers: the geometric mean over them. Multiplying the learning rate, or the width of
    all layers, by a factor multiplies :math:`s_t` by the same factor, and the schedule of the base optimizer is the
    schedule of the radii. And one absolute unit for all layers is a prior that holds wide layers tighter than narrow
    ones, which a scale of its own for each layer would lose.

    Args:
      hyper_optimizer: any optax transformation, such as ``optax.adam(0.1)``; its learning rate is now about the change
        of a radius in units of a typical layer's step.

    Returns:
      A `optax.GradientTransformationExtraArgs` for the argument ``hyper_optimizer`` of `ftp`, which tells it the
      layers' step norms.

    Raises:
      ValueError: in ``update``, if it is not told the step norms: it is no optimizer for parameters.

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
      ...     print(round(radii(state, trained)["kernel"] / (4 * rate), 4))  # in steps, which are 4 * rate long
      0.0744
      0.0744

    References:
      The unit that it replaces: Tian et al., `Fast Trainable Projection for Robust Fine-Tuning
      <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023, Algorithm 1. The scale is ours.

    .. note::
      Not in the released code, whose absolute unit stays the default of `ftp`.
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
        scale = common_step(step_norms)
        return jax.tree.map(lambda u: (scale * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
