"""Hyper-gradients: the derivative of the real two-step training loss, taken with jax.grad through the whole update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import _ball, _digrap, _hyper, digrap, ftp, whole_leaf

KERNEL = jnp.sin(jnp.arange(12.0)).reshape(4, 3)


def loss(params):
    """A smooth loss with curvature, so that the gradient after the step differs from the one before."""
    return jnp.sum(jnp.cos(params["kernel"]) * jnp.arange(1.0, 13.0).reshape(4, 3)) + jnp.sum(params["kernel"] ** 4)


class Recorder:
    """A hyper-optimizer that moves nothing and keeps the hyper-gradient it was given as its state."""

    init = staticmethod(lambda scalars: jnp.zeros_like(scalars))
    update = staticmethod(lambda slopes, state, params=None: (jnp.zeros_like(slopes), slopes))


recorder = optax.GradientTransformation(Recorder.init, Recorder.update)


def walk(tx, state, params, steps):
    for _ in range(steps):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("active", ["all", "some", "none"])
@pytest.mark.parametrize("inner", [optax.sgd(0.01), optax.adamw(0.05)], ids=["sgd", "adamw"])
def test_ftp_hypergradient_is_the_two_step_derivative(active, inner):
    """h of step t+1 = d/dgamma of the loss after step t, through ftp's own update, gamma being its radius then.

    The exact form is that derivative whatever units are inside the ball. The released form is too while all of them are
    outside, and something else when some are inside.
    """
    with jax.enable_x64(True):
        params = {"kernel": jnp.asarray(KERNEL, jnp.float64)}
        far = {"kernel": params["kernel"] + jnp.linspace(0.01, 0.3, 12).reshape(4, 3) ** 2}

        proposed, _ = inner.update(jax.grad(loss)(far), inner.init(far), far)
        norms = np.abs(far["kernel"] + proposed["kernel"] - params["kernel"]).sum(0)
        radius = {"all": 0.5 * norms.min(), "some": np.median(norms) * 1.001, "none": 2 * norms.max()}[active]

        def through(hypergradient):
            tx = ftp(inner, hyper_optimizer=recorder, anchor=params, hypergradient=hypergradient)
            state = tx.init(far)

            def after_step(gamma):
                updates, new = tx.update(jax.grad(loss)(far), state._replace(radii=gamma), far)
                return loss(optax.apply_updates(far, updates)), new

            gamma = jnp.array([radius])
            derivative, new = jax.grad(after_step, has_aux=True)(gamma)
            moved = optax.apply_updates(far, tx.update(jax.grad(loss)(far), state._replace(radii=gamma), far)[0])
            _, last = tx.update(jax.grad(loss)(moved), new._replace(radii=gamma), moved)
            return float(derivative[0]), float(last.hyper_state[0])

        derivative, exact = through("exact")
        assert exact == pytest.approx(derivative, rel=1e-9, abs=1e-12)
        _, released = through("released")
        if active == "all":
            assert released == pytest.approx(derivative, rel=1e-9)
            assert abs(derivative) > 1e-3
        else:
            assert abs(released - derivative) > 1e-3


def test_digrap_hypergradient_is_the_two_step_derivative():
    """One fiber: h |g| |p| alpha = d/domega of the loss after the step, through digrap's own update in a chain."""
    with jax.enable_x64(True):
        params, rate = {"kernel": jnp.asarray(KERNEL, jnp.float64)}, 0.01
        far = {"kernel": params["kernel"] - 0.1 * jax.grad(loss)(params)["kernel"]}  # a gradient step away: in conflict
        tx = optax.chain(digrap(hyper_optimizer=recorder, anchor=params, unit_axes=whole_leaf), optax.sgd(rate))
        state = tx.init(far)

        def after_step(omega):
            held = (state[0]._replace(strengths=omega), state[1])
            updates, new = tx.update(jax.grad(loss)(far), held, far)
            return loss(optax.apply_updates(far, updates)), (new, updates)

        assert float(jnp.vdot(jax.grad(loss)(far)["kernel"], far["kernel"] - params["kernel"])) < 0
        derivative, (new, updates) = jax.grad(after_step, has_aux=True)(jnp.array([0.3]))
        moved = optax.apply_updates(far, updates)
        _, last = tx.update(jax.grad(loss)(moved), new, moved)
        scale = (
            rate
            * optax.tree.norm(jax.grad(loss)(moved))
            * optax.tree.norm(new[0].displacement)
            * jnp.abs(new[0].scales[0])
        )
        assert float(last[0].hyper_state[0] * scale) == pytest.approx(float(derivative[0]), rel=1e-6)
        assert abs(float(derivative[0])) > 1e-6


def test_a_toy_case_where_the_released_sign_is_another():
    """Two units, one inside: the released sum is positive, the chain rule's negative."""
    last, gradient = jnp.array([[2.0, 0.1], [2.0, 0.1]]), jnp.array([[-1.0, 9.0], [-1.0, 9.0]])
    products, norms = (jnp.sum(x, axis=0, keepdims=True) for x in _ball.inner_products(gradient, last))
    slope = lambda ratio: float(_ball.radius_slope(ratio, products, norms, jnp.ones((1, 1)))[0, 0])
    assert slope(_ball.released_ratio) == pytest.approx(8.0, rel=1e-6)
    assert slope(_ball.projection_ratio) == pytest.approx(-1.0, rel=1e-6)


def test_hypergradient_is_the_inner_product_with_the_rules_derivative():
    gradient = jnp.arange(6.0).reshape(2, 3)
    slope = _hyper.hypergradient(gradient, lambda s: s**2 * jnp.ones((2, 3)), jnp.array([[3.0], [2.0]]))
    np.testing.assert_allclose(slope, [[3 * 6.0], [12 * 4.0]])


def test_strength_hypergradient_floors_norms():
    zero = jnp.zeros((1, 1))
    np.testing.assert_array_equal(_digrap.strength_slope(zero, zero, zero, zero, jnp.full((1, 1), 0.5)), zero)


def test_strength_hypergradient_of_two_fibers():
    """``sum_i <g_i, p_i> / (|g_i| |p_i|)``: the scale of the projection counts by its sign alone."""
    gradient, last = jnp.array([[1.0, 5.0], [0.0, 0.0]]), jnp.array([[3.0, -1.0], [4.0, 0.0]])
    *_, dots, displacement_squares, squares = (
        jnp.sum(x, axis=0, keepdims=True) for x in _digrap.products(gradient, last, jnp.zeros((2, 2)), last)
    )
    for scale in (2.0, -0.5):
        slope = _digrap.strength_slope(
            dots, displacement_squares, squares, jnp.full((1, 1), scale), jnp.full((1, 1), 0.5)
        )
        np.testing.assert_allclose(slope, [[np.sign(scale) * (0.6 - 1.0)]], rtol=1e-6)


def test_non_finite_hypergradients_count_as_zero():
    found = _hyper.finite(jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(found, [1.0, 0.0, 0.0, 0.0])


def test_a_step_that_is_not_finite_is_no_step():
    """Of each scalar by itself, and of the hyper-optimizer's state, whose counters go on."""

    class Count:
        init = staticmethod(lambda scalars: (jnp.zeros_like(scalars), jnp.zeros([], jnp.int32)))
        update = staticmethod(lambda slopes, state, params=None: (1 / slopes, (1 / slopes, state[1] + 1)))

    optimizer, scalars = optax.GradientTransformation(Count.init, Count.update), jnp.array([1.0, 2.0])
    moved, (kept, count) = _hyper.step(optimizer, jnp.array([0.0, 4.0]), optimizer.init(scalars), scalars)
    np.testing.assert_array_equal(moved, [1.0, 2.25])
    np.testing.assert_array_equal(kept, [0.0, 0.25])
    assert count == 1


def test_new_scalars_share_no_buffer_with_those_that_are_kept():
    """They are donated one by one."""

    class Two:
        counts, dtype = (1, 2), jnp.dtype("float32")

    first, again = _hyper.start(optax.adam(0.1), 0.5, Two)
    np.testing.assert_array_equal(first.scalars, [0.5] * 3)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((first, again, _hyper.copied(first)))]
    assert len(set(pointers)) == len(pointers)
