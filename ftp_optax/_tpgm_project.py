"""TPGM after training: one projection, with radii learned on a held-out set."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax

from ftp_optax import _anchor, _ball, _checks, _hyper, _tpgm, _units


def tpgm_project(
    params: optax.Params,
    anchor: optax.Params,
    held_out_loss: Callable[[optax.Params, Any], jax.Array],
    batches: Iterable[Any],
    *,
    hyper_optimizer: optax.GradientTransformation = optax.adam(1e-2),
    norm: _tpgm.Norm = "l2",
    unit_axes: _units.UnitAxes = _units.flax_units,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
) -> optax.Params:
    r"""Projects fine-tuned parameters once, into balls whose radii are learned on held-out batches.

    For every batch, with :math:`D = W_\mathrm{ft} - W_0` held fixed:

    .. math::

      \gamma \leftarrow \gamma - \mathrm{HyperStep}\Big( \frac{d}{d\gamma}
      L_\text{held out}\big(W_0 + \mathrm{clip}\big(\tfrac{\gamma}{n + 10^{-8}}, 0, 1\big) D\big) \Big)

    The TPGM paper uses this for large models. It costs nothing during training, and afterwards one forward and one
    backward pass per held-out batch (200 in the paper).

    Args:
      params: the fine-tuned parameters.
      anchor: the pre-trained parameters, a tree like the params.
      held_out_loss: ``(params, batch) -> loss``. This function jits it.
      batches: the held-out batches, one for each step of the radii, all with the same shapes.
      hyper_optimizer: updates the ``(n_radii,)`` array of radii, by default ``optax.adam(1e-2)``.
      norm: ``"l2"`` (default), the l2 norm of the leaf or layer, or ``"mars"``, the l1 norms of the units.
      unit_axes: ``(path, shape) -> axes``: the axes that index the units of a leaf, for ``norm="mars"``.
      layer_axes: how many leading axes of a leaf index separate layers, an int or ``(path, shape) -> int``.
      mask: which leaves are projected, as in `tpgm`.

    Returns:
      The projected parameters, in the params' structure and dtypes.

    Raises:
      ValueError: for an unknown norm, no batch at all, or a mask or anchor that does not fit the params.
      TypeError: for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> from ftp_optax import tpgm_project
      >>> loss = lambda p, batch: jnp.sum((p["kernel"] - batch) ** 2)
      >>> fine_tuned, anchor = {"kernel": jnp.array([3.0, 4.0])}, {"kernel": jnp.zeros(2)}
      >>> batches = [jnp.array([0.6, 0.8])] * 500  # a fifth of the way is best, a radius of 1
      >>> projected = tpgm_project(fine_tuned, anchor, loss, batches)
      >>> bool(jnp.allclose(projected["kernel"], batches[0], atol=0.01))
      True

    References:
      Tian et al., `Trainable Projected Gradient Method for Robust Fine-tuning <https://arxiv.org/abs/2303.10720>`_,
      CVPR 2023.
    """
    _checks.transformations("tpgm_project", hyper_optimizer=hyper_optimizer)
    if not callable(held_out_loss):
        raise TypeError(f"tpgm_project: held_out_loss must be (params, batch) -> loss, got {held_out_loss!r}.")
    if not isinstance(batches, Iterable):
        raise TypeError(f"tpgm_project: batches must be held-out batches one after the other, got {batches!r}.")
    unit_axes = _ball.units_of(norm, unit_axes, "tpgm_project")
    frame = _anchor.Constraint("tpgm_project", unit_axes, layer_axes, mask, anchor, None).checked()
    layers = frame.layers(params)
    anchors = layers.of(frame.copy(layers))
    first, _ = _hyper.start(hyper_optimizer, 0.0, layers)

    # params and anchors are arguments of the jitted step; in its closure they would be compiled as constants
    @jax.jit
    def step(
        params: optax.Params, anchors: list[Any], radii: jax.Array, hyper_state: optax.OptState, batch: Any
    ) -> tuple[jax.Array, optax.OptState]:
        balls = _tpgm.Balls.of(layers, layers.of(params), anchors, norm)
        loss = lambda leaves: held_out_loss(balls.into(params, leaves), batch)
        return balls.learn(loss, radii, hyper_optimizer, hyper_state)

    radii, hyper_state, steps = first.scalars, first.hyper_state, 0
    for batch in batches:
        radii, hyper_state = step(params, anchors, radii, hyper_state, batch)
        steps += 1
    if not steps:
        raise ValueError("tpgm_project: batches is empty; give one held-out batch for each step of the radii.")
    balls = _tpgm.Balls.of(layers, layers.of(params), anchors, norm)
    return balls.into(params, balls.project(radii))
