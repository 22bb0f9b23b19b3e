"""The one idea that the methods share: a learned scalar per layer, moved by its hyper-gradient.

A *rule* uses the scalar ``s`` to shape the parameters that a step ends at. The derivative of the next loss through the
rule is

    dL/ds = < grad L(W(s)), dW/ds > = d/ds < g, rule(s) >,

and ``g = grad L(W(s))`` is the very gradient that the next step computes anyway: no second forward pass.

All scalars live in ONE array of shape ``(n,)``, in the order of the constrained leaves: a params-shaped tree of scalars
would inherit every matrix's PartitionSpec, and one array means one all-reduce on a mesh.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Initial(NamedTuple):
    """The learned scalars and the hyper-optimizer's state as `init` made them, for starting anew at a new anchor."""

    scalars: jax.Array
    hyper_state: optax.OptState


def copied(initial: Initial) -> Initial:
    """New buffers for the scalars and their optimizer's state, to go on from while the old ones are kept."""
    return jax.tree.map(functools.partial(jnp.array, copy=True), initial)


def hypergradient(gradient: jax.Array, rule: Callable[[jax.Array], jax.Array], scalars: jax.Array) -> jax.Array:
    """The derivative ``d/ds <g, rule(s)>`` of the next loss by a rule's scalars.

    Args:
      gradient: the loss gradient at the point that the rule led to.
      rule: the rule as a function of its scalars, everything else held fixed.
      scalars: where the derivative is taken.

    Returns:
      An array of the scalars' shape.
    """
    return jax.grad(lambda s: jnp.sum(gradient * rule(s)))(scalars)


def stack(parts: Sequence[jax.Array], like: jax.Array) -> jax.Array:
    """Joins the leaves' own scalars into one array of the shape and dtype of `like`."""
    return jnp.concatenate([p.astype(like.dtype) for p in parts]) if parts else jnp.zeros_like(like)


def places(counts: Sequence[int]) -> list[np.ndarray]:
    """Where the leaves' own scalars lie in the one array."""
    ends = np.cumsum([0, *counts])
    return [np.arange(start, end) for start, end in itertools.pairwise(ends)]


def split(scalars: jax.Array, counts: Sequence[int]) -> list[jax.Array]:
    """Cuts the one array into the leaves' own scalars."""
    return look_up(scalars, places(counts))


def look_up(scalars: jax.Array, places: Sequence[np.ndarray]) -> list[jax.Array]:
    """The scalars that lie at `places` in the one array.

    They are looked up, not sliced: XLA makes a slice part of every loop that reads it, its offset a constant in the
    code, so that no two leaves share a loop. Looked up, leaves of one shape do, and each loop is compiled once: a step
    over six equal leaves is made of as many as one over three (`tests/test_cost.py`).
    """
    count = sum(place.size for place in places)
    if count != scalars.shape[0]:
        raise ValueError(
            f"The state has {scalars.shape[0]} learned scalars, its leaves have {count} layers: it was made with "
            "another layer_axes."
        )
    # two at least, the second one for nothing: a constant of one element would go into the code as well
    two = [np.append(place, place + 1) if place.size == 1 else place for place in places]
    return [jnp.take(scalars, place, mode="clip")[: own.size] for place, own in zip(two, places, strict=True)]


def finite(hypergradients: jax.Array) -> jax.Array:
    """The hyper-gradients, with 0 for those that are not finite.

    The hyper-optimizer sees the scalars of all leaves as one array: one poisoned leaf must not spoil the others.
    """
    return jnp.where(jnp.isfinite(hypergradients), hypergradients, 0)


def start(
    hyper_optimizer: optax.GradientTransformation,
    value: float | jax.Array,
    counts: Sequence[int],
    leaves: Sequence[Any],
) -> tuple[Initial, Initial]:
    """New scalars and their optimizer's state, twice: one to use, one to keep for starting anew.

    Twice made, since two names for one buffer could not be donated.

    Args:
      hyper_optimizer: the transformation that updates the scalars.
      value: what every scalar starts from.
      counts: the number of scalars of each constrained leaf.
      leaves: the constrained leaves; the scalars are float32, or float64 if one of them is.

    Returns:
      The two.
    """
    dtype = functools.reduce(jnp.promote_types, (jnp.result_type(leaf) for leaf in leaves), jnp.dtype(jnp.float32))
    # the dtype is given, since weakly typed scalars would make the step compile twice
    scalars = [jnp.full((sum(counts),), value, dtype=dtype) for _ in range(2)]
    first, second = (Initial(s, hyper_optimizer.init(s)) for s in scalars)
    return first, second


def step(
    hyper_optimizer: optax.GradientTransformation,
    hypergradients: jax.Array,
    hyper_state: optax.OptState,
    scalars: jax.Array,
    **extra_args: Any,
) -> tuple[jax.Array, optax.OptState]:
    """One step of the hyper-optimizer on all scalars.

    Args:
      hyper_optimizer: the transformation that updates the scalars.
      hypergradients: their hyper-gradients, shape ``(n,)``.
      hyper_state: the transformation's state.
      scalars: the scalars, shape ``(n,)``.
      **extra_args: what the method tells hyper-optimizers that want to know, such as ``step_norms``.

    Returns:
      The moved scalars, not yet bounded, and the new state.
    """
    hyper_optimizer = optax.with_extra_args_support(hyper_optimizer)
    updates, hyper_state = hyper_optimizer.update(hypergradients, hyper_state, scalars, **extra_args)
    return jax.tree.leaves(optax.apply_updates(scalars, updates))[0], hyper_state


def known(hypergradients: jax.Array) -> jax.Array:
    """False, once the hyper-gradients are known, which must be finite; XLA cannot know that they are."""
    return jnp.any(hypergradients == jnp.inf)


def computed_after(known: jax.Array, array: jax.Array) -> jax.Array:
    """The array, computed once, and not before `known`: divides it by one in a way that XLA cannot see through.

    What a step keeps of a leaf for the next hyper-gradient takes the place of what the last step kept. Unless it waits
    for the hyper-gradients, which still read that, XLA copies both. One value for all leaves: on a mesh it is reduced
    anyway. And a division is dear enough that XLA keeps its result instead of computing it anew, from all that it came
    from, wherever it is used. FTP round adamw, bytes accessed over adamw's: 2.3 without, 1.9 with it; temporaries: all
    parameters without, none with.
    """
    return array / jnp.where(known, array, 1)
