"""FTP: parity with the released code and with an independent oracle, its options, its freedom from released defects."""

import itertools

import chex
import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from sklearn.datasets import load_digits

from ftp_optax import drift, elementwise, ftp, radii, whole_leaf

PARAMS = {
    "conv": {"kernel": jnp.linspace(-1, 1, 2 * 2 * 3 * 4).reshape(2, 2, 3, 4), "bias": jnp.linspace(0, 1, 4)},
    "dense": {"kernel": jnp.sin(jnp.arange(12.0)).reshape(4, 3), "bias": jnp.zeros(3)},
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)},
    "scale": jnp.float32(1.5),
}
BODY = {"conv": True, "dense": True, "head": False, "scale": True}
UNIT_AXES = {"conv/kernel": (3,), "dense/kernel": (1,)}


def gradients(params, step):
    """Gradients that turn now and then, so that radii grow, shrink and meet their cap."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(step)
    sign = 1.0 if step % 5 != 3 else -1.5
    noisy = [
        jnp.asarray(sign * np.cos(np.arange(x.size)).reshape(x.shape) + 0.3 * rng.normal(size=x.shape)) for x in leaves
    ]
    return jax.tree.unflatten(treedef, [g.astype(x.dtype) for g, x in zip(noisy, leaves, strict=True)])


def run(tx, params, steps, *, update=None, gradient=gradients):
    """The parameters and states after every step."""
    update = update or jax.jit(tx.update)
    state, history = tx.init(params), []
    for step in range(steps):
        updates, state = update(gradient(params, step), state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, state))
    return history


# Parity


@pytest.mark.parametrize("name", golden.FTP_TRACES)
@pytest.mark.parametrize("memory", ["exact", "lean"])
def test_released_traces_replay_in_float64(name, memory):
    trace = golden.load(name)
    with jax.enable_x64(True):
        anchored = {"memory": memory} | ({"anchor": None} if memory == "lean" else {})
        for step, params, state in golden.replay(trace, golden.ftp_of(trace, jnp.float64, **anchored), jnp.float64):
            for leaf, value in step["param"].items():
                np.testing.assert_allclose(params[leaf], np.array(value), rtol=0, atol=1e-12)
            found = radii(state, params)
            assert sorted(found) == sorted(set(step["gamma"]) - set(trace["exclude"]))
            for leaf, value in found.items():
                assert value == pytest.approx(step["gamma"][leaf], rel=0, abs=1e-12)


@pytest.mark.parametrize(("name", "bound"), [("adamp_k05_wd", 1e-5), ("adamp_k1", 1e-5), ("sgdp_nesterov", 5e-7)])
def test_released_traces_replay_in_float32(name, bound):
    trace = golden.load(name)
    for step, params, _ in golden.replay(trace, golden.ftp_of(trace, jnp.float32), jnp.float32):
        for leaf, value in step["param"].items():
            np.testing.assert_allclose(params[leaf], np.array(value), rtol=0, atol=bound)


@pytest.mark.parametrize("kappa", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("hypergradient", ["released", "exact"])
def test_agrees_with_the_oracle(kappa, hypergradient):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS)
        tx = ftp(optax.adam(0.05), kappa=kappa, hypergradient=hypergradient, mask=BODY)
        named = lambda tree: {jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(v) for k, v in tree}
        flat = lambda tree: named(jax.tree_util.tree_flatten_with_path(tree)[0])
        exact = hypergradient == "exact"
        leaves = {
            path: oracle.FTPLeaf(
                value,
                UNIT_AXES.get(path, ()),
                oracle.Adam(0.05),
                kappa=kappa,
                exact=exact,
                constrained=not path.startswith("head"),
            )
            for path, value in flat(params).items()
        }
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(40):
            grads = gradients(params, step)
            expected = {p: leaf.step(flat(params)[p], flat(grads)[p]) for p, leaf in leaves.items()}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for path, value in flat(params).items():
                np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-12, err_msg=f"{path} at {step}")
            for path, radius in radii(state, params).items():
                assert radius == pytest.approx(leaves[path].radius, abs=1e-12)


# What the method promises


def test_first_step_moves_only_unconstrained_leaves():
    (params, state), *_ = run(ftp(optax.adam(1e-2), mask=BODY), PARAMS, 1)
    for part in ("conv", "dense", "scale"):
        chex.assert_trees_all_close(params[part], PARAMS[part], rtol=0, atol=1e-7)
    assert float(jnp.abs(params["head"]["kernel"] - PARAMS["head"]["kernel"]).max()) > 5e-3
    np.testing.assert_allclose(list(radii(state, params).values()), 1e-8, rtol=1e-6)


def test_unconstrained_leaves_are_the_base_optimizers_bit_for_bit():
    alone = run(optax.adamw(1e-2), PARAMS["head"], 6, gradient=lambda p, s: gradients(PARAMS, s)["head"])
    wrapped = run(ftp(optax.adamw(1e-2), mask=BODY), PARAMS, 6, gradient=lambda p, s: gradients(PARAMS, s))
    chex.assert_trees_all_equal(alone[-1][0], wrapped[-1][0]["head"])


def test_kappa_zero_never_shrinks_a_radius_by_itself():
    tx = ftp(optax.sgd(0.1), kappa=0.0, hyper_optimizer=optax.sgd(1e-3))
    history = run(tx, {"kernel": jnp.ones((3, 4))}, 20)
    uncapped = [float(state.radii[0]) for _, state in history]
    caps = [float(jnp.abs(state.displacement["kernel"]).sum(0).max()) + 1e-8 for _, state in history]
    assert all(b >= min(a, cap) for a, b, cap in zip(uncapped, uncapped[1:], caps[1:], strict=False))
    shrinking = run(ftp(optax.sgd(0.1), hyper_optimizer=optax.sgd(1e-3)), {"kernel": jnp.ones((3, 4))}, 20)
    values = [float(state.radii[0]) for _, state in shrinking]
    assert any(b < a for a, b in itertools.pairwise(values))


def test_exact_and_released_hypergradients_differ_where_units_are_inside():
    """The sum over all units can even have another sign than the chain rule's sum over those outside the ball."""
    displacement = {"kernel": jnp.array([[2.0, 0.1], [2.0, 0.1]])}
    grads = {"kernel": jnp.array([[-1.0, 9.0], [-1.0, 9.0]])}
    slopes = {}
    for kind in ("released", "exact"):
        tx = ftp(optax.sgd(0.0), hypergradient=kind, hyper_optimizer=optax.sgd(1.0))
        params = {"kernel": jnp.zeros((2, 2))}
        state = tx.init(params)._replace(displacement=displacement, radii=jnp.array([1.0]))
        _, state = tx.update(grads, state, optax.tree.add(params, displacement))
        slopes[kind] = 1.0 - float(jnp.clip(state.radii[0], 0, None))
    # units: (|c|_1 = 4, outside) contributes <g, c>/n = -1; (|c|_1 = 0.2, inside the radius 1) contributes +9
    assert slopes["released"] == pytest.approx(1.0, abs=1e-6)  # +8 would end at -7: the lower bound
    assert slopes["exact"] == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize("rule", [whole_leaf, elementwise, lambda path, shape: (0,) if len(shape) > 1 else ()])
def test_units_lie_inside_the_radius(rule):
    for params, state in run(ftp(optax.adam(0.1), unit_axes=rule), PARAMS["dense"], 12):
        gap = np.abs(np.asarray(params["kernel"]) - np.asarray(PARAMS["dense"]["kernel"]))
        axes = rule("kernel", gap.shape)
        norms = gap.sum(axis=tuple(a for a in range(2) if a not in axes))
        assert norms.max() <= radii(state, params)["kernel"] * (1 + 1e-5) + 1e-6


def test_layers_stacked_on_a_leading_axis_equal_separate_layers():
    stacked = {"block": {"kernel": jnp.sin(jnp.arange(24.0)).reshape(2, 4, 3), "bias": jnp.zeros((2, 3))}}
    together = run(ftp(optax.adam(0.05), layer_axes=1), stacked, 8)
    layers = [{"block": jax.tree.map(lambda x, i=i: x[i], stacked["block"])} for i in range(2)]
    for i, layer in enumerate(layers):
        take = lambda p, s, i=i: jax.tree.map(lambda x: x[i], gradients(stacked, s))
        alone = run(ftp(optax.adam(0.05)), layer, 8, gradient=take)
        for (params, state), (one, own) in zip(together, alone, strict=True):
            chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], params), one, rtol=1e-6, atol=1e-7)
            for path, radius in radii(own, one).items():
                np.testing.assert_allclose(radii(state, params)[path][i], radius, rtol=1e-5)


def test_layer_axes_by_rule():
    params = {"blocks": {"kernel": jnp.ones((5, 2, 3))}, "norm": {"scale": jnp.ones(3)}}
    tx = ftp(optax.sgd(0.1), layer_axes=lambda path, shape: 1 if path.startswith("blocks") else 0)
    state = tx.init(params)
    assert state.radii.shape == (6,)
    assert radii(state, params)["blocks/kernel"].shape == (5,)


@pytest.mark.parametrize(
    "inner",
    [
        optax.sgd(0.1),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.lion(1e-3),
        optax.lamb(1e-2),
        optax.contrib.muon(1e-2),
        optax.contrib.galore(1e-2, rank=2),
        optax.contrib.prodigy(estim_lr0=1e-2),
        optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(optax.cosine_decay_schedule(0.1, 10))),
    ],
    ids=["sgd", "nesterov", "lion", "lamb", "muon", "galore", "prodigy", "chain"],
)
def test_any_base_optimizer(inner):
    """Wherever the base optimizer leads, ftp ends at its projection: checked against the optimizer alone."""
    params = {"kernel": jnp.sin(jnp.arange(12.0)).reshape(4, 3), "bias": jnp.zeros(3)}
    anchor, tx = params, ftp(inner)
    state, update, base = tx.init(params), jax.jit(tx.update), jax.jit(inner.update)
    moved = 0.0
    for step in range(6):
        grads = gradients(params, step)
        u, _ = base(grads, state.inner_state, params)
        updates, state = update(grads, state, params)
        for leaf, axis in (("kernel", 0), ("bias", None)):
            c = np.asarray(params[leaf] + u[leaf] - anchor[leaf], np.float64)
            norms = np.abs(c).sum(axis=axis, keepdims=True) + 1e-8
            expected = anchor[leaf] + np.minimum(1, radii(state, params)[leaf] / norms) * c
            np.testing.assert_allclose(params[leaf] + updates[leaf], expected, rtol=1e-5, atol=1e-6)
        params = optax.apply_updates(params, updates)
        moved = max(moved, float(jnp.abs(params["kernel"] - anchor["kernel"]).max()))
    assert moved > 1e-4


def test_hyper_optimizer_is_any_transformation():
    schedule = optax.piecewise_constant_schedule(0.1, {3: 0.0})
    history = run(ftp(optax.sgd(1.0), hyper_optimizer=optax.adam(schedule)), PARAMS["dense"], 6)
    values = np.array([state.radii for _, state in history])
    assert (values[2] > values[1]).all()  # a step of the schedule's first rate
    np.testing.assert_array_equal(values[3:], np.broadcast_to(values[3], values[3:].shape))  # its rate is zero now


def test_clipping_before_and_digrap_before_compose():
    tx = optax.chain(optax.clip_by_global_norm(1e-3), ftp(optax.sgd(1.0)))
    (params, _), *_ = run(
        tx, PARAMS["dense"], 1, gradient=lambda p, s: jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), p)
    )
    assert float(optax.tree.norm(optax.tree.sub(params, PARAMS["dense"]))) <= 1.1e-3


# Memory


@pytest.mark.parametrize("inner", [optax.sgd(0.05, momentum=0.9), optax.adamw(1e-2)], ids=["sgd", "adamw"])
def test_lean_follows_exact(inner):
    exact, lean = (run(ftp(inner, memory=memory, mask=BODY), PARAMS, 60)[-1][0] for memory in ("exact", "lean"))
    distance = float(optax.tree.norm(optax.tree.sub(exact["conv"], PARAMS["conv"])))
    gap = float(optax.tree.norm(optax.tree.sub(exact["conv"], lean["conv"])))
    assert distance > 1e-2
    assert gap <= 1e-4 * distance


def test_lean_keeps_one_buffer_and_exact_two():
    params = {"kernel": jnp.ones((64, 128))}
    size = lambda state: sum(x.nbytes for x in jax.tree.leaves(state))
    extra = {m: size(ftp(optax.sgd(0.1), memory=m).init(params)) for m in ("exact", "lean")}
    scalars = 64  # radii, their Adam, both kept twice: bytes, not buffers
    assert 2 * 64 * 128 * 4 <= extra["exact"] <= 2 * 64 * 128 * 4 + scalars
    assert 64 * 128 * 4 <= extra["lean"] <= 64 * 128 * 4 + scalars
    half = ftp(optax.sgd(0.1), anchor_dtype=jnp.bfloat16).init(params)
    assert half.anchor["kernel"].dtype == jnp.bfloat16
    assert size(half) <= 64 * 128 * 6 + scalars


def test_lossless_anchor_dtype_changes_nothing():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), PARAMS["dense"])
    full, half = (run(ftp(optax.adam(1e-2), anchor_dtype=d), params, 5)[-1][0] for d in (None, jnp.bfloat16))
    chex.assert_trees_all_equal(full, half)


def test_lean_cannot_keep_less_than_32_bits():
    with pytest.raises(TypeError, match=r"'kernel'.*bfloat16.*memory='exact'"):
        ftp(optax.sgd(0.1), memory="lean").init({"kernel": jnp.ones((2, 2), jnp.bfloat16)})


# Precision


def regression_loss(tx, dtype, steps=600):
    """The final float32 loss of a linear regression whose solution lies a little off the pre-trained weights."""
    key = jax.random.key(0)
    inputs = jax.random.normal(key, (256, 16))
    start = jax.random.normal(jax.random.key(1), (16, 8)).astype(dtype)
    target = inputs @ (start.astype(jnp.float32) + 0.1 * jax.random.normal(jax.random.key(2), (16, 8)))
    loss = lambda p: jnp.mean((inputs @ p["kernel"].astype(jnp.float32) - target) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": start}
    (params, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=steps))((params, tx.init(params)))
    master = params["kernel"].astype(jnp.float32)
    return float(loss({"kernel": master})), params, state


def test_bfloat16_parameters_reach_the_float32_loss():
    """A float32 displacement is master weights: updates below bfloat16's resolution add up instead of vanishing."""
    full, *_ = regression_loss(ftp(optax.adamw(1e-4, weight_decay=0)), jnp.float32)
    half, params, _ = regression_loss(ftp(optax.adamw(1e-4, weight_decay=0)), jnp.bfloat16)
    plain, *_ = regression_loss(optax.adamw(1e-4, weight_decay=0), jnp.bfloat16)
    assert params["kernel"].dtype == jnp.bfloat16
    assert half <= full * 1.05 + 1e-4
    assert plain > 2 * half  # plain AdamW on bfloat16 parameters stops learning


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_edited_half_precision_parameters_are_read(dtype):
    """Master weights hold only while the parameters are their rounding: an EMA swap or a load is not undone."""
    still = optax.sgd(0.0)
    params, state = run(
        ftp(optax.sgd(0.1), initial_radius=10.0, hyper_optimizer=still), {"kernel": jnp.ones((3, 2), dtype)}, 3
    )[-1]
    edited = {"kernel": params["kernel"].at[0, 0].set(1.0)}  # back on the anchor: nearer than any radius
    assert not jnp.array_equal(edited["kernel"], params["kernel"])
    updates, _ = ftp(still, hyper_optimizer=still).update({"kernel": jnp.zeros((3, 2), dtype)}, state, edited)
    chex.assert_trees_all_equal(optax.apply_updates(edited, updates), edited)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_learned_scalars_are_float32(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS["dense"])
    params, state = run(ftp(optax.adam(1e-2)), params, 4)[-1]
    assert state.radii.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state.displacement)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    chex.assert_tree_all_finite((params, state))
    assert float(state.radii.min()) > 1e-3


# The released code's defects, by their number in the project's notes on the algorithms


def test_defect_1_resumed_state_goes_on(tmp_path):
    """In one process here; test_resume.py saves with Orbax and restores in a new process."""
    tx, update = ftp(optax.adam(1e-2)), None
    whole = run(tx, PARAMS, 10)
    params, state = whole[4]
    update = jax.jit(tx.update)
    for step in range(5, 10):
        updates, state = update(gradients(params, step), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal((params, state), whole[-1])
    assert min(drift(state, params).values()) > 1e-3


def test_defect_2_buffers_belong_to_leaves():
    """Taking a leaf out of the constrained ones leaves the others' trajectories alone."""
    fixed = lambda p, s: gradients(PARAMS, s)
    all_of_them = run(ftp(optax.adam(1e-2)), PARAMS, 6, gradient=fixed)[-1]
    fewer = run(ftp(optax.adam(1e-2), mask=BODY | {"conv": False}), PARAMS, 6, gradient=fixed)[-1]
    assert radii(fewer[1], PARAMS)["dense/kernel"] == radii(all_of_them[1], PARAMS)["dense/kernel"]
    chex.assert_trees_all_equal(fewer[0]["dense"], all_of_them[0]["dense"])


def test_defect_3_a_mask_that_fits_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"'encoder'.*lacks"):
        ftp(optax.sgd(0.1), mask={"encoder": True, "head": False}).init(PARAMS)


def test_defect_4_lora_factors_do_not_collapse():
    adapters = {"lora_a": jnp.sin(jnp.arange(8.0)).reshape(4, 2), "lora_b": jnp.zeros((2, 3))}
    (params, _), *_ = run(ftp(optax.adam(1e-3)), adapters, 1)
    chex.assert_trees_all_close(params["lora_a"], adapters["lora_a"], atol=1e-6)


def test_defect_5_float16_does_not_underflow():
    params = {"kernel": jnp.ones((4, 3), jnp.float16), "bias": jnp.zeros(3, jnp.float16)}
    for after, state in run(ftp(optax.sgd(1e-4)), params, 5):
        chex.assert_tree_all_finite((after, state))
    assert float(state.radii.min()) >= 1e-8 * 0.99


def test_defect_6_zero_displacement():
    zero = lambda p, s: jax.tree.map(jnp.zeros_like, p)
    params, state = run(ftp(optax.sgd(0.1)), PARAMS, 3, gradient=zero)[-1]
    chex.assert_trees_all_equal(params, PARAMS)
    np.testing.assert_allclose(state.radii, 1e-8, rtol=1e-6)


def test_defect_8_kappa_is_used_as_given():
    ends = {k: run(ftp(optax.sgd(0.05), kappa=k), PARAMS["dense"], 15)[-1][1].radii for k in (0.0, 0.5, 1.0)}
    assert not np.allclose(ends[0.5], ends[0.0])
    assert not np.allclose(ends[0.5], ends[1.0])


# Faults and bad input


def test_a_poisoned_leaf_does_not_spoil_the_others():
    def poisoned(params, step):
        grads = gradients(PARAMS, step)
        return grads | {"scale": jnp.float32(jnp.nan)} if step == 3 else grads

    fixed = lambda p, s: gradients(PARAMS, s)
    clean, hit = (
        run(ftp(optax.adam(1e-2)), PARAMS, 8, gradient=fixed),
        run(ftp(optax.adam(1e-2)), PARAMS, 8, gradient=poisoned),
    )
    chex.assert_trees_all_equal(clean[-1][0]["conv"], hit[-1][0]["conv"])
    assert not np.isfinite(hit[-1][0]["scale"])
    assert np.isfinite(hit[-1][1].radii).all()


def test_apply_if_finite_skips_the_step():
    tx = optax.apply_if_finite(ftp(optax.adam(1e-2)), 3)
    params, state = run(tx, PARAMS, 4)[-1]
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), params)
    updates, after = tx.update(bad, state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": 1.5}, r"kappa must lie in \[0, 1\], got 1.5"),
        ({"kappa": -0.1}, "kappa"),
        ({"initial_radius": 0.0}, "initial_radius must be positive"),
        ({"initial_radius": float("nan")}, "initial_radius"),
        ({"memory": "small"}, "memory must be 'exact' or 'lean'"),
        ({"hypergradient": "true"}, "hypergradient must be"),
        ({"memory": "lean", "anchor": PARAMS}, "keeps no anchor"),
    ],
)
def test_bad_static_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ftp(optax.sgd(0.1), **options)


def test_layer_axes_must_be_static():
    with pytest.raises(TypeError, match="static_args"):
        optax.inject_hyperparams(ftp, static_args=("unit_axes",))(optax.sgd(0.1)).init(PARAMS)


def test_compiles_once():
    tx = ftp(optax.adamw(1e-2), mask=BODY)
    update = jax.jit(tx.update)
    run(tx, PARAMS, 4, update=update)
    assert update._cache_size() == 1


# The gradient that judges the radii


def test_held_out_gradients_judge_the_radii_and_nothing_else():
    """Against the oracle, which takes its hyper-gradient from another gradient than its step."""

    class Judged(oracle.FTPLeaf):
        def step(self, param, grad, judge):
            inner, self.base = self.base, lambda _: inner(grad)
            try:
                return super().step(param, judge)
            finally:
                self.base = inner

    with jax.enable_x64(True):
        params = {"kernel": jnp.asarray(PARAMS["dense"]["kernel"], jnp.float64)}
        tx = optax.chain(optax.identity(), ftp(optax.adam(0.05)))
        state, update = tx.init(params), jax.jit(lambda g, s, p, j: tx.update(g, s, p, held_out_grads=j))
        leaf = Judged(np.asarray(params["kernel"]), (1,), oracle.Adam(0.05))
        for step in range(20):
            grads, judge = gradients(params, step), gradients(params, 100 + 3 * step)
            expected = leaf.step(np.asarray(params["kernel"]), np.asarray(grads["kernel"]), np.asarray(judge["kernel"]))
            updates, state = update(grads, state, params, judge)
            params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params["kernel"], expected, rtol=0, atol=1e-12)
            assert radii(state, params)["kernel"] == pytest.approx(leaf.radius, abs=1e-12)


def test_training_gradients_as_held_out_ones_change_nothing():
    tx = ftp(optax.adam(0.05), mask=BODY)
    _, state = run(tx, PARAMS, 4)[-1]
    grads = gradients(PARAMS, 4)
    chex.assert_trees_all_equal(
        tx.update(grads, state, PARAMS), tx.update(grads, state, PARAMS, held_out_grads=dict(grads))
    )


def test_held_out_gradients_that_do_not_fit():
    tx = ftp(optax.sgd(0.1), mask=BODY)
    state, grads = tx.init(PARAMS), gradients(PARAMS, 0)
    with pytest.raises(ValueError, match=r"ftp: held_out_grads has no leaf 'scale'"):
        tx.update(grads, state, PARAMS, held_out_grads={k: v for k, v in grads.items() if k != "scale"})
    wrong = grads | {"scale": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"ftp: held_out_grads has shape \(2,\) at 'scale'"):
        tx.update(grads, state, PARAMS, held_out_grads=wrong)


@pytest.mark.slow
def test_lean_memory_stays_near_exact_over_3000_steps_of_a_real_training_run():
    """Handwritten digits, AdamW, a network of two layers: the same gradients to both, since rounding, fed back through
    the loss, would make any two runs part. In units of the distance to the anchor."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
        for name, shape in (("hidden", (64, 32)), ("head", (32, 10)))
    }
    inner = optax.adamw(optax.cosine_decay_schedule(3e-3, 3000), weight_decay=1e-4)
    exact, lean = (ftp(inner, hyper_optimizer=optax.adam(3e-2), memory=memory) for memory in ("exact", "lean"))

    def loss(params, batch):
        logits = jax.nn.relu(images[batch] @ params["hidden"]) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry, batch):
        params, state, lean_params, lean_state = carry
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = exact.update(grads, state, params)
        lean_updates, lean_state = lean.update(grads, lean_state, lean_params)
        apply = optax.apply_updates
        return (apply(params, updates), state, apply(lean_params, lean_updates), lean_state), value

    batches = jnp.asarray(rng.integers(0, len(labels), (3000, 32)))
    start = (params, exact.init(params), jax.tree.map(jnp.copy, params), lean.init(params))
    (trained, state, lean_trained, _), losses = jax.jit(lambda c, b: jax.lax.scan(step, c, b))(start, batches)
    assert float(losses[-100:].mean()) < 0.3 * float(losses[:100].mean())  # it did learn
    assert float(state.radii.min()) > 0.1
    for name in params:
        error = jnp.linalg.norm(lean_trained[name] - trained[name]) / jnp.linalg.norm(trained[name] - params[name])
        assert float(error) <= 1e-4


def test_a_poisoned_element_leaves_the_others_of_its_unit_alone():
    """Its norm is NaN, which is outside of no ball: the unit keeps its displacement, and the radius stays finite."""
    params = {"kernel": jnp.zeros((4, 2))}
    tx = ftp(optax.sgd(1.0), initial_radius=10.0)
    grads = {"kernel": jnp.ones((4, 2)).at[1, 0].set(jnp.nan)}
    updates, state = tx.update(grads, tx.init(params), params)
    assert np.isnan(updates["kernel"]).sum() == 1
    assert np.isfinite(state.radii).all()
