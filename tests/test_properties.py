"""What holds after any step, on random trees, shapes, dtypes and gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given
from hypothesis import strategies as st
from random_trees import draw, examples, layer_axes, random_mask, seeds, trees, walk

from ftp_optax import add_decayed_anchor, digrap, flax_units, ftp, pgm, radii, spd


def rows(*found):
    """The leaves of trees side by side, paths first; None and masked subtrees are no leaves."""
    paths = [
        "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in p)
        for p, _ in jax.tree.leaves_with_path(found[0])
    ]
    return zip(paths, *([np.asarray(x) for x in jax.tree.leaves(tree)] for tree in found), strict=True)


def unit_norms(path, gap):
    """The l1 norms of a leaf's units, a row for each layer."""
    depth = layer_axes(path, gap.shape)
    units = {a + depth for a in flax_units(path, gap.shape[depth:])} | set(range(depth))
    others = tuple(a for a in range(gap.ndim) if a not in units)
    return np.abs(gap.astype(np.float64)).sum(axis=others).reshape(gap.shape[0] if depth else 1, -1)


# The methods' own promises


@examples
@given(trees, seeds, st.sampled_from(["exact", "lean"]), st.sampled_from([1e-3, 0.1, 10.0]))
def test_every_unit_is_inside_its_radius_and_every_radius_in_its_bounds(tree, seed, memory, rate):
    start = draw(tree, seed)
    tx = ftp(optax.adam(rate), memory=memory, layer_axes=layer_axes, hyper_optimizer=optax.adam(rate))
    for _, params, state in walk(tx, tree, seed):
        learned = radii(state, params)
        for path, value, anchor, reached in rows(params, start, state.displacement):
            bound = np.reshape(learned[path], (-1, 1))
            norms, own = unit_norms(path, value - anchor), unit_norms(path, reached)
            # stated tolerance: every element is rounded to float32 once in the sum and once when it was stored
            rounding = 4e-7 * value.size * max(np.abs(value).max(initial=0), rate)
            assert (norms <= bound + rounding).all(), path
            assert (bound >= 0.99e-8).all(), path
            assert (bound <= own.max(axis=1, keepdims=True, initial=0) * (1 + 1e-5) + 1.01e-8).all(), path


@examples
@given(trees, seeds, st.sampled_from([0.01, 0.5, 20.0]))
def test_strengths_lie_in_the_unit_interval_and_only_conflicts_change(tree, seed, rate):
    tx = digrap(hyper_optimizer=optax.adam(rate), layer_axes=layer_axes)
    start = params = draw(tree, seed)
    state = tx.init(params)
    for step in range(3):
        grads = draw(tree, (seed, step))
        cleared, state = tx.update(grads, state, params)
        strengths = np.asarray(state.strengths)
        assert ((strengths >= 0) & (strengths <= 1)).all()
        for path, *leaf in rows(grads, cleared, params, start):
            layers = leaf[0].shape[0] if layer_axes(path, ()) else 1
            for g, c, p, a in zip(*(x.astype(np.float64).reshape(layers, -1) for x in leaf), strict=True):
                gap = p - a
                slack = 1e-5 * np.linalg.norm(g) * np.linalg.norm(gap)
                if g @ gap > slack:
                    np.testing.assert_array_equal(g, c, path)
                assert g @ c >= -1e-5 * (g @ g), f"{path} was turned uphill"
                assert c @ gap <= max(g @ gap, 0) + slack, f"{path}: more was removed than conflicted"
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, cleared))


WRAPPERS = {
    "ftp": lambda base, **kw: ftp(base, **kw),
    "lean": lambda base, **kw: ftp(base, memory="lean", **kw),
    "digrap": lambda base, **kw: optax.chain(digrap(**kw), base),
    "spd": lambda base, **kw: spd(base, strength=1.0, **kw),
    "pgm": lambda base, **kw: pgm(base, radius=1e-3, **kw),
    "l2_sp": lambda base, **kw: optax.chain(
        add_decayed_anchor(0.1, **{k: v for k, v in kw.items() if k == "mask"}), base
    ),
}


@examples
@given(trees, seeds, st.sampled_from(sorted(WRAPPERS)), st.sampled_from([jnp.bfloat16, jnp.float32]))
def test_unconstrained_leaves_are_the_base_optimizers_bit_for_bit(tree, seed, name, dtype):
    # Eager: XLA may contract a multiplication and an addition in one program and not in the other.
    mask, base = random_mask(tree, seed), optax.sgd(0.1, momentum=0.9)
    dtype = jnp.float32 if name == "lean" else dtype
    tx = WRAPPERS[name](base, mask=mask, layer_axes=layer_axes)
    alone = draw(tree, seed, dtype)
    own = base.init(alone)
    for grads, params, _ in walk(tx, tree, seed, dtype=dtype):
        updates, own = base.update(grads, own, alone)
        alone = optax.apply_updates(alone, updates)
        for path, value, expected, constrained in rows(params, alone, mask):
            assert value.dtype == expected.dtype
            if not constrained:
                np.testing.assert_array_equal(value, expected, path)


# Symmetries


def both(**settings):
    settings = {"layer_axes": layer_axes, **settings}
    return optax.chain(digrap(**settings), ftp(optax.sgd(0.1, momentum=0.9), **settings))


@examples
@given(trees, seeds)
def test_the_order_of_leaves_permutes_the_result(tree, seed):
    """Nothing belongs to a position: with the modules in another order every number moves with its leaf."""
    turned = lambda t: {"b": t["z"], "c": t["a"]}  # the first module becomes the last
    tx, one, other = both(), draw(tree, seed), turned(draw(tree, seed))
    state, other_state = tx.init(one), tx.init(other)
    for step in range(3):
        grads = draw(tree, (seed, step))
        updates, state = tx.update(grads, state, one)
        other_updates, other_state = tx.update(turned(grads), other_state, other)
        one, other = optax.apply_updates(one, updates), optax.apply_updates(other, other_updates)
    chex.assert_trees_all_close(turned(one), other, rtol=1e-6, atol=1e-7)
    renamed = {
        path.replace("z", "b", 1) if path[0] == "z" else "c" + path[1:]: r for path, r in radii(state, one).items()
    }
    found = radii(other_state, other)
    assert renamed.keys() == found.keys()
    for path, radius in renamed.items():
        np.testing.assert_allclose(radius, found[path], rtol=1e-5, err_msg=path)


@examples
@given(trees, seeds)
def test_the_order_of_units_permutes_the_result(tree, seed):
    """Units and fibers have no order: reversing the last axis of every kernel reverses it in the result."""
    turned = lambda t: jax.tree.map(lambda x: x[..., ::-1] if x.ndim > 1 else x, t)
    # sgd on radii and strengths: Adam makes the sign of a hyper-gradient that rounds to zero a step of full length
    tx, one = both(hyper_optimizer=optax.sgd(0.1)), draw(tree, seed)
    other, state = turned(one), tx.init(one)
    other_state = tx.init(other)
    for step in range(3):
        grads = draw(tree, (seed, step))
        updates, state = tx.update(grads, state, one)
        other_updates, other_state = tx.update(turned(grads), other_state, other)
        one, other = optax.apply_updates(one, updates), optax.apply_updates(other, other_updates)
    chex.assert_trees_all_close(turned(one), other, rtol=1e-5, atol=1e-6)


@examples
@given(trees, seeds, st.integers(-30, 30))
def test_the_scale_of_the_loss_changes_no_bit(tree, seed, exponent):
    """Powers of two are exact, and Adam without its epsilon, on parameters and on radii, divides the scale out."""
    adam = lambda rate: optax.adam(rate, eps=0.0, eps_root=1e-37)
    tx = optax.chain(
        digrap(hyper_optimizer=adam(0.5), layer_axes=layer_axes),
        ftp(adam(0.1), hyper_optimizer=adam(1e-2), layer_axes=layer_axes),
    )
    runs = zip(walk(tx, tree, seed), walk(tx, tree, seed, scale=2.0**exponent), strict=True)
    for (_, plain, _), (_, scaled, _) in runs:
        chex.assert_trees_all_equal(scaled, plain)


# Ways to run it. Compiled programs are of a few trees that hold every kind, the examples are their values.

KINDS_OF = {
    "flat": {"a": {"kernel": (2, 3), "bias": (3,), "scale": ()}, "b": {"embedding": (3, 2), "bias": (0,)}, "c": None},
    "deep": [{"query": {"kernel": (2, 2, 3)}}, ({"kernel": (2, 1, 2, 1, 2)}, {"x": {"y": {"bias": (1,)}}})],
    "stacked": {
        "layers": {"kernel": (2, 2, 3), "bias": (2, 3)},
        "void": {"kernel": (0, 3)},
        "gone": optax.MaskedNode(),
    },
}
forest = st.sampled_from(sorted(KINDS_OF))
STEPS = 3


def values(name, seed, dtype=np.float32, batch=()):
    """Parameters, and gradients for every step, on the host."""
    rng = np.random.default_rng((seed, len(name)))
    is_shape = lambda x: type(x) is tuple and all(isinstance(n, int) for n in x)
    make = lambda lead: jax.tree.map(
        lambda s: rng.normal(size=(*batch, *lead, *s)).astype(dtype), KINDS_OF[name], is_leaf=is_shape
    )
    return make(()), make((STEPS,))


# Continuous in their inputs, so that rounding stays rounding: Adam makes a full step of a hyper-gradient that rounds to
# either side of zero, and a first radius of 1e-8 is lost in float32 but not in float64.
GENTLE = {"hyper_optimizer": optax.sgd(0.05), "layer_axes": layer_axes}
BALL = ftp(optax.sgd(0.1, momentum=0.9), initial_radius=0.05, **GENTLE)
BOTH = optax.chain(digrap(**GENTLE), BALL)


def scanned(params, grads, tx=BOTH):
    """All steps in one scan: where it ends, and the last state."""

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(body, (params, tx.init(params)), grads)[0]


def looped(params, grads, update):
    """The same steps one by one."""
    state = BOTH.init(params)
    for step in range(STEPS):
        updates, state = update(jax.tree.map(lambda g, s=step: g[s], grads), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


jitted_scan, jitted_update = jax.jit(scanned), jax.jit(BOTH.update)
# each alone: at a radius of 1e-8 the displacement that DiGraP reads is lost in float32, and not in float64
jitted_ball = jax.jit(lambda params, grads: scanned(params, grads, BALL))
jitted_digrap = jax.jit(lambda params, grads: scanned(params, grads, optax.chain(digrap(**GENTLE), optax.sgd(0.1))))
ENSEMBLE = 4
ensembles = jax.jit(jax.vmap(scanned))


def close(one, other, tolerance=2e-5):
    """Equal to rounding; DiGraP's scales to a few digits, which divide by a displacement that has lost the others."""
    one, other = jax.device_get(one), jax.device_get(other)
    scales, others = (optax.tree.get_all_with_path(tree, "scales") for tree in (one, other))
    for (_, array), (_, wanted) in zip(scales, others, strict=True):
        chex.assert_trees_all_close(array, wanted, rtol=1e-3, atol=tolerance)
    one, other = (optax.tree.set(tree, scales=0.0) if scales else tree for tree in (one, other))
    chex.assert_trees_all_close(one, other, rtol=tolerance, atol=tolerance)


@examples
@given(forest, seeds)
def test_jit_scan_and_eager_agree(name, seed):
    params, grads = values(name, seed)
    loop = looped(params, grads, jitted_update)
    close(loop, looped(jax.tree.map(jnp.asarray, params), grads, BOTH.update))
    close(loop, jitted_scan(params, grads))
    chex.assert_trees_all_equal_shapes_and_dtypes(loop[0], params)


@examples
@given(forest, seeds)
def test_vmap_over_an_ensemble_is_a_loop(name, seed):
    params, grads = values(name, seed, batch=(ENSEMBLE,))
    together = jax.device_get(ensembles(params, grads))
    for i in range(ENSEMBLE):
        member = lambda tree, i=i: jax.tree.map(lambda x: x[i], tree)
        close(member(together), jitted_scan(member(params), member(grads)))


@examples
@given(forest, seeds, st.sampled_from([jitted_ball, jitted_digrap]))
def test_float32_is_near_float64(name, seed, run):
    single = jax.device_get(run(*values(name, seed))[0])
    with jax.enable_x64(True):
        double = jax.device_get(run(*values(name, seed, np.float64))[0])
    assert {x.dtype for x in jax.tree.leaves(double)} == {np.dtype(np.float64)}
    close(single, jax.tree.map(lambda x: x.astype(np.float32), double))


@examples
@given(forest, seeds, st.sampled_from([jnp.float16, jnp.bfloat16]))
def test_low_precision_keeps_its_dtypes_and_stays_near_float32(name, seed, dtype):
    wide = jax.tree.map(lambda x: np.asarray(x, dtype).astype(np.float32), values(name, seed))
    low = jax.tree.map(lambda x: x.astype(dtype), wide)
    params, state = jitted_ball(*low)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, low[0])
    chex.assert_tree_all_finite((params, state))
    expected = jitted_ball(*wide)[0]
    largest = max(np.abs(x).max(initial=1.0) for x in jax.tree.leaves(jax.device_get(expected)))
    # trained as float32 masters: what comes out is the float32 result rounded once
    close(jax.tree.map(lambda x: x.astype(jnp.float32), params), expected, 2 * largest * float(jnp.finfo(dtype).eps))
