"""DiGraP, Directional Gradient Projection: removes a learned share of the gradient that conflicts with the anchor."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from ftp_optax import _anchor, _ball, _checks, _hyper, _show, _units

_EPS = 1e-8  # the released code's: added to the squared distance in the stored projection
_FLOOR = 1e-12  # torch's F.normalize: the smallest norm that is divided by


@_show.readable
class DiGraPState(NamedTuple):
    """State of `digrap`. Its layout is public: `optax.tree.get(state, "strengths")` finds the strengths in any chain.

    Attributes:
      strengths: those in [0, max_strength], shape ``(n_strengths,)``, one for each constrained leaf or layer of it.
      hyper_state: the hyper-optimizer's state.
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves.
      displacement: ``c``, the displacement from the anchor before the last step; None with ``memory="lean"``.
      scales: ``<g, c> / (|c|^2 + 1e-8)`` of the last step, shape ``(n_strengths,)``. Times the displacement it is
        ``p``, the component of the gradient along it. ``p`` itself would cost a pass over the parameters.
      layers: the number of strengths of each constrained leaf, int32.
      initial: strengths and hyper-state as `init` made them, for `reanchor`.
    """

    strengths: jax.Array
    hyper_state: optax.OptState
    anchor: Any
    displacement: Any
    scales: jax.Array
    layers: jax.Array
    initial: _hyper.Initial

    def restart(self, params: optax.Params) -> "DiGraPState":
        """The state that `reanchor` returns: the params are the anchor, and the strengths are reset."""
        first = _hyper.copied(self.initial)
        return self._replace(
            strengths=first.scalars,
            hyper_state=first.hyper_state,
            anchor=_anchor.refresh(self.anchor, params),
            displacement=jax.tree.map(jnp.zeros_like, self.displacement),  # None stays None
            scales=jax.tree.map(jnp.zeros_like, self.scales),
        )


def products(gradient: jax.Array, param: jax.Array, anchor: jax.Array, last: jax.Array | None) -> tuple[jax.Array, ...]:
    """``g c`` and ``c^2``, of this displacement and of the last, and ``g^2``: all reads of the large arrays."""
    gap = _ball.displacement(param, anchor)
    wide = gradient.astype(gap.dtype)
    along = [(wide * c, jnp.square(c)) for c in (gap, last) if c is not None]
    return *(product for pair in along for product in pair), jnp.square(wide)


def strength_slope(
    dots: jax.Array, squares: jax.Array, gradient_squares: jax.Array, scale: jax.Array, strength: jax.Array
) -> jax.Array:
    """``d/domega sum_i < g_i/|g_i|, omega p_i/|p_i| >``, with norms of at least 1e-12.

    The last step was ``W - alpha (g - omega p)``, so the derivative of the loss by omega is ``alpha <g_next, p>``;
    ``alpha`` and the gradients' size are normalised away. ``p`` is a displacement times one scale per layer.
    """
    lengths = jnp.maximum(_ball.root(gradient_squares), _FLOOR)
    give_back_lengths = jnp.abs(scale) * _ball.root(squares)
    # below the floor, W and W0 cancel in the sum; derivatives above 1e20 would have to cancel too
    floored = jnp.where(give_back_lengths > _FLOOR, scale, lax.stop_gradient(scale))
    give_back = lambda omega: omega * (floored / jnp.maximum(give_back_lengths, _FLOOR))
    return _hyper.hypergradient(dots / lengths, give_back, strength)


def shares_of(dots: jax.Array, squares: jax.Array, omega: jax.Array) -> jax.Array:
    """``omega <g, c> / |c|^2`` where ``<g, c> < 0``, where a step along -g leads away from the anchor; else 0."""
    conflict = (dots < 0) & (squares > 0)
    slopes = dots / jnp.where(conflict, squares, 1)
    return jnp.where(conflict & jnp.isfinite(slopes), omega * slopes, 0)


def without_conflict(gradient: jax.Array, displacement: jax.Array, share: jax.Array) -> jax.Array:
    """``g - share c``, and ``g`` itself where the share is 0."""
    projected = gradient.astype(displacement.dtype) - share * displacement
    return jnp.where(share == 0, gradient, projected.astype(gradient.dtype))


@_checks.no_base("digrap()")
def digrap(
    *,
    hyper_optimizer: optax.GradientTransformation = optax.adam(0.5),
    max_strength: float | jax.Array = 1.0,
    initial_strength: float | jax.Array = 0.0,
    unit_axes: _units.UnitAxes = _units.flax_fibers,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
    memory: Literal["exact", "lean"] = "exact",
) -> optax.GradientTransformationExtraArgs:
    r"""Directional Gradient Projection: removes a learned share of the gradient that conflicts with the anchor.

    With the defaults, which are the paper's, the strength seldom leaves 0 in an ordinary run, and training is that of
    the base optimizer. For an effect use ``digrap(initial_strength=1.0, hyper_optimizer=optax.adam(0.01))``.

    The displacement :math:`c_t = W_t - W_0` is the gradient of :math:`\frac12 \|W - W_0\|^2`. The loss gradient
    :math:`g_t` conflicts with it where :math:`\langle g_t, c_t \rangle < 0`: there a descent step leads further away
    from the pre-trained weights :math:`W_0`. DiGraP removes a share :math:`\omega_t`, the strength, of that component.
    The strength follows the derivative of the loss by the share removed in the last step, every fiber `i` normalised:

    .. math::

      p_t &= \frac{\langle g_t, c_t \rangle}{\|c_t\|^2 + 10^{-8}} c_t \\
      h_t &= \frac{d}{d\omega} \sum_i \Big\langle \frac{g_{t,i}}{\|g_{t,i}\|},
             \omega \frac{p_{t-1,i}}{\|p_{t-1,i}\|} \Big\rangle \\
      \omega_t &= \mathrm{clip}(\omega_{t-1} - \mathrm{HyperStep}(h_t), 0, \omega_\mathrm{max}) \\
      g_t &\leftarrow g_t - \omega_t \frac{\langle g_t, c_t \rangle}{\|c_t\|^2} c_t
             \quad\text{where } \langle g_t, c_t \rangle < 0

    HyperStep is ``hyper_optimizer``, :math:`\omega_\mathrm{max}` is ``max_strength``. Inner products sum over the leaf
    (or layer of it). Put it before the base optimizer: ``optax.chain(digrap(), optax.adamw(1e-4))``.

    Args:
      hyper_optimizer: updates the ``(n_strengths,)`` strengths; its learning rate is the paper's mu, 0.5 by default.
      max_strength: the upper bound of the strengths, in (0, 1].
      initial_strength: their initial value, in [0, 1].
      unit_axes: ``(path, shape) -> axes``: the axes that index the fibers of a leaf, normalised one by one in the
        hyper-gradient. `flax_fibers` (default), `torch_fibers`, `whole_leaf` or your own.
      layer_axes: how many leading axes of a leaf index separate layers, as in `ftp`. Each layer has its own strength.
      mask: which leaves are constrained, as in `ftp`: a tree of booleans or a function that returns one; None for all.
      anchor: the pre-trained parameters, as in `ftp`. None: the params given to `init`.
      anchor_dtype: the dtype of the stored anchor, as in `ftp`.
      memory: ``"exact"`` (default) keeps anchor and displacement. ``"lean"`` keeps the anchor, half the extra memory;
        :math:`p_{t-1}` then has the direction of :math:`c_t` and the sign of the last step.

    Returns:
      An `optax.GradientTransformationExtraArgs` with a `DiGraPState`. Gradients keep their dtypes. Projections,
      strengths and hyper-gradients are float32, or float64 for float64 leaves.

    Raises:
      ValueError: for arguments out of range, a mask or anchor that does not fit the params, or an update without them.
      TypeError: for constrained leaves that are not real floating-point arrays, or for a base optimizer.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import digrap, strengths
      >>> params = {"kernel": jnp.ones((2, 3))}
      >>> tx = optax.chain(digrap(), optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> for sign in (1.0, 1.0, -1.0):  # the strength rises where the gradient turns back
      ...     updates, state = tx.update({"kernel": jnp.full((2, 3), sign)}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(f"{strengths(state, params)['kernel']:.2f}")
      0.32

    References:
      Huang et al., `Directional Gradient Projection for Robust Fine-Tuning of Foundation Models
      <https://arxiv.org/abs/2502.15895>`_, ICLR 2025 (Algorithm 1, figure 1).

    .. note::
      The defaults reproduce the released code to rounding. Like it, they project on conflict, as the paper's figure 1
      and text say; the condition printed in its Algorithm 1 is reversed. The differences: all state is the
      optimizer's, a vector is one fiber, where the released code fails, and gradients are not changed in place.
      A non-finite gradient passes through its own leaf unchanged, and strengths stay finite. `optax.apply_if_finite`
      around the chain skips such steps. A hyper-optimizer that is undefined at a hyper-gradient of zero takes a step of
      0 there. A strength that is not finite counts as 0. With `optax.inject_hyperparams`, pass
      ``static_args=("unit_axes", "layer_axes", "mask")``. For LoRA the anchor is the adapters' values at init.
    """
    _checks.transformations("digrap", hyper_optimizer=hyper_optimizer)
    _checks.numbers("digrap", "lie in (0, 1]", max_strength=max_strength)
    _checks.numbers("digrap", "lie in [0, 1]", initial_strength=initial_strength)
    _checks.choices("digrap", ("exact", "lean"), memory=memory)
    frame = _anchor.Constraint("digrap", unit_axes, layer_axes, mask, anchor, anchor_dtype).checked()

    def init_fn(params: optax.Params) -> DiGraPState:
        layers = frame.layers(params)
        first, again = _hyper.start(hyper_optimizer, initial_strength, layers)
        return DiGraPState(
            strengths=first.scalars,
            hyper_state=first.hyper_state,
            anchor=frame.copy(layers),
            displacement=frame.zeros(layers) if memory == "exact" else None,
            scales=jnp.zeros_like(first.scalars),
            layers=jnp.array(layers.counts, dtype=jnp.int32),
            initial=again,
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, DiGraPState]:
        del extra_args
        _checks.states("digrap", state, DiGraPState)
        layers = frame.recall(state.anchor, params, updates)
        gradients, last = layers.of(updates), layers.of(state.displacement)
        old = jnp.where(jnp.isfinite(state.strengths), state.strengths, 0)

        # c_t = W_t - W_0; with lean memory in place of c_{t-1} too
        weights, anchors = layers.of(params), layers.of(state.anchor)
        *along, gradient_squares = layers.unit_sums(products, gradients, weights, anchors, last)
        gaps = layers.map(_ball.displacement, weights, anchors)

        # h_t = d/domega sum_i < g_{t,i} / |g_{t,i}|, omega p_{t-1,i} / |p_{t-1,i}| >
        learned = layers.split(state.scales), layers.split(old)
        slopes = _hyper.finite(layers.join(layers.map(strength_slope, *along[-2:], gradient_squares, *learned)))

        # omega_t = clip(omega_{t-1} - HyperStep(h_t), 0, omega_max)
        moved, hyper_state = _hyper.step(hyper_optimizer, slopes, state.hyper_state, old)
        strengths = jnp.clip(moved, 0, max_strength).astype(moved.dtype)

        # g_t - omega_t <g_t, c_t> / |c_t|^2 c_t where <g_t, c_t> < 0
        gaps = gaps if state.displacement is None else layers.after(slopes, gaps)
        dots, squares = (layers.join(sums) for sums in along[:2])
        shares = layers.spread(layers.split(shares_of(dots, squares, strengths)))
        cleared = layers.map(without_conflict, gradients, gaps, shares)

        # p_t = <g_t, c_t> / (|c_t|^2 + 1e-8) c_t, for the next step
        scales = dots / (squares + _EPS)
        last = None if state.displacement is None else layers.into(state.displacement, gaps)
        state = state._replace(strengths=strengths, hyper_state=hyper_state, displacement=last, scales=scales)
        return layers.into(updates, cleared), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
