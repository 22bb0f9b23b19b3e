"""L2-SP: weight decay towards the anchor instead of towards zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _show, _units


@_show.readable
class AnchorDecayState(NamedTuple):
    """State of `add_decayed_anchor`.

    Attributes:
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves.
      anchor_steps: the number of updates so far, for a schedule of the strength.
    """

    anchor: Any
    anchor_steps: jax.Array

    def restart(self, params: optax.Params) -> "AnchorDecayState":
        """The state that `reanchor` returns: the params are the anchor, and the schedule restarts."""
        return AnchorDecayState(_anchor.refresh(self.anchor, params), jax.tree.map(jnp.zeros_like, self.anchor_steps))


def pulled(gradient: jax.Array, param: jax.Array, anchor: jax.Array, strength: jax.Array) -> jax.Array:
    """``g + alpha (W - W0)``: the gradient of the loss plus ``alpha/2 |W - W0|^2``."""
    gap = _ball.displacement(param, anchor)
    return (gradient.astype(gap.dtype) + strength.astype(gap.dtype) * gap).astype(gradient.dtype)


@_checks.no_base("add_decayed_anchor(0.01)")
def add_decayed_anchor(
    strength: float | jax.Array | optax.Schedule,
    *,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""L2-SP: adds weight decay towards the pre-trained weights to the gradient.

    .. math::

      g_t \leftarrow g_t + \alpha_t (W_t - W_0)

    :math:`\alpha` is the ``strength``. The added term is the gradient of :math:`\frac{\alpha}{2} \|W - W_0\|^2`.
    `optax.add_decayed_weights` does the same towards zero. Put it before the base optimizer:
    ``optax.chain(add_decayed_anchor(1e-2), optax.sgd(0.1))``. For decoupled decay, put it between the preconditioner
    and the learning rate: ``optax.chain(optax.scale_by_adam(), add_decayed_anchor(1e-2),
    optax.scale_by_learning_rate(1e-3))``.

    Args:
      strength: alpha, a number that is not negative, or a schedule of it.
      mask: which leaves are decayed, as in `ftp`: a tree of booleans or a function that returns one; None for all.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: the dtype of the stored anchor; None (default) keeps each leaf's own dtype.

    Returns:
      An `optax.GradientTransformationExtraArgs` with an `AnchorDecayState`. Gradients keep their dtypes.

    Raises:
      ValueError: for a negative strength, a mask or anchor that does not fit the params or constrains nothing, or an
        update without params.
      TypeError: for constrained leaves that are not real floating-point arrays, or for a base optimizer.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import add_decayed_anchor
      >>> tx = add_decayed_anchor(0.1)
      >>> state = tx.init({"bias": jnp.array([1.0])})
      >>> tx.update({"bias": jnp.array([0.0])}, state, {"bias": jnp.array([3.0])})[0]
      {'bias': Array([0.2], dtype=float32)}

    References:
      Li et al., `Explicit Inductive Bias for Transfer Learning with Convolutional Networks
      <https://arxiv.org/abs/1802.01483>`_, ICML 2018.
    """
    if not callable(strength):
        _checks.numbers("add_decayed_anchor", "be finite and not negative", strength=strength)
    frame = _anchor.Constraint("add_decayed_anchor", _units.whole_leaf, 0, mask, anchor, anchor_dtype).checked()

    def init_fn(params: optax.Params) -> AnchorDecayState:
        return AnchorDecayState(frame.copy(frame.layers(params)), jnp.zeros([], jnp.int32))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AnchorDecayState]:
        del extra_args
        _checks.states("add_decayed_anchor", state, AnchorDecayState)
        layers = frame.recall(state.anchor, params, updates)
        alpha = jnp.asarray(strength(state.anchor_steps) if callable(strength) else strength)
        alphas = [alpha] * len(layers.layouts)
        new = layers.map(pulled, layers.of(updates), layers.of(params), layers.of(state.anchor), alphas)
        steps = jnp.asarray(optax.safe_increment(state.anchor_steps))
        return layers.into(updates, new), AnchorDecayState(state.anchor, steps)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
