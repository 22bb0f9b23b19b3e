"""Stacked leaves are the leaves: nothing gets lost, nothing gets mixed up, and what must not be stacked is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import _stacks, _units, digrap, elementwise, ftp, strengths

SHAPES = [(3,), (4, 3), (3,), (5,), (), (4, 3), (3,), (2, 4, 3), (), (2, 4, 3)]
LAYOUTS = [_units.resolve("kernel", shape, _units.flax_units, int(len(shape) == 3)) for shape in SHAPES]


def drawn(shapes=SHAPES):
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw(shape), jnp.float32) for shape in shapes]


def under_jit(function, *arguments):
    """What a function returns under jit, where leaves are stacked; no array must be in it."""
    found = []
    jax.eval_shape(lambda *given: found.append(function(*given)), *arguments)
    return found[0]


def vectors_of(layouts, *trees):
    return under_jit(lambda *given: _stacks.vectors(layouts, *given), *trees)


def units_of(leaves):
    vectors = vectors_of(LAYOUTS, leaves)
    sums = [_units.unit_norms(x, layout) for x, layout in zip(vectors.of(leaves), vectors.layouts, strict=True)]
    return vectors, under_jit(lambda given: _stacks.units(vectors, given), sums), sums


def test_vectors_of_one_length_are_one_stack_and_nothing_else_is():
    assert vectors_of(LAYOUTS, drawn()).members == [[0, 2, 6], [1], [3], [4, 8], [5], [7], [9]]


def test_units_of_one_shape_are_one_stack():
    _, units, _ = units_of(drawn())
    assert units.members == [[0], [1, 4], [2], [3], [5, 6]]


def test_apart_is_the_inverse_of_of():
    leaves = drawn()
    vectors, units, sums = units_of(leaves)
    for stacks, arrays in ((vectors, leaves), (units, sums)):
        for found, array in zip(stacks.apart(stacks.of(arrays)), arrays, strict=True):
            np.testing.assert_array_equal(found, array)


def test_every_leaf_meets_its_own_scalars():
    """Each layer's scalar in its stack, times its layer, is what a loop over the leaves gives."""
    leaves = drawn()
    vectors, units, sums = units_of(leaves)
    scalars = jnp.arange(float(sum(layout.scalars for layout in LAYOUTS)))
    for stacks, arrays in ((vectors, leaves), (units, sums)):
        own = zip(stacks.of(arrays), stacks.split(scalars), stacks.layouts, strict=True)
        scaled = stacks.apart([x * _units.per_layer(s, layout, x.ndim) for x, s, layout in own])
        scaled = scaled if stacks is vectors else vectors.apart(scaled)
        before = leaves if stacks is vectors else vectors.apart(sums)
        at = 0
        for found, array, layout in zip(scaled, before, LAYOUTS, strict=True):
            own = scalars[at : at + layout.scalars].reshape(layout.layers + (1,) * (array.ndim - len(layout.layers)))
            np.testing.assert_array_equal(found, own * array)
            at += layout.scalars
        np.testing.assert_array_equal(stacks.join(stacks.split(scalars), scalars), scalars)


def test_large_vectors_stay_apart():
    layout = _units.resolve("bias", (2**13 + 1,), _units.flax_units, 0)
    large = [jnp.zeros(2**13 + 1)] * 3
    assert vectors_of([layout] * 3, large).members == [[0], [1], [2]]


def test_a_stack_has_at_most_sixteen_leaves():
    layout = _units.resolve("bias", (3,), _units.flax_units, 0)
    members = vectors_of([layout] * 40, [jnp.zeros(3)] * 40).members
    assert [len(own) for own in members] == [16, 16, 8]
    assert sorted(i for own in members for i in own) == [*range(40)]


@pytest.mark.parametrize("other", ["dtype", "layout"])
def test_leaves_that_differ_in_anything_stay_apart(other):
    layouts = [_units.resolve("bias", (3,), rule, 0) for rule in (_units.flax_units, elementwise)]
    if other == "layout":
        assert vectors_of(layouts, [jnp.zeros(3)] * 2).members == [[0], [1]]
    else:
        gradients = [jnp.zeros(3), jnp.zeros(3, jnp.bfloat16)]
        assert vectors_of(layouts[:1] * 2, [jnp.zeros(3)] * 2, gradients).members == [[0], [1]]


def test_on_a_mesh_nothing_is_stacked():
    """Leaves of one shape may be placed differently there; stacking them would move them."""
    mesh = jax.make_mesh((2,), ("shard",), devices=jax.devices()[:2])
    layout = _units.resolve("bias", (4,), _units.flax_units, 0)
    placed = [jax.device_put(jnp.zeros(4), NamedSharding(mesh, spec)) for spec in (P("shard"), P())]
    seen = []
    jax.jit(lambda arrays: seen.append(_stacks.vectors([layout] * 2, arrays).members))(placed)
    assert seen == [[[0], [1]]]


def test_outside_of_jit_nothing_is_stacked():
    """There every size of a stack would be a program of its own."""
    assert all(len(own) == 1 for own in _stacks.vectors(LAYOUTS, drawn()).members)


@pytest.mark.parametrize("build", [ftp, lambda inner: optax.chain(digrap(), inner)])
def test_a_step_of_many_leaves_is_the_steps_of_each(build):
    """The tree has stacks of both kinds; a leaf alone has none. Twenty of a kind: more than one stack takes."""
    shapes = {f"{kind}{i}": shape for kind, shape in (("bias", (6,)), ("kernel", (5, 6))) for i in range(20)}
    draw = np.random.default_rng(1).standard_normal
    params = {path: jnp.asarray(draw(shape), jnp.float32) for path, shape in shapes.items()}
    gradients = [{path: jnp.asarray(draw(shape), jnp.float32) for path, shape in shapes.items()} for _ in range(3)]
    tx = build(optax.adam(1e-2))

    def run(params, gradients):
        state, step = tx.init(params), jax.jit(tx.update)
        for gradient in gradients:
            updates, state = step(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    together, state = run(params, gradients)
    for path, leaf in together.items():
        alone, own = run({path: params[path]}, [{path: g[path]} for g in gradients])
        np.testing.assert_allclose(leaf, alone[path], rtol=1e-6, atol=1e-7)
        if build is not ftp:
            assert strengths(state, together)[path] == pytest.approx(strengths(own, alone)[path], abs=1e-6)
