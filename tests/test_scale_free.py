"""Radii in units of the base optimizer's steps: what is invariant then, and what was not before."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import drift, ftp, radii, scale_free
from ftp_optax._scale_free import common_step, own_steps

PARAMS = {
    "wide": {"kernel": jnp.sin(jnp.arange(24.0)).reshape(8, 3), "bias": jnp.zeros(3)},
    "narrow": {"kernel": jnp.cos(jnp.arange(6.0)).reshape(2, 3)},
}


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda x: jnp.asarray(np.cos(np.arange(x.size)).reshape(x.shape) + 0.3 * rng.normal(size=x.shape)),
        PARAMS,
    )


def run(tx, params, widen=lambda tree: tree, steps=20):
    """The last parameters and state, under gradients that do not depend on the parameters."""
    params = widen(params)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(
            jax.tree.map(lambda g, p: g.astype(p.dtype), widen(gradients(step)), params), state, params
        )
        params = optax.apply_updates(params, updates)
    return params, state


def relative(hyper_optimizer, rate, widen=lambda tree: tree):
    """Radii and drifts of a run, and those of the unconstrained run as the measure of both."""
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS)
        params, state = run(ftp(optax.sgd(rate), hyper_optimizer=hyper_optimizer), double, widen)
        free, _ = run(optax.sgd(rate), double, widen)
        return {path: value / drift(state, free)[path] for path, value in drift(state, params).items()}


def four_times_wider(tree):
    """Every input four times: unit norms are four times as large."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * 4, axis=0) if x.ndim == 2 else x, tree)


@pytest.mark.parametrize("per_layer", [False, True])
def test_ten_times_the_learning_rate_changes_nothing(per_layer):
    hyper = scale_free(optax.adam(0.3), per_layer=per_layer)
    slow, fast = relative(hyper, 0.01), relative(hyper, 0.1)
    assert slow == pytest.approx(fast, rel=1e-5)
    assert 0.05 < min(slow.values()) < max(slow.values()) < 0.95  # the radii bind, and they let go


def test_in_absolute_units_the_same_setting_frees_one_rate_and_freezes_another():
    hyper = optax.adam(1e-2)
    slow, fast = relative(hyper, 1e-4), relative(hyper, 1.0)
    assert min(slow.values()) > 0.9
    assert max(fast.values()) < 0.2


def test_four_times_the_width_of_all_layers_changes_nothing():
    params = {"a": PARAMS["wide"]["kernel"], "b": PARAMS["narrow"]["kernel"]}
    pick = lambda tree: {"a": tree["wide"]["kernel"], "b": tree["narrow"]["kernel"]}
    with jax.enable_x64(True):
        double = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        tx = ftp(optax.sgd(0.05), hyper_optimizer=scale_free(optax.adam(0.3)))
        ends = []
        for widen in (lambda tree: tree, four_times_wider):
            state, p, update = tx.init(widen(double)), widen(double), jax.jit(tx.update)
            for step in range(20):
                updates, state = update(widen(pick(gradients(step))), state, p)
                p = optax.apply_updates(p, updates)
            ends.append((p, radii(state, p)))
    chex.assert_trees_all_close(four_times_wider(ends[0][0]), ends[1][0], rtol=1e-5)  # 1e-8 is absolute
    for path, value in ends[0][1].items():
        assert ends[1][1][path] == pytest.approx(4 * value, rel=1e-5)


def test_one_scale_for_all_layers_holds_the_wide_ones_tighter():
    kept = relative(scale_free(optax.adam(0.3)), 0.05)
    assert kept["wide/kernel"] < 0.7 * kept["narrow/kernel"]


def test_with_a_scale_of_its_own_no_layer_feels_the_width_of_another():
    hyper = scale_free(optax.adam(0.3), per_layer=True)
    wider = lambda tree: {**tree, "wide": {**tree["wide"], "kernel": jnp.concatenate([tree["wide"]["kernel"]] * 4)}}
    narrow, wide = relative(hyper, 0.05), relative(hyper, 0.05, wider)
    assert wide == pytest.approx(narrow, rel=1e-5)
    common = relative(scale_free(optax.adam(0.3)), 0.05, wider)
    assert common["narrow/kernel"] > 1.1 * relative(scale_free(optax.adam(0.3)), 0.05)["narrow/kernel"]


def test_the_scale_is_the_geometric_mean_of_the_layers_that_move():
    assert float(common_step(jnp.array([2.0, 8.0]))) == pytest.approx(4.0)
    assert float(common_step(jnp.array([2.0, 8.0, 0.0, jnp.nan, jnp.inf]))) == pytest.approx(4.0)
    assert float(common_step(jnp.zeros(3))) == 0.0
    assert float(common_step(jnp.full(3, 1e-37))) > 0
    np.testing.assert_array_equal(own_steps(jnp.array([2.0, 0.0, jnp.nan, jnp.inf])), [2, 0, 0, 0])


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_a_poisoned_layer_leaves_the_others_radii_alone(poison, per_layer):
    tx = ftp(optax.sgd(0.1), hyper_optimizer=scale_free(optax.adam(0.3), per_layer=per_layer))
    _, state = run(tx, PARAMS, steps=3)
    bad = gradients(3) | {"narrow": {"kernel": gradients(3)["narrow"]["kernel"].at[0, 0].set(poison)}}
    _, after = tx.update(bad, state, PARAMS)
    assert np.isfinite(after.radii).all()
    assert after.radii[1] != state.radii[1]


def test_a_learning_rate_of_zero_moves_no_radius():
    tx = ftp(optax.sgd(0.0), hyper_optimizer=scale_free(optax.adam(0.3)))
    _, state = run(tx, PARAMS, steps=4)
    np.testing.assert_allclose(state.radii, 1e-8, rtol=1e-6)


def test_it_passes_through_wrappers_of_hyper_optimizers():
    hyper = scale_free(optax.chain(optax.ema(0.5), optax.inject_hyperparams(optax.adam)(learning_rate=0.3)))
    _, state = run(ftp(optax.sgd(0.05), hyper_optimizer=hyper), PARAMS)
    assert float(state.radii.min()) > 1e-3


def test_it_is_no_optimizer_for_parameters():
    tx = scale_free(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"scale_free: update needs step_norms="):
        tx.update(gradients(0), tx.init(PARAMS), PARAMS)
