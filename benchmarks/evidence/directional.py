"""Two more strengths for DiGraP's projection: how often a layer conflicts, and what held-out images say of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class DirectionalState(NamedTuple):
    """State of both."""

    anchor: Any  # the pre-trained parameters
    strengths: jax.Array  # of each leaf, `(n,)`
    dots: jax.Array  # the last <g, W - W0> of each leaf
    hyper_state: Any  # of what moves the strengths


def window_strength(decay: float | jax.Array) -> optax.GradientTransformation:
    """DiGraP with the share of the last steps in which a layer conflicted as its strength."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, DirectionalState]:
        gaps = optax.tree.sub(params, state.anchor)
        dots = _dots(updates, gaps)
        strengths = decay * state.strengths + (1 - decay) * (dots < 0)
        return _cleared(updates, gaps, dots, strengths), state._replace(strengths=strengths, dots=dots)

    return optax.GradientTransformation(lambda params: _start(params, None), update)


def held_out_strength(rate: float | jax.Array) -> optax.GradientTransformationExtraArgs:
    """DiGraP whose strengths follow the gradient of a held-out batch.

    The hyper-gradient is that of DiGraP with the held-out gradient v in place of the step's own, and the whole leaf in
    place of its fibers: `sign(<g, c>) <v, c> / (|v| |c|)` with c = W - W0 and g of the last step. A strength rises
    where the training gradient leads away from the anchor and the held-out one does not.
    """
    hyper = optax.adam(rate)

    def update(
        updates: Any, state: Any, params: Any = None, *, held_out_loss: Any = None, **extra: Any
    ) -> tuple[Any, DirectionalState]:
        del extra
        gaps, judge = optax.tree.sub(params, state.anchor), jax.grad(held_out_loss)(params)
        lengths = jnp.sqrt(_dots(judge, judge) * _dots(gaps, gaps))
        slope = jnp.sign(state.dots) * _dots(judge, gaps) / jnp.maximum(lengths, 1e-12)
        moves, hyper_state = hyper.update(slope, state.hyper_state)
        strengths = jnp.clip(state.strengths + jnp.asarray(moves), 0, 1)
        dots = _dots(updates, gaps)
        return _cleared(updates, gaps, dots, strengths), DirectionalState(state.anchor, strengths, dots, hyper_state)

    return optax.GradientTransformationExtraArgs(lambda params: _start(params, hyper), update)


def _start(params: Any, hyper: optax.GradientTransformation | None) -> DirectionalState:
    strengths, dots = (jnp.zeros(len(jax.tree.leaves(params)), jnp.float32) for _ in range(2))
    return DirectionalState(jax.tree.map(jnp.copy, params), strengths, dots, hyper.init(strengths) if hyper else ())


def _dots(one: Any, other: Any) -> jax.Array:
    """The inner product of each leaf, `(n,)`."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jnp.stack([jnp.sum(a * b) for a, b in pairs])


def _cleared(gradient: Any, gaps: Any, dots: jax.Array, strengths: jax.Array) -> Any:
    """`g - omega <g, c> / |c|^2 c` where `<g, c> < 0`."""
    shares = jnp.where(dots < 0, strengths * dots / jnp.maximum(_dots(gaps, gaps), 1e-24), 0)
    leaves, treedef = jax.tree.flatten(gradient)
    pairs = zip(leaves, jax.tree.leaves(gaps), shares, strict=True)
    return jax.tree.unflatten(treedef, [g - share * c for g, c, share in pairs])
