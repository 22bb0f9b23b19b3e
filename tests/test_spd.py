"""SPD: parity with the released code, its condition and decay, MAPS's strengths."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import maps_strengths, spd

ANCHOR = {"first": {"kernel": jnp.zeros((2, 3))}, "last": {"kernel": jnp.zeros(3)}}
AT = {"first": {"kernel": jnp.ones((2, 3))}, "last": {"kernel": jnp.ones(3)}}


def step(tx, grads, params=AT):
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


def test_released_trace_replays_in_float64():
    trace = golden.load("spd_wd1")
    with jax.enable_x64(True):
        anchor = golden.arrays(trace["pre"], jnp.float64)
        tx = spd(optax.adam(trace["kw"]["lr"]), strength=trace["kw"]["weight_decay"], anchor=anchor)
        decayed = False
        plain = golden.replay(trace, optax.adam(trace["kw"]["lr"]), jnp.float64)
        for (recorded, params, _), (_, alone, _) in zip(golden.replay(trace, tx, jnp.float64), plain, strict=True):
            for leaf, value in recorded["param"].items():
                np.testing.assert_allclose(params[leaf], np.array(value), rtol=0, atol=1e-12)
                decayed |= bool(np.abs(params[leaf] - alone[leaf]).max() > 1e-6)
        assert decayed


def test_strength_one_returns_to_the_sphere_it_was_on():
    """The step leads away from the anchor although the gradient points away from it too (momentum does that)."""
    away = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: (jax.tree.map(lambda g: 0.5 * g, u), s))
    grads = jax.tree.map(jnp.ones_like, AT)
    for strength, share in ((0.0, 1.5), (1.0, 1.0), (0.5, 1.25)):
        params = step(spd(away, strength=strength, anchor=ANCHOR), grads)
        np.testing.assert_allclose(params["first"]["kernel"], share, rtol=1e-6)


def test_a_descent_step_towards_the_anchor_is_untouched():
    grads = jax.tree.map(jnp.ones_like, AT)
    params = step(spd(optax.sgd(0.1), strength=3.0, anchor=ANCHOR), grads)
    np.testing.assert_allclose(params["first"]["kernel"], 0.9, rtol=1e-6)


def test_strength_by_layer_and_by_schedule():
    away = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: (jax.tree.map(lambda g: 0.5 * g, u), s))
    grads = jax.tree.map(jnp.ones_like, AT)
    maps = maps_strengths(AT, 1.0, layers=["first", "last"])
    params = step(spd(away, strength=maps, anchor=ANCHOR), grads)
    np.testing.assert_allclose(params["first"]["kernel"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(params["last"]["kernel"], 1.5, rtol=1e-6)
    tx = spd(away, strength=lambda count: jnp.where(count < 1, 0.0, 1.0), anchor=ANCHOR)
    first, state = tx.update(grads, tx.init(AT), AT)
    second, _ = tx.update(grads, state, AT)
    np.testing.assert_allclose(first["last"]["kernel"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(second["last"]["kernel"], 0.0, atol=1e-6)


def test_zero_displacement_is_finite():
    zeros = jax.tree.map(jnp.zeros_like, AT)
    params = step(spd(optax.sgd(0.1), strength=1.0), zeros)
    np.testing.assert_array_equal(params["first"]["kernel"], AT["first"]["kernel"])


@pytest.mark.parametrize("strength", [-1.0, float("nan"), {"first": 1.0, "last": -0.5}])
def test_bad_strength(strength):
    with pytest.raises(ValueError, match=r"strength.* must be finite and not negative"):
        spd(optax.sgd(0.1), strength=strength)


def test_a_strength_for_every_constrained_leaf():
    with pytest.raises(ValueError, match="no entry for 'last/kernel'"):
        spd(optax.sgd(0.1), strength={"first": 1.0}).init(AT)
    spd(optax.sgd(0.1), strength={"first": 1.0}, mask={"first": True, "last": False}).init(AT)


def test_maps_needs_every_layer():
    with pytest.raises(ValueError, match="'last/kernel' lies in none of the layers"):
        maps_strengths(AT, 1.0, layers=["first", "middle"])
    with pytest.raises(ValueError, match="at least two layers"):
        maps_strengths(AT, 1.0, layers=["first"])
