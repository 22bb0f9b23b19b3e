"""What holds after any step, on random trees, shapes, dtypes and gradients."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from ftp_optax import digrap, flax_units, ftp, radii

shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)
names = st.sampled_from(["kernel", "bias", "scale", "embedding", "pos_embedding"])
shape_trees = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(names, shapes, min_size=1, max_size=3), min_size=1, max_size=3
)
seeds = st.integers(0, 2**16)
examples = settings(max_examples=12, deadline=None)  # each draws new shapes, so each compiles


def draw(shape_tree, seed, dtype, scale=1.0):
    """A tree of normal arrays of the given shapes."""
    rng = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s), dtype), shape_tree, is_leaf=is_shape)


def walk(tx, params, shape_tree, seed, steps, update=None, dtype=jnp.float32, scale=1.0):
    state, update = tx.init(params), update or jax.jit(tx.update)
    for step in range(steps):
        grads = draw(shape_tree, (seed, step), dtype, scale)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        yield grads, params, state


@examples
@given(shape_trees, seeds, st.sampled_from(["exact", "lean"]), st.sampled_from([1e-3, 0.1, 10.0]))
def test_every_unit_is_inside_its_radius(shape_tree, seed, memory, rate):
    start = draw(shape_tree, seed, jnp.float32)
    tx = ftp(optax.adam(rate), memory=memory)
    for _, params, state in walk(tx, start, shape_tree, seed, 4):
        for module, leaf in ((m, n) for m in shape_tree for n in shape_tree[m]):
            path, value = f"{module}/{leaf}", np.asarray(params[module][leaf], np.float64)
            axes = flax_units(path, value.shape)
            others = tuple(a for a in range(value.ndim) if a not in axes)
            norms = np.abs(value - np.asarray(start[module][leaf], np.float64)).sum(axis=others)
            size = np.prod([value.shape[a] for a in others])
            rounding = 4e-7 * size * max(np.abs(value).max(), rate)  # each element of the sum is rounded to float32
            assert norms.max() <= radii(state, params)[path] + rounding
            own = np.abs(np.asarray(state.displacement[module][leaf], np.float64)).sum(axis=others)
            assert 0.99e-8 <= radii(state, params)[path] <= own.max() * (1 + 1e-5) + 1.01e-8


@examples
@given(shape_trees, seeds, st.sampled_from([0.01, 0.5, 20.0]))
def test_strengths_lie_in_the_unit_interval_and_only_conflicts_change(shape_tree, seed, rate):
    tx = digrap(hyper_optimizer=optax.adam(rate))
    start = params = draw(shape_tree, seed, jnp.float32)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(4):
        grads = draw(shape_tree, (seed, step), jnp.float32)
        cleared, state = update(grads, state, params)
        assert 0 <= float(state.strengths.min()) <= float(state.strengths.max()) <= 1
        for g, c, p, a in zip(*map(jax.tree.leaves, (grads, cleared, params, start)), strict=True):
            g, c, gap = (np.asarray(x, np.float64).ravel() for x in (g, c, p - a))
            slack = 1e-5 * np.linalg.norm(g) * np.linalg.norm(gap)
            if g @ gap > slack:
                np.testing.assert_array_equal(g, c)
            assert g @ c >= -1e-5 * (g @ g)  # never turned uphill
            assert c @ gap <= max(g @ gap, 0) + slack  # what is removed is removed once, not more
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, cleared))


@examples
@given(shape_trees, seeds, st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32]))
def test_unconstrained_leaves_are_the_base_optimizers(shape_tree, seed, dtype):
    free = {"free": {"kernel": (3, 2)}}
    both = shape_tree | free
    tx, base = ftp(optax.adam(0.1), mask=lambda p: {k: k != "free" for k in p}), optax.adam(0.1)
    params = alone = draw(both, seed, dtype)
    own = base.init(alone)
    # not jitted: XLA may contract a multiplication and an addition in one program and not in the other
    for grads, after, _ in walk(tx, params, both, seed, 3, update=tx.update, dtype=dtype):
        updates, own = base.update(grads, own, alone)
        alone = optax.apply_updates(alone, updates)
        chex.assert_trees_all_equal(after["free"], alone["free"])


@examples
@given(shape_trees, seeds, st.sampled_from([jnp.float16, jnp.bfloat16, jnp.float32]), st.booleans())
def test_jitted_equals_eager_and_keeps_every_dtype_and_shape(shape_tree, seed, dtype, lean):
    memory = "lean" if lean and dtype == jnp.float32 else "exact"
    tx = optax.chain(digrap(), ftp(optax.sgd(0.05, momentum=0.9), memory=memory))
    params = draw(shape_tree, seed, dtype)
    steps = zip(
        walk(tx, params, shape_tree, seed, 3, dtype=dtype),
        walk(tx, params, shape_tree, seed, 3, update=tx.update, dtype=dtype),
        strict=True,
    )
    first = tx.init(params)
    for (_, jitted, state), (_, eager, _) in steps:
        tolerance = 8 * float(jnp.finfo(dtype).eps)
        chex.assert_trees_all_close(jitted, eager, rtol=tolerance, atol=tolerance)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
        chex.assert_trees_all_equal_shapes_and_dtypes(jitted, params)


@examples
@given(shape_trees, seeds)
def test_renaming_leaves_permutes_the_radii(shape_tree, seed):
    """Nothing belongs to a position: reversing the order of the modules changes no number."""
    turned = dict(zip(shape_tree, sorted(shape_tree, reverse=True), strict=True))
    rename = lambda tree: {turned[m]: leaves for m, leaves in tree.items()}
    tx = ftp(optax.adam(0.1))
    params = draw(shape_tree, seed, jnp.float32)
    other, state, other_state = rename(params), tx.init(params), tx.init(rename(params))
    for step in range(3):
        grads = draw(shape_tree, (seed, step), jnp.float32)
        updates, state = tx.update(grads, state, params)
        other_updates, other_state = tx.update(rename(grads), other_state, other)
        params, other = optax.apply_updates(params, updates), optax.apply_updates(other, other_updates)
    chex.assert_trees_all_close(rename(params), other, rtol=1e-6, atol=1e-7)
    renamed = {f"{turned[p.split('/')[0]]}/{p.split('/')[1]}": r for p, r in radii(state, params).items()}
    found = radii(other_state, other)
    assert renamed.keys() == found.keys()
    assert all(np.isclose(renamed[p], found[p], rtol=1e-5) for p in found)


@examples
@given(seeds, st.integers(-8, 8), st.permutations(range(4)))
def test_scale_of_the_loss_and_order_of_units_do_not_matter(seed, exponent, order):
    """Adam is invariant to both; so are the radii's signs and with them the whole trajectory."""
    shape_tree, order = {"a": {"kernel": (3, 4)}}, jnp.array(order)
    tx = ftp(optax.adam(0.1, eps=0.0), hyper_optimizer=optax.adam(1e-2, eps=0.0, eps_root=1e-38))
    params = draw(shape_tree, seed, jnp.float32)
    update = jax.jit(tx.update)
    shuffle = lambda tree: jax.tree.map(lambda x: x[:, order], tree)
    runs = {"plain": (params, tx.init(params)), "scaled": (params, tx.init(params))}
    runs["shuffled"] = (shuffle(params), tx.init(params))
    for step in range(4):
        grads = draw(shape_tree, (seed, step), jnp.float32)
        given_grads = {
            "plain": grads,
            "scaled": jax.tree.map(lambda g: g * 2.0**exponent, grads),
            "shuffled": shuffle(grads),
        }
        for name, (p, s) in runs.items():
            updates, s = update(given_grads[name], s, p)
            runs[name] = optax.apply_updates(p, updates), s
    chex.assert_trees_all_close(runs["scaled"][0], runs["plain"][0], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(runs["shuffled"][0], shuffle(runs["plain"][0]), rtol=1e-5, atol=1e-6)


@examples
@given(shape_trees, seeds)
def test_size_zero_axes_are_fine(shape_tree, seed):
    with_empty = shape_tree | {"void": {"kernel": (0, 3), "bias": (0,)}}
    tx = optax.chain(digrap(), ftp(optax.sgd(0.1)))
    for (_, params, state), (_, plain, _) in itertools.islice(
        zip(
            walk(tx, draw(with_empty, seed, jnp.float32), with_empty, seed, 2),
            walk(tx, draw(shape_tree, seed, jnp.float32), shape_tree, seed, 2),
            strict=True,
        ),
        2,
    ):
        chex.assert_tree_all_finite((params, state))
        chex.assert_trees_all_close({k: v for k, v in params.items() if k != "void"}, plain, rtol=1e-6, atol=1e-7)
