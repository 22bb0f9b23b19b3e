"""The one idea that the methods share: a learned scalar per layer, moved by its hyper-gradient.

A *rule* uses the scalar ``s`` to shape the parameters that a step ends at. The derivative of the next loss through the
rule is

    dL/ds = < grad L(W(s)), dW/ds > = d/ds < g, rule(s) >,

and ``g = grad L(W(s))`` is the very gradient that the next step computes anyway: no second forward pass.

All scalars live in ONE array of shape ``(n,)``, in the order of the constrained leaves: a params-shaped tree of scalars
would inherit every matrix's PartitionSpec, and one array means one all-reduce on a mesh.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _layers


class Initial(NamedTuple):
    """The learned scalars and the hyper-optimizer's state as `init` made them, for starting anew at a new anchor."""

    scalars: jax.Array
    hyper_state: optax.OptState


def copied(initial: Initial) -> Initial:
    """New buffers for the scalars and their optimizer's state, to go on from while the old ones are kept."""
    return jax.tree.map(functools.partial(jnp.array, copy=True), initial)


def hypergradient(gradient: jax.Array, rule: Callable[[jax.Array], jax.Array], scalars: jax.Array) -> jax.Array:
    """The derivative ``d/ds <g, rule(s)>`` of the next loss by a rule's scalars, everything else held fixed.

    The gradient is the loss's at the point that the rule led to.
    """
    return jax.grad(lambda s: jnp.sum(gradient * rule(s)))(scalars)


def finite(hypergradients: jax.Array) -> jax.Array:
    """The hyper-gradients, with 0 for those that are not finite.

    The hyper-optimizer sees the scalars of all leaves as one array: one poisoned leaf must not spoil the others.
    """
    return jnp.where(jnp.isfinite(hypergradients), hypergradients, 0)


def start(
    hyper_optimizer: optax.GradientTransformation, value: float | jax.Array, layers: _layers.Layers
) -> tuple[Initial, Initial]:
    """New scalars, one for each layer, and their optimizer's state, twice: one to use, one to keep for starting anew.

    Twice made, since two names for one buffer could not be donated.
    """
    # the dtype is given, since weakly typed scalars would make the step compile twice
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
    """One step of the hyper-optimizer: all scalars moved, not yet bounded, and its new state.

    What is not finite of both stays what it was: some optimizers divide by zero where a hyper-gradient is zero, as the
    first one is. The extra arguments are for those that want to know, such as `scale_free` the ``step_norms``.
    """
    hyper_optimizer = optax.with_extra_args_support(hyper_optimizer)
    updates, new_state = hyper_optimizer.update(hypergradients, hyper_state, scalars, **extra_args)
    (moved,) = jax.tree.leaves(optax.apply_updates(scalars, updates))
    return _finite_or(scalars, moved), jax.tree.map(_finite_or, hyper_state, new_state)


def _finite_or(old: Any, new: Any) -> Any:
    """The new numbers, where they are finite or no floating-point numbers."""
    return jnp.where(jnp.isfinite(new), new, old) if jnp.issubdtype(jnp.result_type(new), jnp.floating) else new
