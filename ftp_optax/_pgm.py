"""PGM, projected gradient methods: a ball of fixed radius around the pre-trained weights."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _show, _units


@_show.readable
class PGMState(NamedTuple):
    """State of `pgm`.

    Attributes:
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves.
      inner_state: the base optimizer's state.
    """

    anchor: Any
    inner_state: optax.OptState

    def restart(self, params: optax.Params) -> "PGMState":
        """The state that `reanchor` returns: the params are the anchor."""
        return self._replace(anchor=_anchor.refresh(self.anchor, params))


def pgm(
    inner: optax.GradientTransformation,
    *,
    radius: float | jax.Array,
    norm: Literal["mars", "l2"] = "mars",
    unit_axes: _units.UnitAxes = _units.flax_units,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS-PGM and L2-PGM: projects every layer into a ball of fixed radius around its pre-trained weights.

    Let :math:`u_t` be the update of ``inner`` and :math:`c_t = W_{t-1} + u_t - W_0`:

    .. math::

      W_{t,i} = W_{0,i} + \min(1, \gamma / n_{t,i})\, c_{t,i}, \qquad
      n_{t,i} = \|c_{t,i}\|_1 \text{ of each unit, or } \|c_t\|_2 \text{ of the layer}

    for ``norm="mars"`` and ``norm="l2"``. :math:`\gamma` is the ``radius``, which `ftp` learns instead. Put it last in
    a chain, because a later transformation can break the constraint.

    Args:
      inner: the base optimizer. Any optax transformation works except `optax.contrib.schedule_free`, because the points
        that it averages are not projected.
      radius: gamma, positive, in the units of the norm.
      norm: ``"mars"`` (default), the l1 norms of the units, or ``"l2"``, the l2 norm of the leaf or layer.
      unit_axes: ``(path, shape) -> axes``: the axes that index the units of a leaf, for ``norm="mars"``.
      layer_axes: how many leading axes of a leaf index separate layers, an int or ``(path, shape) -> int``.
      mask: which leaves are constrained, as in `ftp`: a tree of booleans or a function that returns one; None for all.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: the dtype of the stored anchor; None (default) keeps each leaf's own dtype.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `PGMState`. Updates have the params' dtypes.

    Raises:
      ValueError: for arguments out of range, a mask or anchor that does not fit the params or constrains nothing, or
        an update without params.
      TypeError: for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import pgm
      >>> params = {"bias": jnp.zeros(2)}
      >>> tx = pgm(optax.sgd(1.0), radius=1.0)
      >>> updates, state = tx.update({"bias": jnp.array([-3.0, -1.0])}, tx.init(params), params)
      >>> updates
      {'bias': Array([0.75, 0.25], dtype=float32)}

    References:
      Gouk et al., `Distance-Based Regularisation of Deep Networks for Fine-Tuning
      <https://arxiv.org/abs/2002.08253>`_, ICLR 2021.

    .. note::
      Parameters of less than 32 bits are projected in float32 and rounded. Unlike `ftp`, this method keeps no float32
      master weights. To schedule the radius, use `optax.inject_hyperparams` with
      ``static_args=("unit_axes", "layer_axes", "mask")``. The notes of `ftp` on `optax.lookahead` and `optax.lbfgs`
      apply here too.
    """
    _checks.transformations("pgm", inner=inner)
    _checks.numbers("pgm", "be positive and finite", radius=radius)
    unit_axes = _ball.units_of(norm, unit_axes, "pgm")
    frame = _anchor.Constraint("pgm", unit_axes, layer_axes, mask, anchor, anchor_dtype).checked()
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> PGMState:
        return PGMState(frame.copy(frame.layers(params)), _checks.inner_state("pgm", inner.init(params)))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, PGMState]:
        _checks.states("pgm", state, PGMState)
        layers = frame.recall(state.anchor, params, updates)
        weights, anchors = layers.of(params), layers.of(state.anchor)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        moves = layers.of(step)

        # c_t = W_{t-1} + u_t - W_0
        reached = layers.map(_ball.reached, layers.map(_ball.displacement, weights, anchors), moves)

        # W_t = W_0 + min(1, gamma / n_{t,i}) c_t
        norms = _ball.norms_of(norm, layers, reached)
        radii = layers.split(jnp.full(sum(layers.counts), radius, layers.dtype))
        ratios = layers.spread(layers.map(_ball.projection_ratio, norms, radii))
        projected = layers.map(_ball.projection, weights, anchors, moves, reached, ratios)
        return layers.into(step, projected), PGMState(state.anchor, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
