"""DiGraP: parity with the released code and an independent oracle, its options, its freedom from released defects."""

import chex
import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from ftp_optax import digrap, reanchor, strengths, torch_fibers

PARAMS = {
    "conv": {"kernel": jnp.linspace(-1, 1, 2 * 2 * 3 * 4).reshape(2, 2, 3, 4), "bias": jnp.linspace(0, 1, 4)},
    "embed": {"embedding": jnp.cos(jnp.arange(10.0)).reshape(5, 2)},
    "head": {"kernel": jnp.sin(jnp.arange(6.0)).reshape(3, 2)},
}
FIBER_AXES = {"conv/kernel": (0, 1, 3), "conv/bias": (), "embed/embedding": (0,), "head/kernel": (1,)}


def gradients(params, step):
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(step)
    sign = 1.0 if step % 3 else -1.5
    noisy = [
        jnp.asarray(sign * np.cos(np.arange(x.size)).reshape(x.shape) + 0.3 * rng.normal(size=x.shape)) for x in leaves
    ]
    return jax.tree.unflatten(treedef, [g.astype(x.dtype) for g, x in zip(noisy, leaves, strict=True)])


@pytest.mark.parametrize("name", golden.DIGRAP_TRACES)
def test_released_traces_replay_in_float64(name):
    trace = golden.load(name)
    with jax.enable_x64(True):
        moved = 0.0
        for step, params, state in golden.replay(trace, golden.digrap_of(trace, jnp.float64), jnp.float64):
            for leaf, value in step["param"].items():
                np.testing.assert_allclose(params[leaf], np.array(value), rtol=0, atol=1e-12)
            for leaf, value in strengths(state, params).items():
                assert value == pytest.approx(step["omega"][leaf], rel=0, abs=1e-12)
                moved = max(moved, value)
        assert moved > 0.1


@pytest.mark.parametrize("name", golden.DIGRAP_TRACES)
def test_released_gradients_after_projection_replay(name):
    """The link alone: what it makes of the gradients, before the base optimizer."""
    trace = golden.load(name)
    with jax.enable_x64(True):
        link = digrap(
            hyper_optimizer=optax.adam(trace["kw"]["mu"]),
            unit_axes=torch_fibers,
            anchor=golden.arrays(trace["pre"], jnp.float64),
        )
        params = golden.arrays(trace["init"], jnp.float64)
        state = link.init(params)
        for step in trace["steps"]:
            cleared, state = link.update(golden.arrays(step["grad"], jnp.float64), state, params)
            for leaf, value in step["grad_after"].items():
                np.testing.assert_allclose(cleared[leaf], np.array(value), rtol=0, atol=1e-12)
            params = golden.arrays(step["param"], jnp.float64)


def test_released_traces_replay_in_float32():
    trace = golden.load("spcg_mu0.1")
    for step, params, _ in golden.replay(trace, golden.digrap_of(trace, jnp.float32), jnp.float32):
        for leaf, value in step["param"].items():
            np.testing.assert_allclose(params[leaf], np.array(value), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_agrees_with_the_oracle(rate):
    named = lambda tree: {
        jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(v)
        for k, v in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS)
        tx = optax.chain(digrap(hyper_optimizer=optax.adam(rate)), optax.adam(0.05))
        leaves = {
            path: oracle.DiGraPLeaf(value, FIBER_AXES[path], oracle.Adam(0.05), hyper_lr=rate)
            for path, value in named(params).items()
        }
        state, update, acted = tx.init(params), jax.jit(tx.update), 0.0
        for step in range(30):
            grads = gradients(params, step)
            expected = {p: leaf.step(named(params)[p], named(grads)[p]) for p, leaf in leaves.items()}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for path, value in named(params).items():
                np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-11, err_msg=f"{path} at {step}")
            for path, strength in strengths(state, params).items():
                assert strength == pytest.approx(leaves[path].strength, abs=1e-11)
                acted = max(acted, strength)
        assert acted > rate


def acting(strength, **options):
    """The transformation and a state in which every leaf is displaced by one and removes the given share."""
    tx = digrap(hyper_optimizer=optax.sgd(0.0), **options)
    state = tx.init(PARAMS)
    return tx, state._replace(strengths=jnp.full_like(state.strengths, strength)), jax.tree.map(lambda x: x + 1, PARAMS)


def test_only_conflicting_gradients_are_changed():
    tx, state, params = acting(1.0)
    grads = gradients(PARAMS, 0)
    dots = jax.tree.map(lambda g: float(jnp.sum(g)), grads)
    cleared, _ = tx.update(grads, state, params)
    for before, after, dot in zip(*map(jax.tree.leaves, (grads, cleared, dots)), strict=True):
        if dot >= 0:
            np.testing.assert_array_equal(before, after)
        else:
            assert abs(float(jnp.sum(after))) < 1e-4 * abs(dot)  # strength 1 removes the whole component
    assert min(jax.tree.leaves(dots)) < 0 < max(jax.tree.leaves(dots))


def test_removal_is_proportional_to_the_strength_and_descends():
    for strength in (0.0, 0.25, 1.0):
        tx, state, params = acting(strength)
        grads = jax.tree.map(lambda x: -jnp.ones_like(x) + 0.5 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), PARAMS)
        cleared, _ = tx.update(grads, state, params)
        for g, c in zip(jax.tree.leaves(grads), jax.tree.leaves(cleared), strict=True):
            assert float(jnp.sum(c)) == pytest.approx((1 - strength) * float(jnp.sum(g)), rel=1e-4, abs=1e-4)
            assert float(jnp.sum(c * g)) >= -1e-5


def test_first_step_is_a_no_op():
    tx = digrap()
    grads = gradients(PARAMS, 0)
    cleared, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(cleared, grads)
    assert set(strengths(state, PARAMS).values()) == {0.0}


def test_max_strength_bounds():
    tx, params = digrap(max_strength=0.2, hyper_optimizer=optax.adam(5.0)), PARAMS
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(8):
        cleared, state = update(gradients(params, step), state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.05 * g, cleared))
        assert float(state.strengths.min()) >= 0
        assert float(state.strengths.max()) <= 0.2 + 1e-7
    assert float(state.strengths.max()) == pytest.approx(0.2)


def test_layers_stacked_on_a_leading_axis_equal_separate_layers():
    stacked = {"kernel": jnp.sin(jnp.arange(24.0)).reshape(2, 4, 3), "bias": jnp.ones((2, 3))}
    chains = {axes: optax.chain(digrap(layer_axes=axes), optax.sgd(0.1)) for axes in (0, 1)}
    updates = {axes: jax.jit(chain.update) for axes, chain in chains.items()}
    take = lambda tree, i: jax.tree.map(lambda x: x[i], tree)
    params, state = stacked, chains[1].init(stacked)
    single = [(take(stacked, i), chains[0].init(take(stacked, i))) for i in range(2)]
    for step in range(8):
        grads = gradients(stacked, step)
        u, state = updates[1](grads, state, params)
        params = optax.apply_updates(params, u)
        for i, (p, s) in enumerate(single):
            u, s = updates[0](take(grads, i), s, p)
            single[i] = (optax.apply_updates(p, u), s)
            chex.assert_trees_all_close(take(params, i), single[i][0], rtol=1e-5, atol=1e-6)
            for path, value in strengths(s, p).items():
                assert value == pytest.approx(float(strengths(state, params)[path][i]), abs=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_low_precision(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    tx = digrap()
    state = tx.init(params)
    for step in range(4):
        cleared, state = tx.update(gradients(params, step), state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda g: (-0.05 * g).astype(g.dtype), cleared))
        assert {x.dtype for x in jax.tree.leaves(cleared)} == {jnp.dtype(dtype)}
    assert state.strengths.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state.displacement)} == {jnp.dtype(jnp.float32)}
    chex.assert_tree_all_finite((params, state))


def test_defect_7_vectors_zero_gradients_and_no_side_effects(capfd):
    """The released file fails on 1-D leaves and leaves without gradient, changes the gradients and prints."""
    tx, state, params = acting(0.5)
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    kept = jax.tree.map(np.array, grads)
    cleared, state = tx.update(grads, state, params)
    chex.assert_trees_all_equal(grads, kept)
    chex.assert_tree_all_finite((cleared, state))
    none = {"a": None, "b": jnp.ones(3)}
    cleared, _ = tx.update(none, tx.init(none), none)
    assert cleared["a"] is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, 1e30])
def test_a_poisoned_gradient_passes_through_and_spoils_nothing_else(poison):
    tx, state, params = acting(0.5)
    grads = gradients(PARAMS, 1)
    bad = grads | {"head": {"kernel": grads["head"]["kernel"].at[0, 0].set(poison)}}
    clean, clean_state = tx.update(grads, state, params)
    hit, after = tx.update(bad, state, params)
    chex.assert_trees_all_equal(
        {k: v for k, v in hit.items() if k != "head"}, {k: v for k, v in clean.items() if k != "head"}
    )
    assert np.isfinite(after.strengths).all()
    again, after = tx.update(grads, after, params)  # nothing of it is left in the next step's gradients
    chex.assert_trees_all_equal(again, tx.update(grads, clean_state, params)[0])
    assert np.isfinite(after.strengths).all()


@pytest.mark.parametrize("far", [1e-30, 1e30])
def test_denormal_and_huge_displacements_stay_finite(far):
    tx, state, _ = acting(1.0)
    params = jax.tree.map(lambda x: jnp.full_like(x, far), PARAMS)
    tx = digrap(hyper_optimizer=optax.sgd(0.0), anchor=jax.tree.map(jnp.zeros_like, PARAMS))
    state = tx.init(params)._replace(strengths=state.strengths)
    cleared, _ = tx.update(jax.tree.map(lambda x: -jnp.ones_like(x), PARAMS), state, params)
    chex.assert_tree_all_finite(cleared)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, float("nan")])
def test_bad_max_strength(value):
    with pytest.raises(ValueError, match=r"max_strength must lie in \(0, 1\]"):
        digrap(max_strength=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_initial_strength(value):
    with pytest.raises(ValueError, match=r"initial_strength must lie in \[0, 1\]"):
        digrap(initial_strength=value)


def test_bad_memory():
    with pytest.raises(ValueError, match=r"memory must be 'exact' or 'lean', got 'small'"):
        digrap(memory="small")


@pytest.mark.parametrize("given", [((optax.adamw(1e-4),), {}), ((), {"inner": optax.adamw(1e-4)})])
def test_a_base_optimizer_is_told_where_it_goes(given):
    arguments, keywords = given
    with pytest.raises(TypeError, match=r"digrap takes no base optimizer.*optax\.chain\(digrap\(\), optax\.adamw"):
        digrap(*arguments, **keywords)


def test_initial_strength_acts_from_the_second_step_and_is_what_reanchor_goes_back_to():
    tx = digrap(initial_strength=0.75, hyper_optimizer=optax.sgd(0.0))
    state = tx.init(PARAMS)
    assert set(strengths(state, PARAMS).values()) == {0.75}
    params = jax.tree.map(lambda x: x + 1, PARAMS)
    cleared, after = tx.update(jax.tree.map(lambda x: -jnp.ones_like(x), PARAMS), state, params)
    for value in jax.tree.leaves(cleared):
        np.testing.assert_allclose(value, -0.25, rtol=1e-5)
    assert set(strengths(reanchor(after._replace(strengths=after.strengths * 0), params), params).values()) == {0.75}


def test_lean_memory_keeps_the_anchor_alone_and_stays_near_exact():
    """Noisy gradients, whose radial part turns now and then: the strengths come and go."""
    ends, acted = {}, 0.0
    for memory in ("exact", "lean"):
        tx = optax.chain(digrap(memory=memory, hyper_optimizer=optax.adam(0.05)), optax.sgd(1e-3))
        params, state = PARAMS, tx.init(PARAMS)
        update = jax.jit(tx.update)
        for step in range(100):
            updates, state = update(gradients(PARAMS, step), state, params)
            params = optax.apply_updates(params, updates)
            acted = max(acted, *strengths(state, params).values())
        ends[memory] = params, state[0]
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert ends["lean"][1].displacement is None
    assert size(ends["exact"][1]) - size(ends["lean"][1]) == size(PARAMS)
    away = optax.tree.norm(optax.tree.sub(ends["exact"][0], PARAMS))
    assert float(optax.tree.norm(optax.tree.sub(ends["lean"][0], ends["exact"][0])) / away) < 0.02
    assert acted > 0.1


def test_after_the_preconditioner_it_removes_the_radial_part_of_the_step():
    """Updates that still have the gradients' sign: between scale_by_adam and the learning rate."""
    tx = optax.chain(optax.scale_by_adam(), digrap(initial_strength=1.0, hyper_optimizer=optax.sgd(0.0)))
    state = tx.init(PARAMS)
    params = jax.tree.map(lambda x: x + 1, PARAMS)
    step, _ = tx.update(jax.tree.map(lambda x: -1 - jnp.abs(x), PARAMS), state, params)
    for value in jax.tree.leaves(step):
        assert abs(float(jnp.sum(value))) < 1e-4 * value.size
