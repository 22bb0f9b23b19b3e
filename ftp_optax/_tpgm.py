"""TPGM, Trainable Projected Gradient Method: radii learned on held-out batches, by differentiating through the ball."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _hyper, _layers, _show, _units

_EPS = 1e-8  # the released code's smallest radius

Norm = Literal["mars", "l2"]


@_show.readable
class TPGMState(NamedTuple):
    """State of `tpgm`.

    Attributes:
      radii: the learned radii, shape ``(n_radii,)``, one for each constrained leaf or each layer of it. 0
        before the first step, which sets their initial values.
      hyper_state: the hyper-optimizer's state.
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves.
      layers: the number of radii of each constrained leaf, int32.
      initial: radii and hyper-state as `init` made them, for `reanchor`.
      inner_state: the base optimizer's state.
    """

    radii: jax.Array
    hyper_state: optax.OptState
    anchor: Any
    layers: jax.Array
    initial: _hyper.Initial
    inner_state: optax.OptState

    def restart(self, params: optax.Params) -> "TPGMState":
        """The state that `reanchor` returns: the params are the anchor, and the radii are reset."""
        first = _hyper.copied(self.initial)
        anchor = _anchor.refresh(self.anchor, params)
        return self._replace(radii=first.scalars, hyper_state=first.hyper_state, anchor=anchor)


radius_slope = functools.partial(_ball.radius_slope, _ball.projection_ratio)


def projected(anchor: jax.Array, displacement: jax.Array, share: jax.Array) -> jax.Array:
    """``W0 + clip(gamma / (n_i + 1e-8), 0, 1) D_i``."""
    return anchor.astype(displacement.dtype) + share * displacement


def inner_product(gradient: jax.Array, displacement: jax.Array) -> tuple[jax.Array]:
    """``g D``, summed over units."""
    return (gradient * displacement,)


def bounded(radii: jax.Array, least: jax.Array, most: jax.Array) -> jax.Array:
    """``clip(gamma, 1e-8, max_i n_i)``. A radius of 0, before its first use, starts at ``min_i n_i / 2``.

    The radius of a layer with a NaN norm does not change. A radius that is not finite counts as the smallest.
    """
    known = _ball.known(radii)
    started = jnp.where(known == 0, least / 2, known)
    return jnp.where(jnp.isnan(most), known, jnp.clip(started, _EPS, jnp.maximum(most, _EPS)))


def cast(array: jax.Array, like: jax.Array) -> jax.Array:
    """The array in another one's dtype."""
    return array.astype(like.dtype)


class Balls(NamedTuple):
    """The balls of all layers: their anchors, and the displacements from them with their norms."""

    layers: _layers.Layers
    anchors: list[jax.Array]
    displacements: list[jax.Array]
    norms: list[jax.Array]

    @classmethod
    def of(cls, layers: _layers.Layers, params: list[jax.Array], anchors: list[jax.Array], norm: Norm) -> "Balls":
        """The balls of fine-tuned parameters."""
        displacements = layers.map(_ball.displacement, params, anchors)
        return cls(layers, anchors, displacements, _ball.norms_of(norm, layers, displacements))

    def project(self, radii: jax.Array) -> list[jax.Array]:
        """The leaves, projected into balls of these radii, in at least float32."""
        gammas = self.layers.split(jnp.maximum(radii, 0))
        shares = self.layers.spread(self.layers.map(_ball.projection_ratio, self.norms, gammas))
        return self.layers.map(projected, self.anchors, self.displacements, shares)

    def into(self, params: Any, leaves: list[jax.Array]) -> Any:
        """The parameters with other constrained leaves, in their dtypes."""
        return self.layers.into(params, self.layers.map(cast, leaves, self.layers.of(params)))

    def learn(
        self,
        loss: Callable[[list[jax.Array]], jax.Array],
        radii: jax.Array,
        hyper_optimizer: optax.GradientTransformation,
        hyper_state: optax.OptState,
    ) -> tuple[jax.Array, optax.OptState]:
        """One gradient step of the radii on the held-out loss of the projected leaves."""
        layers, norms = self.layers, self.norms
        radii = bounded(radii, layers.join(norms, _layers.smallest), layers.join(norms, _layers.largest))
        gradients = jax.grad(loss)(self.project(radii))
        (products,) = layers.unit_sums(inner_product, gradients, self.displacements)
        slopes = layers.join(layers.map(radius_slope, products, norms, layers.split(radii)))
        return _hyper.step(hyper_optimizer, _hyper.finite(slopes), hyper_state, radii)


def tpgm(
    inner: optax.GradientTransformation,
    *,
    hyper_optimizer: optax.GradientTransformation = optax.adam(1e-2),
    norm: Norm = "mars",
    unit_axes: _units.UnitAxes = _units.flax_units,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trainable Projected Gradient Method: projects after every step, with radii learned on held-out batches.

    Let :math:`u_t` be the update of ``inner``, :math:`D_t = W_{t-1} + u_t - W_0`, and :math:`n_{t,i}` the norm of unit
    `i` of :math:`D_t`. The derivative treats :math:`D_t` and its norms as constants:

    .. math::

      W_{t,i}(\gamma) &= W_{0,i} + \mathrm{clip}\Big(\frac{\gamma}{n_{t,i} + 10^{-8}}, 0, 1\Big) D_{t,i} \\
      h_t &= \frac{d}{d\gamma} L_\text{held out}(W_t(\gamma)) \quad\text{at}\quad
             \gamma = \mathrm{clip}(\gamma_{t-1}, 10^{-8}, \max_i n_{t,i}) \\
      \gamma_t &= \gamma - \mathrm{HyperStep}(h_t)

    :math:`\gamma` starts at half the smallest unit norm of the first step. The held-out loss costs an additional
    forward and backward pass in every step, which `ftp` avoids. Put it last in a chain.

    ``update`` needs the extra argument ``held_out_loss``: a function from params to the scalar loss on a held-out
    batch. In a jitted step it closes over the batch: ``tx.update(grads, state, params, held_out_loss=lambda p:
    loss(p, batch))``.

    Args:
      inner: the base optimizer. It receives all other extra arguments. Any optax transformation works except
        `optax.contrib.schedule_free`, because the points that it averages are not projected.
      hyper_optimizer: updates the ``(n_radii,)`` array of radii, by default ``optax.adam(1e-2)``.
      norm: ``"mars"`` (default), the l1 norms of the units, or ``"l2"``, the l2 norm of the leaf or layer.
      unit_axes: ``(path, shape) -> axes``: the axes that index the units of a leaf, for ``norm="mars"``.
      layer_axes: how many leading axes of a leaf index separate layers, an int or ``(path, shape) -> int``.
      mask: which leaves are constrained, as in `ftp`: a tree of booleans or a function that returns one; None for all.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: the dtype of the stored anchor; None (default) keeps each leaf's own dtype.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `TPGMState`. Updates have the params' dtypes. Norms, radii and
      hyper-gradients are float32, or float64 for float64 leaves.

    Raises:
      ValueError: for an unknown norm, a mask or anchor that does not fit the params or constrains nothing, or an update
        without params or ``held_out_loss``.
      TypeError: for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import radii, tpgm
      >>> params = {"kernel": jnp.zeros((2, 3))}
      >>> tx = tpgm(optax.sgd(1.0))
      >>> state = tx.init(params)
      >>> held_out = lambda p: jnp.sum((p["kernel"] - 1.0) ** 2)
      >>> updates, state = tx.update({"kernel": -jnp.ones((2, 3))}, state, params, held_out_loss=held_out)
      >>> round(radii(state, params)["kernel"], 3)  # half of the norm 2, plus a step of 0.01
      1.01

    References:
      Tian et al., `Trainable Projected Gradient Method for Robust Fine-tuning <https://arxiv.org/abs/2303.10720>`_,
      CVPR 2023 (Algorithm 1, with one inner iteration).

    .. note::
      As in the released code, 1e-8 is added to a norm that is a divisor, and not to the bound. The released code resets
      the radii when a run resumes; here they are in the optimizer's state. Parameters of less than 32 bits are
      projected in float32 and rounded. The notes of `ftp` on `optax.lookahead` and `optax.lbfgs` apply here too.
    """
    _checks.transformations("tpgm", inner=inner, hyper_optimizer=hyper_optimizer)
    unit_axes = _ball.units_of(norm, unit_axes, "tpgm")
    frame = _anchor.Constraint("tpgm", unit_axes, layer_axes, mask, anchor, anchor_dtype).checked()
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> TPGMState:
        layers = frame.layers(params)
        first, again = _hyper.start(hyper_optimizer, 0.0, layers)
        return TPGMState(
            radii=first.scalars,
            hyper_state=first.hyper_state,
            anchor=frame.copy(layers),
            layers=jnp.array(layers.counts, dtype=jnp.int32),
            initial=again,
            inner_state=_checks.inner_state("tpgm", inner.init(params)),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        held_out_loss: Callable[[optax.Params], jax.Array] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TPGMState]:
        _checks.states("tpgm", state, TPGMState)
        layers = frame.recall(state.anchor, params, updates)
        if not callable(held_out_loss):
            raise ValueError(
                "tpgm: update needs held_out_loss=, a function from params to the loss on a held-out batch."
            )
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)

        # D_t = W_{t-1} + u_t - W_0
        stepped = optax.apply_updates(layers.leaves.replaced({}), step)
        balls = Balls.of(layers, layers.of(stepped), layers.of(state.anchor), norm)

        # gamma_t = gamma - HyperStep(d/dgamma L_held_out(W_t(gamma)))
        loss = lambda leaves: held_out_loss(balls.into(stepped, leaves))
        radii, hyper_state = balls.learn(loss, state.radii, hyper_optimizer, state.hyper_state)

        # W_t = W_0 + min(1, gamma_t / (n_{t,i} + 1e-8)) D_t
        targets = layers.of(balls.into(stepped, balls.project(radii)))
        moves = layers.map(jnp.subtract, targets, layers.of(params))
        return layers.into(step, moves), state._replace(radii=radii, hyper_state=hyper_state, inner_state=inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
