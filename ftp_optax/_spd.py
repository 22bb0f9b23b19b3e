"""SPD, Selective Projection Decay: decays towards the anchor only those layers that a step moved further away."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _ball, _checks, _layers, _show, _trees, _units


@_show.readable
class SPDState(NamedTuple):
    """State of `spd`.

    Attributes:
      anchor: the pre-trained parameters, `optax.MaskedNode` at unconstrained leaves.
      spd_steps: the number of updates so far, for a schedule of the strength.
      inner_state: the base optimizer's state.
    """

    anchor: Any
    spd_steps: jax.Array
    inner_state: optax.OptState

    def restart(self, params: optax.Params) -> "SPDState":
        """The state that `reanchor` returns: the params are the anchor, and the schedule restarts."""
        return self._replace(
            anchor=_anchor.refresh(self.anchor, params), spd_steps=jax.tree.map(jnp.zeros_like, self.spd_steps)
        )


def products(gradient: jax.Array, before: jax.Array, reached: jax.Array) -> tuple[jax.Array, ...]:
    """``g d``, ``d^2`` and ``c^2``, summed over layers."""
    return gradient.astype(before.dtype) * before, jnp.square(before), jnp.square(reached)


def decay_share(slope: jax.Array, before: jax.Array, reached: jax.Array, strength: jax.Array) -> jax.Array:
    """``lambda r`` where ``<g, d> > 0``, else 0. ``r`` is the share by which ``|d|`` grew to ``|c|``.

    Also 0 where ``|c|^2`` overflows the dtype.
    """
    before, reached = _ball.root(before), _ball.root(reached)
    grown = (reached - before) / jnp.where(reached > 0, reached, 1)
    return jnp.where((slope > 0) & jnp.isfinite(grown), strength * jnp.clip(grown, 0, 1), 0)


def decayed(param: jax.Array, update: jax.Array, reached: jax.Array, share: jax.Array) -> jax.Array:
    """``u - lambda r c``, and ``u`` itself where the share is 0."""
    wide = update.astype(reached.dtype)
    return jnp.where(share == 0, wide, wide - share * reached).astype(param.dtype)


def _require_strengths(strength: Any) -> None:
    """Checks every number of a strength or tree of strengths. A schedule is not called here."""
    leaves = _trees.flatten(strength)
    for path, value in zip(leaves.paths, leaves.values, strict=True):
        if not (callable(strength) or _trees.is_masked(value)):
            name = f"strength at {path!r}" if path else "strength"
            _checks.numbers("spd", "be finite and not negative", **{name: value})


def spd(
    inner: optax.GradientTransformation,
    *,
    strength: Any,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Selective Projection Decay: decays the layers that a step moved further from their pre-trained weights.

    Let :math:`u_t` be the update of ``inner``, :math:`d = W_{t-1} - W_0` and :math:`c = d + u_t`:

    .. math::

      r &= \mathrm{clip}\Big(\frac{\|c\| - \|d\|}{\|c\|}, 0, 1\Big) \\
      W_t &= W_0 + c - \lambda_t\, r\, c \quad\text{where } \langle g_t, d \rangle > 0, \text{ else } W_0 + c

    :math:`\lambda` is the ``strength``. With 1 the layer returns to its distance from the anchor before the step. The
    decay is not multiplied by the learning rate. Norms and inner products sum over the whole leaf, or layer of it. Put
    it last in a chain.

    Args:
      inner: the base optimizer; any optax transformation.
      strength: lambda: a number that is not negative (0.1 to 3.2 in published runs), a schedule of it, or a prefix tree
        of the params with one number for each layer, as from `maps_strengths`.
      layer_axes: how many leading axes of a leaf index separate layers, an int or ``(path, shape) -> int``.
      mask: which leaves are constrained, as in `ftp`: a tree of booleans or a function that returns one; None for all.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: the dtype of the stored anchor; None (default) keeps each leaf's own dtype.

    Returns:
      An `optax.GradientTransformationExtraArgs` with an `SPDState`. Updates have the params' dtypes.

    Raises:
      ValueError: for a negative strength or a constrained leaf without one, a mask or anchor that does not fit the
        params or constrains nothing, or an update without params.
      TypeError: for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import spd
      >>> tx = spd(optax.sgd(1.0), strength=1.0, anchor={"bias": jnp.array([0.0])})
      >>> params = {"bias": jnp.array([1.0])}
      >>> tx.update({"bias": jnp.array([-0.5])}, tx.init(params), params)[0]  # no conflict: the step is unchanged
      {'bias': Array([0.5], dtype=float32)}

    References:
      Tian et al., `Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models
      <https://arxiv.org/abs/2411.01713>`_, NeurIPS 2024 (Algorithm 1).

    .. note::
      The condition uses the raw gradient and the weights before the step, as the released code does. Put
      `optax.contrib.schedule_free` outside: inside, it evaluates an average that is not decayed. The notes of `ftp` on
      `optax.lookahead` and `optax.lbfgs` apply here too.
    """
    _checks.transformations("spd", inner=inner)
    _require_strengths(strength)
    frame = _anchor.Constraint("spd", _units.whole_layer, layer_axes, mask, anchor, anchor_dtype).checked()
    inner = optax.with_extra_args_support(inner)

    def strengths_of(layers: _layers.Layers, steps: jax.Array) -> list[jax.Array]:
        now = strength(steps) if callable(strength) else strength
        each = _trees.spread(now, [layers.leaves.paths[i] for i in layers.layouts], "spd: the strength")
        scalars = [jnp.full(count, one, layers.dtype) for count, one in zip(layers.counts, each, strict=True)]
        return layers.split(jnp.concatenate([jnp.zeros(0, layers.dtype), *scalars]))

    def init_fn(params: optax.Params) -> SPDState:
        layers, steps = frame.layers(params), jnp.zeros([], jnp.int32)
        if not callable(strength):
            strengths_of(layers, steps)
        return SPDState(frame.copy(layers), steps, inner.init(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, SPDState]:
        _checks.states("spd", state, SPDState)
        layers = frame.recall(state.anchor, params, updates)
        weights, anchors = layers.of(params), layers.of(state.anchor)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        moves = layers.of(step)

        # d = W_{t-1} - W_0, c = d + u_t
        before = layers.map(_ball.displacement, weights, anchors)
        reached = layers.map(_ball.reached, before, moves)

        # lambda_t r where <g_t, d> > 0
        sums = layers.unit_sums(products, layers.of(updates), before, reached)
        shares = layers.spread(layers.map(decay_share, *sums, strengths_of(layers, state.spd_steps)))

        # W_t = W_0 + c - lambda_t r c
        new = layers.into(step, layers.map(decayed, weights, moves, reached, shares))
        return new, SPDState(state.anchor, jnp.asarray(optax.safe_increment(state.spd_steps)), inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def maps_strengths(params: optax.Params, strength: float, *, layers: Sequence[str]) -> Any:
    r"""MAPS: strengths for `spd` that decrease linearly with depth, from the first layer to 0 at the last.

    .. math::

      \lambda_l = \lambda \frac{L - 1 - l}{L - 1}, \qquad l = 0, \dots, L - 1

    Args:
      params: the parameters, for their paths.
      strength: lambda, the first layer's strength.
      layers: the paths or path prefixes (``"blocks/0"``) of at least two layers, from the input to the output. Every
        leaf must be in one of them. They are needed because the order of a tree is alphabetical.

    Returns:
      A tree like the params with a float at every leaf.

    Raises:
      ValueError: if there are fewer than two layers, or a leaf is in none of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from ftp_optax import maps_strengths
      >>> params = {"stem": jnp.ones(2), "body": {"kernel": jnp.ones((2, 2))}, "head": jnp.ones(2)}
      >>> maps_strengths(params, 1.0, layers=["stem", "body", "head"])
      {'body': {'kernel': 0.5}, 'head': 0.0, 'stem': 1.0}

    References:
      MAPS, CVPR 2026: `spd` with a strength that decreases with depth.
    """
    _checks.numbers("maps_strengths", strength=strength)
    if not isinstance(layers, Sequence) or isinstance(layers, str) or not all(isinstance(at, str) for at in layers):
        raise TypeError(f"maps_strengths: layers must be a sequence of paths, got {_checks.shown(layers)}.")
    if len(layers) < 2:
        raise ValueError(
            f"maps_strengths: layers must name at least two layers from input to output, got {list(layers)}."
        )
    leaves = _trees.flatten(params)
    by_layer = {layer: strength * (len(layers) - 1 - depth) / (len(layers) - 1) for depth, layer in enumerate(layers)}
    found = {}
    for i, path in enumerate(leaves.paths):
        inside = [layer for layer in layers if path == layer or path.startswith(layer + "/")]
        if not inside:
            raise ValueError(f"maps_strengths: {path!r} lies in none of the layers {list(layers)}; add its layer.")
        found[i] = by_layer[max(inside, key=len)]
    return leaves.replaced(found)
