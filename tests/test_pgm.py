"""PGM: the ball of fixed radius, both norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import pgm

PARAMS = {"body": {"kernel": jnp.sin(jnp.arange(12.0)).reshape(4, 3), "bias": jnp.zeros(3)}, "head": jnp.ones(2)}
MASK = {"body": True, "head": False}


def walk(tx, params, steps, **gradient):
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        grads = jax.tree.map(lambda x, s=step: jnp.cos(jnp.arange(x.size) + s).reshape(x.shape).astype(x.dtype), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yield params


@pytest.mark.parametrize("radius", [0.03, 0.3])
def test_every_unit_stays_inside_the_mars_ball(radius):
    reached = 0.0
    for params in walk(pgm(optax.sgd(0.1), radius=radius, mask=MASK), PARAMS, 8):
        gap = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), params["body"], PARAMS["body"])
        norms = np.append(gap["kernel"].sum(0), gap["bias"].sum())
        assert norms.max() <= radius * (1 + 1e-5)
        reached = max(reached, norms.max())
    assert reached == pytest.approx(radius, rel=1e-4)


def test_l2_ball():
    gaps = []
    for params in walk(pgm(optax.adam(0.1), radius=0.2, norm="l2"), PARAMS, 8):
        gap = np.linalg.norm(np.asarray(params["body"]["kernel"] - PARAMS["body"]["kernel"]))
        gaps.append(gap)
    assert max(gaps) <= 0.2 * (1 + 1e-5)
    assert max(gaps) == pytest.approx(0.2, rel=1e-4)


def test_a_wide_ball_is_the_base_optimizer():
    base = walk(optax.adam(0.1), PARAMS, 5)
    for one, other in zip(walk(pgm(optax.adam(0.1), radius=1e6), PARAMS, 5), base, strict=True):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", ["mars", "l2"])
def test_stacked_layers_equal_separate_ones(norm):
    stacked = {"kernel": jnp.sin(jnp.arange(24.0)).reshape(2, 4, 3)}
    grads = {"kernel": jnp.cos(jnp.arange(24.0)).reshape(2, 4, 3)}
    tx = pgm(optax.sgd(1.0), radius=0.5, norm=norm, layer_axes=1)
    together, _ = tx.update(grads, tx.init(stacked), stacked)
    for i in range(2):
        layer, grad = ({"kernel": x["kernel"][i]} for x in (stacked, grads))
        tx = pgm(optax.sgd(1.0), radius=0.5, norm=norm)
        alone, _ = tx.update(grad, tx.init(layer), layer)
        np.testing.assert_allclose(together["kernel"][i], alone["kernel"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"radius": float("inf")}, {"radius": 1.0, "norm": "l1"}])
def test_bad_static_arguments(options):
    with pytest.raises(ValueError, match="pgm: "):
        pgm(optax.sgd(0.1), **options)
