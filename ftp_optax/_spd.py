"""SPD, Selective Projection Decay: decays towards the anchor where, and only where, a step went further away."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _checks, _show, _trees, _units


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
        """The state that `reanchor` gives: anchored at the params, the schedule started anew."""
        return self._replace(
            anchor=_anchor.refresh(self.anchor, params), spd_steps=jax.tree.map(jnp.zeros_like, self.spd_steps)
        )


@functools.partial(jax.jit, static_argnames=("layout",))
def selectively_decayed(
    gradient: jax.Array,
    param: jax.Array,
    anchor: jax.Array,
    update: jax.Array,
    strength: jax.Array,
    *,
    layout: _units.Layout,
) -> jax.Array:
    """``u - lambda r c`` where ``<g, W - W0> > 0``, with ``c = W + u - W0`` and ``r`` the share by which it grew."""
    before = _anchor.displacement(param, anchor)
    wide = before.dtype
    reached = before + update.astype(wide)
    length = _units.layer_lengths(reached, layout)
    grown = (length - _units.layer_lengths(before, layout)) / jnp.where(length > 0, length, 1)
    uphill = _units.layer_sums(gradient.astype(wide) * before, layout) > 0
    decay = strength.astype(wide) * jnp.clip(grown, 0, 1) * reached
    return jnp.where(uphill, update.astype(wide) - decay, update.astype(wide)).astype(param.dtype)


def _validate_strength(strength: Any) -> None:
    """Checks every number of a strength or tree of strengths; a schedule is called when it is needed."""
    if callable(strength):
        return
    leaves = _trees.flatten(strength)
    for path, value in zip(leaves.paths, leaves.values, strict=True):
        if _trees.is_masked(value):
            continue
        _checks.numbers("spd", **{f"strength at {path!r}" if path else "strength": value})
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(f"spd: strength must be finite and not negative, got {value}.")


def spd(
    inner: optax.GradientTransformation,
    *,
    strength: Any,
    layer_axes: _units.LayerAxes = 0,
    mask: Any = None,
    anchor: optax.Params | None = None,
    anchor_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Selective Projection Decay: decays the layers that a step took further from their pre-trained weights.

    With :math:`u_t` the update of ``inner``, :math:`d = W_{t-1} - W_0` and :math:`c = d + u_t`:

    .. math::

      r &= \mathrm{clip}\Big(\frac{\|c\| - \|d\|}{\|c\|}, 0, 1\Big) \\
      W_t &= W_0 + c - \lambda_t\, r\, c \quad\text{where } \langle g_t, d \rangle > 0, \text{ else } W_0 + c

    :math:`\lambda` is the ``strength``: 1 puts the layer back on the sphere it was on before the step. The decay is not
    multiplied by the learning rate. Norms and inner products run over the whole leaf, or layer of it. It comes last in
    a chain.

    Args:
      inner: the base optimizer; any optax transformation.
      strength: lambda: a number that is not negative (0.1 to 3.2 in published runs), a schedule of it, or a prefix tree
        of the params with numbers, one strength for each layer, such as `maps_strengths` makes.
      layer_axes: how many leading axes of a leaf index separate layers, an int or ``(path, shape) -> int``.
      mask: which leaves are constrained: a tree or prefix tree of booleans, True = constrained, or a callable from
        params to one. It is read in `init`. None (default) constrains every leaf.
      anchor: the pre-trained parameters, a tree like the params. None (default): the params given to `init`.
      anchor_dtype: what to store the anchor in; None (default) for each leaf's own dtype.

    Returns:
      A `optax.GradientTransformationExtraArgs` with an `SPDState`. Updates come in the params' dtypes.

    Raises:
      ValueError: for a negative strength, or one that has no number for a constrained leaf; in `init` for a mask or
        anchor that does not fit the params or constrains nothing; in `update` without params.
      TypeError: in `init` for constrained leaves that are not real floating-point arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import spd
      >>> tx = spd(optax.sgd(1.0), strength=1.0, anchor={"bias": jnp.array([0.0])})
      >>> params = {"bias": jnp.array([1.0])}
      >>> tx.update({"bias": jnp.array([-0.5])}, tx.init(params), params)[0]  # no conflict: the step as it is
      {'bias': Array([0.5], dtype=float32)}

    References:
      Tian et al., `Rethinking Weight Decay for Robust Fine-Tuning of Foundation Models
      <https://arxiv.org/abs/2411.01713>`_, NeurIPS 2024 (Algorithm 1).

    .. note::
      The condition takes the raw gradient and the weights before the step, as the released code does.
    """
    _checks.transformations("spd", inner=inner)
    _checks.floating_dtypes("spd", anchor_dtype=anchor_dtype)
    _validate_strength(strength)
    _units.require_layer_axes(layer_axes, "spd")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> SPDState:
        leaves, layouts = _anchor.constrain(params, mask, _units.whole_layer, layer_axes, "spd")
        if not callable(strength):
            _trees.spread(strength, [leaves.paths[i] for i in layouts], "spd: the strength")
        copy = _anchor.make_anchor(anchor, leaves, layouts, anchor_dtype, "spd")
        return SPDState(copy, jnp.zeros([], jnp.int32), inner.init(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, SPDState]:
        _checks.states("spd", state, SPDState)
        recalled = _anchor.recall(state.anchor, params, updates, _units.whole_layer, layer_axes, "spd")
        leaves, gradients, anchors, layouts = recalled
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        steps, now = _trees.flatten(step), strength(state.spd_steps) if callable(strength) else strength
        shares = _trees.spread(now, [leaves.paths[i] for i in layouts], "spd: the strength")
        decayed = {
            i: selectively_decayed(
                gradients.values[i],
                jnp.asarray(leaves.values[i]),
                anchors[i],
                steps.values[i],
                jnp.asarray(share),
                layout=layout,
            )
            for (i, layout), share in zip(layouts.items(), shares, strict=True)
        }
        return steps.replaced(decayed), SPDState(
            state.anchor, jnp.asarray(optax.safe_increment(state.spd_steps)), inner_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def maps_strengths(params: optax.Params, strength: float, *, layers: Sequence[str]) -> Any:
    r"""MAPS: strengths for `spd` that fall linearly with depth, strongest at the first layer and 0 at the last.

    .. math::

      \lambda_l = \lambda \frac{L - 1 - l}{L - 1}, \qquad l = 0, \dots, L - 1

    Args:
      params: the parameters, for their paths.
      strength: lambda, the first layer's strength.
      layers: the layers from the input to the output, at least two, by path or prefix of paths (``"blocks/0"``). Every
        leaf must lie in one of them. A tree's own order is alphabetical and says nothing about depth.

    Returns:
      A tree like the params with a float at every leaf.

    Raises:
      ValueError: if there are fewer than two layers, or a leaf lies in none of them.

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
