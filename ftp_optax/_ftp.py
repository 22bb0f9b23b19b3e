"""FTP, Fast Trainable Projection: a learned ball around the pre-trained weights, for any optax optimizer."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _hyper, _layers, _show, _units


@_show.readable
class FTPState(NamedTuple):
    """State of `ftp`. Its layout is public: `optax.tree.get(state, "radii")` finds the radii in any chain.

    Attributes:
      radii: the learned radii, shape ``(n_radii,)``, one for each constrained leaf or each layer of it.
      hyper_state: the hyper-optimizer's state.
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves; None with ``memory="lean"``.
      displacement: the displacement from the anchor after the base optimizer's last step, before the projection.
      layers: the number of radii of each constrained leaf, int32.
      initial: radii and hyper-state as `init` made them, for `reanchor`.
      inner_state: the base optimizer's state.
    """

    radii: jax.Array
    hyper_state: optax.OptState
    anchor: Any
    displacement: Any
    layers: jax.Array
    initial: _hyper.Initial
    inner_state: optax.OptState

    def restart(self, params: optax.Params) -> "FTPState":
        """The state that `reanchor` returns: the params are the anchor, and the radii are reset."""
        first, zeros = _hyper.copied(self.initial), jax.tree.map(jnp.zeros_like, self.displacement)
        # without an anchor, the displacement records which leaves are constrained
        anchor = _anchor.refresh(self.displacement if self.anchor is None else self.anchor, params)
        anchor = None if self.anchor is None else anchor
        return self._replace(radii=first.scalars, hyper_state=first.hyper_state, anchor=anchor, displacement=zeros)


def ftp(
    inner: optax.GradientTransformation,
    *,
    kappa: float | jax.Array = 1.0,
    hyper_optimizer: optax.GradientTransformation = optax.adam(1e-2),
    initial_radius: float | jax.Array = 1e-8,
    unit_axes: _units.UnitAxes = _units.flax_units,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
    memory: Literal["exact", "lean"] = "exact",
    hypergradient: Literal["released", "exact"] = "released",
) -> optax.GradientTransformationExtraArgs:
    r"""Fast Trainable Projection: keeps every layer in a learned ball around its pre-trained weights.

    After the step of the base optimizer, every unit of a constrained leaf is projected into the ball of radius
    :math:`\gamma_t` around the anchor :math:`W_0`. The radius follows its hyper-gradient. Let :math:`u_t` be the update
    of ``inner``, :math:`g_t` the loss gradient, and :math:`n_{t,i} = \|c_{t,i}\|_1 + 10^{-8}` the norm of unit `i` of
    the displacement (``unit_axes``):

    .. math::

      c_t &= W_{t-1} + u_t - W_0 \\
      h_t &= \frac{d}{d\gamma} \Big\langle g_t, \frac{\gamma}{n_{t-1,i}} c_{t-1,i} \Big\rangle
           = \sum_i \frac{\langle g_{t,i}, c_{t-1,i} \rangle}{n_{t-1,i}} \\
      \gamma_t &= \mathrm{clip}\big(\gamma_{t-1} - \mathrm{HyperStep}(\kappa^{[h_t > 0]} h_t),\;
                   10^{-8},\; \max_i n_{t,i}\big) \\
      W_{t,i} &= W_{0,i} + \min(1, \gamma_t / n_{t,i})\, c_{t,i}

    :math:`\kappa` is ``kappa``, HyperStep is ``hyper_optimizer``. The hyper-gradient :math:`h_t` is the derivative of
    the loss with respect to the radius of the *last* projection. It uses the gradient of *this* step, so it needs no
    second forward pass. The first step does not move constrained leaves. All others take the update of ``inner``.

    Put it last in a chain, because a later transformation can break the constraint. Put gradient clipping before it:
    ``optax.chain(optax.clip_by_global_norm(1.0), ftp(optax.adamw(1e-4)))``. The hyper-gradient then uses the clipped
    gradient. :math:`h_t` excludes weight decay, :math:`u_t` includes it.

    ``update`` accepts the extra argument ``held_out_grads``: the gradient of the loss on held-out data at the params,
    as a tree like the params. :math:`h_t` then uses it instead of :math:`g_t`, as `tpgm` does, in this step alone.

    Args:
      inner: the base optimizer. It receives every leaf and all extra arguments. Any optax transformation works but
        `optax.contrib.schedule_free`, whose averages are not projected: put that outside, around ``memory="lean"``.
      kappa: factor in [0, 1] on positive hyper-gradients, which shrink a radius; 1 by default. With 0 none shrinks so.
      hyper_optimizer: updates the ``(n_radii,)`` array of radii, by default ``optax.adam(1e-2)``. Its learning rate is
        about the change of a radius per step, in the units of the norm; a schedule works. `scale_free` around it scales
        these changes by the base optimizer's step size: it reads ``step_norms``, each layer's largest update norm.
      initial_radius: the initial radius, positive, in the units of the norm.
      unit_axes: ``(path, shape) -> axes``: the axes that index the units of a leaf. `flax_units` (default),
        `torch_units`, `whole_leaf`, `elementwise` or your own.
      layer_axes: how many leading axes of a leaf index separate layers (scan over layers): an int for all leaves,
        `stacked_layers` or your own ``(path, shape) -> int``. Each layer has its own radius.
      mask: which leaves are constrained: a tree or prefix tree of booleans, or a function from params to one. None
        (default) for all. Leave out a new head: it is not pre-trained.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: the dtype of the stored anchor; None (default) keeps each leaf's own dtype. Conversion may round.
      memory: ``"exact"`` (default) keeps the anchor and the displacement. ``"lean"`` keeps only the displacement, and
        computes :math:`c_t = u_t + \min(1, \gamma_{t-1} / n_{t-1,i}) c_{t-1,i}`: half the extra memory, and an anchor
        that moves with parameters that you edit between steps.
      hypergradient: ``"released"`` (default) sums over all units. ``"exact"`` follows the chain rule and sums over the
        units that were projected.

    Returns:
      An `optax.GradientTransformationExtraArgs` with an `FTPState`. Updates have the params' dtypes. Norms, radii and
      hyper-gradients are float32, or float64 for float64 leaves. Constrained leaves of less than 32 bits have float32
      master weights (anchor + displacement), so ``inner`` receives float32 gradients and parameters for them.

    Raises:
      ValueError: for arguments out of range, a mask or anchor that does not fit the params or constrains nothing,
        `optax.contrib.schedule_free` inside, or an update without params.
      TypeError: for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import ftp, radii
      >>> params = {"body": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.zeros((3, 1))}}
      >>> tx = ftp(optax.adam(1e-3), mask={"body": True, "head": False})
      >>> state = tx.init(params)
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> for step in range(100):
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{radii(state, params)['body/kernel']:.3f}")
      0.198

    References:
      Tian et al., `Fast Trainable Projection for Robust Fine-Tuning <https://arxiv.org/abs/2310.19182>`_, NeurIPS 2023
      (Algorithm 1). The norm: Gouk et al., `Distance-Based Regularisation of Deep Networks for Fine-Tuning
      <https://arxiv.org/abs/2002.08253>`_, ICLR 2021.

    .. note::
      The defaults reproduce the released code to rounding, with these differences. All state is in the optimizer's
      state, so a resumed run continues exactly. Buffers belong to leaves, not to positions. A mask excludes leaves, and
      a mask that matches nothing is an error. Data types below float32 work.
      A non-finite gradient makes its own leaf non-finite, as with ``inner`` alone. The radii of all leaves stay finite.
      `optax.apply_if_finite` around the whole optimizer skips such steps. A hyper-optimizer that is undefined at a
      hyper-gradient of zero takes a step of 0 there. A radius that is not finite counts as 1e-8.

      With `optax.inject_hyperparams`, pass ``static_args=("unit_axes", "layer_axes", "mask")``. `optax.lookahead` with
      ``reset_state=True`` calls `init` again: pass ``anchor=``. A line search (`optax.lbfgs`) keeps the loss before the
      projection: do not use `optax.value_and_grad_from_state`. A state of AdamW on bfloat16 parameters becomes an
      ``inner_state`` by conversion to the dtypes that ``init`` gives, which are float32.
    """
    _checks.transformations("ftp", inner=inner, hyper_optimizer=hyper_optimizer)
    _checks.numbers("ftp", "lie in [0, 1]", kappa=kappa)
    _checks.numbers("ftp", "be positive and finite", initial_radius=initial_radius)
    _checks.choices("ftp", ("exact", "lean"), memory=memory)
    _checks.choices("ftp", ("released", "exact"), hypergradient=hypergradient)
    if memory == "lean" and anchor is not None:
        raise ValueError("ftp: memory='lean' keeps no anchor: call init with it as params, or use memory='exact'.")
    frame = _anchor.Constraint("ftp", unit_axes, layer_axes, mask, anchor, anchor_dtype).checked()
    ratio = _ball.projection_ratio if hypergradient == "exact" else _ball.released_ratio
    radius_slope = functools.partial(_ball.radius_slope, ratio)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> FTPState:
        layers = frame.layers(params, full_precision=memory == "lean")
        first, again = _hyper.start(hyper_optimizer, initial_radius, layers)
        masters = [weight.astype(_units.wide_dtype(weight)) for weight in layers.of(params)]
        return FTPState(
            radii=first.scalars,
            hyper_state=first.hyper_state,
            anchor=frame.copy(layers) if memory == "exact" else None,
            displacement=frame.zeros(layers),
            layers=jnp.array(layers.counts, dtype=jnp.int32),
            initial=again,
            inner_state=_checks.inner_state("ftp", inner.init(layers.into(params, masters))),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        held_out_grads: optax.Updates | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, FTPState]:
        _checks.states("ftp", state, FTPState)
        layers = frame.recall(state.displacement, params, updates)
        weights, anchors, last = layers.of(params), layers.of(state.anchor), layers.of(state.displacement)
        gradients, old = layers.of(updates), _ball.known(state.radii)
        judges = gradients if held_out_grads is None else layers.of(held_out_grads, "ftp: held_out_grads")
        radii = layers.split(old)

        # h_t = sum_i <g_t, c_{t-1}>_i / n_{t-1,i}
        products, norms = layers.unit_sums(_ball.inner_products, judges, last)
        slopes = _hyper.finite(layers.join(layers.map(radius_slope, products, norms, radii)))
        slopes = jnp.where(slopes > 0, (kappa * slopes).astype(slopes.dtype), slopes)

        # u_t, with master weights for parameters of less than 32 bits
        ratios = layers.spread(layers.map(_ball.projection_ratio, norms, radii))
        before = layers.map(_ball.current_displacement, weights, anchors, last, ratios)
        masters = layers.map(_ball.master, weights, anchors, before)
        gradients = layers.map(_ball.as_master, gradients, weights, masters)
        step, inner_state = inner.update(
            layers.into(updates, gradients), state.inner_state, layers.into(params, masters), **extra_args
        )
        moves = layers.of(step)

        # c_t = W_{t-1} + u_t - W_0
        reached = layers.after(slopes, layers.map(_ball.reached, before, moves))
        (norms,) = layers.unit_sums(_ball.magnitudes, reached, apart=True)

        # gamma_t = clip(gamma_{t-1} - HyperStep(h_t), 1e-8, max_i n_{t,i})
        steps = layers.join(layers.unit_sums(_ball.magnitudes, moves)[0], _layers.largest)
        moved, hyper_state = _hyper.step(hyper_optimizer, slopes, state.hyper_state, old, step_norms=steps)
        radii = _ball.bounded(moved, layers.join(norms, _layers.largest))

        # W_t = W_0 + min(1, gamma_t / n_{t,i}) c_t
        ratios = layers.spread(layers.map(_ball.projection_ratio, norms, layers.split(radii)))
        projected = layers.map(_ball.projection, weights, anchors, moves, reached, ratios)
        displacement = layers.into(state.displacement, reached)
        state = state._replace(radii=radii, hyper_state=hyper_state, displacement=displacement, inner_state=inner_state)
        return layers.into(step, projected), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
