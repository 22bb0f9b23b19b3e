"""L2-SP: the gradient of the penalty, schedules, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import add_decayed_anchor, drift

ANCHOR = {"body": {"kernel": jnp.sin(jnp.arange(6.0)).reshape(2, 3)}, "head": jnp.ones(2)}
FAR = jax.tree.map(lambda x: x + 0.5, ANCHOR)


def test_is_the_gradient_of_the_penalty():
    penalty = lambda p: (
        0.5 * 0.3 * sum(jnp.sum((x - a) ** 2) for x, a in zip(*map(jax.tree.leaves, (p, ANCHOR)), strict=True))
    )
    grads = jax.tree.map(jnp.cos, FAR)
    tx = add_decayed_anchor(0.3, anchor=ANCHOR)
    pulled, _ = tx.update(grads, tx.init(FAR), FAR)
    for leaf, expected in zip(
        jax.tree.leaves(pulled), jax.tree.leaves(optax.tree.add(grads, jax.grad(penalty)(FAR))), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)


def test_schedule_and_mask():
    tx = add_decayed_anchor(lambda step: 0.1 * step, mask={"body": True, "head": False})
    state, zeros = tx.init(ANCHOR), jax.tree.map(jnp.zeros_like, FAR)
    for step in range(3):
        pulled, state = jax.jit(tx.update)(zeros, state, FAR)
        np.testing.assert_allclose(pulled["body"]["kernel"], 0.05 * step, rtol=1e-5)
        np.testing.assert_array_equal(pulled["head"], 0.0)
    assert drift(state, FAR).keys() == {"body/kernel"}


def test_pulls_a_run_towards_the_anchor():
    def distance(strength):
        tx, params = optax.chain(add_decayed_anchor(strength), optax.sgd(0.1)), ANCHOR
        state = tx.init(params)
        for _ in range(30):
            updates, state = tx.update(jax.tree.map(lambda x: x - 3.0, params), state, params)
            params = optax.apply_updates(params, updates)
        return float(optax.tree.norm(optax.tree.sub(params, ANCHOR)))

    assert distance(3.0) < 0.5 * distance(0.0)


def test_bfloat16_keeps_its_dtype():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), FAR)
    tx = add_decayed_anchor(0.1)
    pulled, _ = tx.update(params, tx.init(params), params)
    assert {x.dtype for x in jax.tree.leaves(pulled)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_bad_strength(strength):
    with pytest.raises(ValueError, match="strength must be finite and not negative"):
        add_decayed_anchor(strength)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((optax.adamw(1e-4),), {}),
        ((optax.adamw(1e-4), 0.1), {}),
        ((0.1, optax.adamw(1e-4)), {}),
        ((optax.adamw(1e-4),), {"strength": 0.1}),
        ((0.1,), {"inner": optax.adamw(1e-4)}),
    ],
)
def test_a_base_optimizer_is_told_where_it_goes(given, named):
    where = r"add_decayed_anchor takes no base optimizer.*optax\.chain\(add_decayed_anchor\(0\.01\), optax\.adamw"
    with pytest.raises(TypeError, match=where):
        add_decayed_anchor(*given, **named)
