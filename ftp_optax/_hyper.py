"""The idea that the methods share: a learned scalar per layer, updated by its hyper-gradient.

A *rule* uses the scalar ``s`` to compute the parameters after a step. The next loss then has the derivative

    dL/ds = < grad L(W(s)), dW/ds > = d/ds < g, rule(s) >.

The next step computes ``g = grad L(W(s))`` anyway, so there is no second forward pass.

All scalars are ONE array of shape ``(n,)``, in the order of the constrained leaves. A tree of scalars like the params
would inherit the PartitionSpec of every matrix. One array needs one all-reduce on a mesh.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _layers


class Initial(NamedTuple):
    """The initial learned scalars and hyper-optimizer state, for `reanchor`."""

    scalars: jax.Array
    hyper_state: optax.OptState


def copied(initial: Initial) -> Initial:
    """A copy of the scalars and their optimizer's state in new buffers."""
    return jax.tree.map(functools.partial(jnp.array, copy=True), initial)


def hypergradient(gradient: jax.Array, rule: Callable[[jax.Array], jax.Array], scalars: jax.Array) -> jax.Array:
    """The derivative ``d/ds <g, rule(s)>`` of the next loss by a rule's scalars.

    The gradient is that of the loss after the rule. It is a constant in the derivative.
    """
    return jax.grad(lambda s: jnp.sum(gradient * rule(s)))(scalars)


def finite(hypergradients: jax.Array) -> jax.Array:
    """The hyper-gradients, with 0 for those that are not finite.

    The hyper-optimizer updates the scalars of all leaves as one array, so one bad leaf must not affect the others.
    """
    return jnp.where(jnp.isfinite(hypergradients), hypergradients, 0)


def start(
    hyper_optimizer: optax.GradientTransformation, value: float | jax.Array, layers: _layers.Layers
) -> tuple[Initial, Initial]:
    """New scalars, one for each layer, and their optimizer's state: one copy to use, one to keep for `reanchor`.

    They are separate buffers, because a buffer with two names cannot be donated.
    """
    # with an explicit dtype, because weakly typed scalars would make the step compile twice
    scalars = [jnp.full((sum(layers.counts),), value, dtype=layers.dtype) for _ in range(2)]
    first, second = (Initial(s, hyper_optimizer.init(s)) for s in scalars)
    return first, second


def step(
    hyper_optimizer: optax.GradientTransformation,
    hypergradients: jax.Array,
    hyper_state: optax.OptState,
    scalars: jax.Array,
    **extra_args: Any,
) -> tuple[jax.Array, optax.OptState]:
    """One step of the hyper-optimizer: the new scalars, before clipping, and its new state.

    Values that are not finite keep their old value: some optimizers divide by zero at a hyper-gradient of zero, which
    is the first one. The extra arguments are for hyper-optimizers such as `scale_free`, which needs ``step_norms``.
    """
    hyper_optimizer = optax.with_extra_args_support(hyper_optimizer)
    updates, new_state = hyper_optimizer.update(hypergradients, hyper_state, scalars, **extra_args)
    (moved,) = jax.tree.leaves(optax.apply_updates(scalars, updates))
    return _finite_or(scalars, moved), jax.tree.map(_finite_or, hyper_state, new_state)


def _finite_or(old: Any, new: Any) -> Any:
    """The new values where they are finite, else the old ones. Values that are not floating-point are always new."""
    return jnp.where(jnp.isfinite(new), new, old) if jnp.issubdtype(jnp.result_type(new), jnp.floating) else new
