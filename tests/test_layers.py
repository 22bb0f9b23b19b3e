"""Layers: sums over units are the sums, however they are taken; nothing gets lost, mixed up or moved."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import _layers, _trees, _units, digrap, elementwise, ftp, pgm, spd, strengths

CPU, GPU = _layers._sums_in_one_loop, functools.partial(_layers._sums_in_stages, False)
APART, TPU = functools.partial(_layers._sums_in_stages, True), _layers._sums_one_by_one
WAYS = pytest.mark.parametrize("way", [None, CPU, GPU, APART, TPU], ids=["here", "cpu", "gpu", "gpu, apart", "tpu"])


def drawn(*shapes, dtype=jnp.float32):
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw(shape), dtype) for shape in shapes]


def layers_of(layouts, *trees):
    """The layers of a list of leaves; the groups are those of all the lists."""
    first, *others = (_trees.flatten(list(tree)) for tree in trees)
    return _layers.Layers(first, dict(enumerate(layouts)), *others)


def under_jit(layouts, *trees) -> _layers.Layers:
    """The layers as they are under jit, where leaves are grouped."""
    found = []
    jax.eval_shape(lambda *given: found.append(layers_of(layouts, *given)), *trees)
    return found[0]


def members(layers):
    return [group.members for group in layers.groups]


def products(gradient, last):
    return gradient * last, jnp.abs(last)


def summed(way, layouts, *leaves, products=products):
    """The sums of each leaf's products over each of its units: as a step takes them here, or in one of the ways."""
    layers = layers_of(layouts, *leaves)
    if way is None:
        return [layers.spread(sums) for sums in layers.unit_sums(products, *leaves)]
    rows = [*zip(*leaves, strict=True)]
    found = way(products, layers.groups, [[rows[k] for k in group.members] for group in layers.groups])
    return [layers.spread([*sums]) for sums in zip(*found, strict=True)]


def plain(layouts, *leaves, sums=jnp.sum):
    """The same by sums that are taken one by one."""
    axes = lambda leaf, layout: tuple(a for a in range(leaf.ndim) if a not in layout.axes)
    each = [
        [sums(x, axis=axes(x, layout), keepdims=True) for x in products(*leaf)]
        for *leaf, layout in zip(*leaves, layouts, strict=True)
    ]
    return [list(same) for same in zip(*each, strict=True)]


def in_float64(array, **settings):
    return np.sum(np.float64(array), **settings)


def same(found, expected, **tolerance):
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, **{"rtol": 1e-5, "atol": 1e-4, **tolerance})


# the sums

KEPT = {  # by shape: layer axes, and the axes that stay
    (48, 5): ((), (1,)),
    (5, 48): ((), (0,)),
    (12, 4): ((), ()),
    (3, 3, 16, 8): ((), (3,)),
    (2, 60, 7): ((2,), (0, 2)),
    (3, 2, 24): ((3, 2), (0, 1)),
    (2, 23): ((), (0,)),  # 23 has no divisor to cut it by
    (23, 48): ((), (0, 1)),  # every element is a unit
    (7,): ((), ()),
    (): ((), ()),
    (1536, 40): ((), (1,)),  # on a GPU in 256 rows
    (2, 1536, 40): ((2,), (0, 2)),
    (131, 101): ((), (1,)),  # too large for a stack, and 131 is a prime number
}


@WAYS
@pytest.mark.parametrize("shape", KEPT)
def test_the_sums_of_a_leaf(shape, way):
    layouts, leaves = [_units.Layout(*KEPT[shape])], ([x] for x in drawn(shape, shape))
    leaves = [*leaves]
    assert all(group.cuts for group in under_jit(layouts, *leaves).groups)
    same(jax.jit(lambda *given: summed(way, layouts, *given))(*leaves), plain(layouts, *leaves, sums=in_float64))


@WAYS
def test_the_sums_of_many_leaves(way):
    """Three of each shape: groups of small leaves, which are stacked, and of large ones."""
    shapes = [*KEPT] * 3
    layouts = [_units.Layout(*KEPT[shape]) for shape in shapes]
    leaves = drawn(*shapes), drawn(*shapes[::-1])[::-1]
    assert all(len(group.members) == 3 for group in under_jit(layouts, *leaves).groups)
    same(jax.jit(lambda *given: summed(way, layouts, *given))(*leaves), plain(layouts, *leaves, sums=in_float64))


@pytest.mark.parametrize(
    ("shape", "layers", "kept"),
    [((48, 5, 4), (), (1,)), ((2, 5, 3, 4), (2,), (0, 2)), ((0, 5), (), (1,)), ((48, 0), (), (1,)), ((0,), (0,), (0,))],
)
def test_leaves_that_are_no_three_axes_are_summed_as_they_lie(shape, layers, kept):
    """Summed axes that do not lie side by side, and no element at all."""
    layouts, leaves = [_units.Layout(layers, kept)] * 2, (drawn(shape, shape), drawn(shape, shape))
    found = under_jit(layouts, *leaves)
    assert members(found) == [(0,), (1,)]
    assert not any(group.cuts for group in found.groups)
    same(jax.jit(lambda *given: summed(None, layouts, *given))(*leaves), plain(layouts, *leaves, sums=in_float64))


def test_outside_of_jit_and_without_leaves():
    layouts, leaves = [_units.Layout(*KEPT[shape]) for shape in KEPT], (drawn(*KEPT), drawn(*KEPT))
    same(summed(None, layouts, *leaves), plain(layouts, *leaves, sums=in_float64))
    assert layers_of([], []).unit_sums(products, [], []) == ([], [])


@WAYS
@pytest.mark.parametrize("shape", [(48, 5), (1536, 40)])
def test_what_is_not_finite_stays_in_its_unit(shape, way):
    """In that of the one product, too, which shares a complex number with another."""
    layouts = [_units.Layout(*KEPT[shape])] * 3
    gradients, last = drawn(*[shape] * 3), drawn(*[shape] * 3)
    gradients[1] = gradients[1].at[3, 1].set(jnp.nan).at[7, 2].set(jnp.inf).at[9, 4].set(-jnp.inf)
    with_faults = jax.jit(lambda *given: summed(way, layouts, *given))(gradients, last)
    (along, sizes), expected = with_faults, plain(layouts, drawn(*[shape] * 3), last)
    assert np.isnan(along[1][0, 1])
    assert np.isinf(along[1][0, [2, 4]]).all()
    others = np.array([0, 3, *range(5, shape[1])])
    same([along[0], along[2], along[1][:, others]], [expected[0][0], expected[0][2], expected[0][1][:, others]])
    same(sizes, expected[1])


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
def test_nothing_leaks_from_the_leaf_that_is_waited_for(value):
    layouts = [_units.Layout(*KEPT[2, 60, 7]), _units.Layout(*KEPT[48, 5])]
    step = jax.jit(lambda *given: [sums[1] for sums in summed(CPU, layouts, *given)])
    first, second = drawn((2, 60, 7), (48, 5))
    expected = step([first, second], [first, second])
    for got, wanted in zip(step(*[[jnp.full_like(first, value), second]] * 2), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@WAYS
def test_a_long_column_is_summed_as_exactly_as_by_jax(way):
    shape = (24 * 2**14, 2)
    layouts, leaves = [_units.Layout((), (1,))], [[x] for x in drawn(shape, shape)]
    exact = plain(layouts, *leaves, sums=in_float64)
    found = jax.jit(lambda *given: summed(way, layouts, *given))(*leaves)
    for (got,), (jax_sum,), (true,) in zip(found, plain(layouts, *leaves), exact, strict=True):
        assert np.abs(got - true).max() <= 4 * np.abs(jax_sum - true).max() + 1e-7 * np.abs(true).max()


@WAYS
def test_products_of_float64_keep_their_digits(way):
    with jax.enable_x64(True):
        layouts, leaves = [_units.Layout(*KEPT[48, 5])], [[x] for x in drawn((48, 5), (48, 5), dtype=jnp.float64)]
        found = jax.jit(lambda *given: summed(way, layouts, *given))(*leaves)
        same(found, plain(layouts, *leaves, sums=in_float64), rtol=1e-14, atol=1e-14)


@WAYS
def test_they_can_be_differentiated_and_vectorised(way):
    """By the first array alone, too: the second product then has no tangent."""
    grads, tangents = zip(derivatives(functools.partial(summed, way)), derivatives(plain), strict=True)
    same(*grads, rtol=1e-4, atol=1e-4)
    same(*tangents, rtol=1e-3, atol=1e-3)


@functools.cache
def derivatives(sums):
    """The gradients by each of two lists of arrays, and the tangents by the first."""
    shapes = [(48, 5), (5, 48), (1536, 40)]
    layouts = [_units.Layout(*KEPT[shape]) for shape in shapes]
    leaves = [[jnp.stack([x, 2 * x]) for x in drawn(*shapes)], [jnp.stack([x, x + 1]) for x in drawn(*shapes[::-1])]]
    leaves[1] = leaves[1][::-1]
    total = lambda *given: sum(jnp.sum(jnp.sin(x / 99)) for x in jax.tree.leaves(sums(layouts, *given)))
    tangents = lambda *x: jax.jvp(lambda one: total(one, x[1]), (x[0],), (x[1],))
    of = lambda *x: ([jax.grad(total, argnums=which)(*x) for which in (0, 1)], tangents(*x))
    return jax.jit(jax.vmap(of))(*leaves)


# how they are taken

LARGE = jax.ShapeDtypeStruct((768, 512), jnp.float32)
COLUMNS = _units.Layout((), (1,))


def test_on_a_cpu_an_array_is_read_once():
    step = jax.jit(lambda *given: summed(None, [COLUMNS], *given))
    analysis: Any = step.lower([LARGE], [LARGE]).compile().cost_analysis()
    assert 2 < analysis["bytes accessed"] / (4 * LARGE.size) < 2.2


def test_a_gpu_sums_rows_and_then_their_sums_and_a_tpu_as_it_likes():
    """Asked of the lowered text alone: no accelerator is needed."""
    traced = jax.jit(lambda *given: summed(None, [COLUMNS], *given)).trace([LARGE], [LARGE])
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")}
    for name, text in texts.items():
        assert ("1x1x32x24x512xcomplex<f32>" in text) == (name == "cuda"), "32 rows of pairs"
        assert ("1x24x32x512xf32" in text) == (name == "cpu"), "24 rows of each"
        assert ("optimization_barrier" in text) == (name == "cuda")


@pytest.mark.parametrize(
    ("cut", "rows"),
    [
        (_layers.Cut(1, 768, 512), 32),  # 16 blocks of 32 columns
        (_layers.Cut(1, 768, 3072), 6),
        (_layers.Cut(12, 768, 3072), 1),  # enough blocks as it is
        (_layers.Cut(768, 512, 1), 1),
        (_layers.Cut(1, 768, 2), 1),  # stacked with others
        (_layers.Cut(1, 8209, 1), 1),  # a prime number
        (_layers.Cut(1, 2**20, 1), 512),
        (_layers.Cut(1, 9 * 512, 40), 256),
    ],
)
def test_into_how_many_rows_a_gpu_cuts(cut, rows):
    assert cut.rows == rows
    assert cut.summed % rows == 0
    assert rows == 1 or cut.before * rows * -(-cut.after // 32) >= 512


# which leaves are alike

SHAPES = [(3,), (4, 3), (3,), (5,), (), (4, 3), (3,), (2, 4, 3), (), (2, 4, 3)]
LAYOUTS = [_units.resolve("kernel", shape, _units.flax_units, int(len(shape) == 3)) for shape in SHAPES]


def test_leaves_of_one_cut_are_one_group_and_nothing_else_is():
    assert members(under_jit(LAYOUTS, drawn(*SHAPES))) == [(0, 2, 6), (1, 5, 7, 9), (3,), (4, 8)]


def test_leaves_are_alike_by_what_is_summed_not_by_their_shape():
    """Axes that are not summed count together; large leaves are cut into rows, and rows may have any length."""
    shapes = [(4, 2, 3), (4, 6), (2, 24, 512), (1, 48, 512)]
    layouts = [
        _units.Layout((), (1, 2)),
        _units.Layout((), (1,)),
        _units.Layout((), (2,)),
        _units.Layout((), (2,)),
    ]
    assert members(under_jit(layouts, drawn(*shapes))) == [(0, 1), (2, 3)]


@pytest.mark.parametrize("other", ["dtype", "gradient", "layout"])
def test_leaves_that_differ_in_anything_stay_apart(other):
    layouts = [_units.resolve("bias", (3,), rule, 0) for rule in (_units.flax_units, elementwise)]
    mixed = [jnp.zeros(3), jnp.zeros(3, jnp.bfloat16)]
    trees = {"dtype": [mixed], "gradient": [[jnp.zeros(3)] * 2, mixed], "layout": [[jnp.zeros(3)] * 2]}[other]
    layouts = layouts if other == "layout" else layouts[:1] * 2
    assert members(under_jit(layouts, *trees)) == [(0,), (1,)]


def test_a_group_has_no_more_units_than_a_few_large_leaves():
    leaves = [jax.ShapeDtypeStruct((2, n), jnp.float32) for n in [5000] * 10 + [20000] * 2]
    found = members(under_jit([COLUMNS] * 12, leaves))
    assert [len(own) for own in found] == [3, 3, 3, 1, 1, 1]
    assert sorted(i for own in found for i in own) == [*range(12)]


def test_outside_of_jit_nothing_is_grouped():
    """There every size of a group would be a program of its own."""
    assert members(layers_of(LAYOUTS, drawn(*SHAPES))) == [(k,) for k in range(len(SHAPES))]


# scalars


def test_every_leaf_meets_its_own_scalars():
    leaves = drawn(*SHAPES)
    count = sum(layout.scalars for layout in LAYOUTS)

    def compute(leaves, scalars):
        layers = layers_of(LAYOUTS, leaves)
        split = layers.split(scalars)
        (sums,) = layers.unit_sums(lambda x: (x,), leaves)
        scaled = layers.map(jnp.multiply, leaves, layers.spread(split))
        return scaled, layers.join(split), layers.join(layers.map(jnp.multiply, sums, split))

    scalars = 1.5 ** jnp.arange(count)
    ends = np.cumsum([layout.scalars for layout in LAYOUTS])
    own = [scalars[end - layout.scalars : end] for end, layout in zip(ends, LAYOUTS, strict=True)]
    rows = [x.reshape(layout.scalars, -1) for x, layout in zip(leaves, LAYOUTS, strict=True)]
    scaled = [(s[:, None] * x).reshape(leaf.shape) for s, x, leaf in zip(own, rows, leaves, strict=True)]
    totals = jnp.concatenate([s * x.sum(axis=1) for s, x in zip(own, rows, strict=True)])
    for run in (compute, jax.jit(compute)):
        found = run(leaves, scalars)
        np.testing.assert_array_equal(found[1], scalars)
        same(found, (scaled, scalars, totals))


def test_the_largest_and_the_smallest_unit_of_each_layer():
    leaves = [jnp.abs(x) for x in drawn(*SHAPES)]

    def compute(leaves):
        layers = layers_of(LAYOUTS, leaves)
        (sums,) = layers.unit_sums(lambda x: (x,), leaves)
        return layers.join(sums, _layers.largest), layers.join(sums, _layers.smallest)

    units = [x if x.ndim > 1 else x.sum() for x in leaves]
    units = [x.sum(axis=-2).reshape(layout.scalars, -1) if x.ndim > 1 else x.reshape(1, 1)
             for x, layout in zip(units, LAYOUTS, strict=True)]  # fmt: skip
    expected = [jnp.concatenate([f(x, axis=1) for x in units]) for f in (jnp.max, jnp.min)]
    for run in (compute, jax.jit(compute)):
        same(run(leaves), expected)


def test_the_array_of_scalars_has_the_widest_dtype():
    with jax.enable_x64(True):
        for dtypes, wanted in [("ee", "f"), ("ef", "f"), ("ed", "d"), ("", "f")]:
            leaves = [jnp.zeros(3, dtype) for dtype in dtypes]
            layers = layers_of([_units.Layout((), ())] * len(leaves), leaves)
            assert layers.dtype == layers.join(layers.unit_sums(lambda x: (x,), leaves)[0]).dtype == wanted


@pytest.mark.parametrize("count", [0, 11, 13])
def test_scalars_of_other_layers_are_told(count):
    assert sum(layout.scalars for layout in LAYOUTS) == 12
    with pytest.raises(ValueError, match=rf"has {count} learned scalars, its leaves have 12 layers.*layer_axes"):
        layers_of(LAYOUTS, drawn(*SHAPES)).split(jnp.zeros(count))


# order


def test_what_waits_changes_no_bit():
    values = jnp.array([0.0, -0.0, 1e-37, 3.5, -jnp.inf, jnp.nan, 1e38])  # subnormals: XLA flushes them anywhere
    layers = layers_of([_units.Layout((), ())], [values])
    (after,) = jax.jit(lambda scalars, x: layers.after(scalars, [x]))(jnp.array([1.0, -2.0]), values)
    np.testing.assert_array_equal(np.asarray(after).view(np.int32)[:5], np.asarray(values).view(np.int32)[:5])
    assert np.isnan(after[5])
    assert after[6] == values[6]


def test_there_may_be_nothing_to_wait_for():
    layers = layers_of([_units.Layout((), ())], [jnp.ones(3)])
    np.testing.assert_array_equal(layers.after(jnp.zeros(0), [jnp.arange(3.0)])[0], jnp.arange(3.0))


# on a mesh


def test_on_a_mesh_nothing_is_grouped_and_devices_reduce_once():
    """Leaves of one shape may be placed differently there; stacking them would move them."""
    mesh, layouts = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)), [_units.Layout((), ())] * 2
    leaves = [jax.ShapeDtypeStruct((768, 512), jnp.float32, sharding=NamedSharding(mesh, spec))
              for spec in (P("data"), P(None, "data"))]  # fmt: skip
    seen = []

    def compute(*given):
        seen.append(layers_of(layouts, *given))
        return [seen[-1].join(sums) for sums in seen[-1].unit_sums(products, *given)]

    text = jax.jit(compute).lower(leaves, leaves).compile().as_text() or ""
    assert members(seen[0]) == [(0,), (1,)]
    assert not any(group.cuts for group in seen[0].groups)
    assert text.count(" all-reduce(") == 1
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


# whole steps

METHODS = {
    "ftp": ftp,
    "digrap": lambda inner: optax.chain(digrap(), inner),
    "pgm": lambda inner: pgm(inner, radius=0.01),
    "spd": lambda inner: spd(inner, strength=1.0),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_many_leaves_is_the_steps_of_each(method):
    """The tree has groups of vectors and of matrices; a leaf alone has none."""
    shapes = {f"{kind}{i}": shape for kind, shape in (("bias", (6,)), ("kernel", (5, 6))) for i in range(4)}
    draw = np.random.default_rng(1).standard_normal
    params = {path: jnp.asarray(draw(shape), jnp.float32) for path, shape in shapes.items()}
    gradients = [{path: jnp.asarray(draw(shape), jnp.float32) for path, shape in shapes.items()} for _ in range(3)]
    tx = METHODS[method](optax.adam(1e-2))

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
        if method == "digrap":
            assert strengths(state, together)[path] == pytest.approx(strengths(own, alone)[path], abs=1e-6)
