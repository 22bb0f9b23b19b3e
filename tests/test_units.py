"""The rules on the leaves of real models, the two layouts against each other, and the norms against plain NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_table import EQUINOX, LAYERS

from ftp_optax import (
    _ball,
    _layers,
    _trees,
    _units,
    digrap,
    elementwise,
    flax_fibers,
    flax_units,
    ftp,
    pgm,
    radii,
    spd,
    stacked_layers,
    torch_fibers,
    torch_units,
    tpgm,
    whole_leaf,
)

RNG = np.random.default_rng(0)


def layout_of(shape, rule, path="layer/kernel", layers=0):
    return _units.resolve(path, shape, rule, layers)


def sums_of(products, array, layout):
    """Sums over units, and the layers that took them."""
    layers = _layers.Layers(_trees.flatten(array), {0: layout})
    return layers, layers.unit_sums(products, [jnp.asarray(array)])


def norms(array, rule, path="layer/kernel", layers=0):
    layers, (sums,) = sums_of(_ball.magnitudes, array, layout_of(array.shape, rule, path, layers))
    return np.asarray(layers.spread(sums)[0])


def fibers(array, rule, path="layer/kernel", layers=0):
    """Every fiber over its length."""
    layers, sums = sums_of(_ball.squares, array, layout_of(array.shape, rule, path, layers))
    return array / np.maximum(layers.spread(layers.map(_ball.length, *sums))[0], 1e-12)


# the rules on real models


class NNXModel(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.patches = nnx.Conv(3, 8, (2, 2), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.words = nnx.Embed(11, 8, rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, 8)))
        self.pos_embedding = nnx.Param(jnp.zeros((1, 5, 8)))
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)
        self.temperature = nnx.Param(jnp.zeros(()))


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, images, words):
        x = nn.Conv(8, (2, 2), name="patches")(images)
        x = nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x).reshape(1, -1, 8)
        x = jnp.concatenate([x, nn.Embed(11, 8, name="words")(words)], axis=1)
        x = jnp.concatenate([self.param("cls", nn.initializers.zeros, (1, 1, 8)), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.zeros, (1, 5, 8))
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        return nn.Dense(4, name="head")(nn.LayerNorm(name="norm")(x)) * self.param(
            "temperature", nn.initializers.zeros, ()
        )


@functools.cache
def shapes_of(library):
    if library == "nnx":
        tree = nnx.state(nnx.eval_shape(NNXModel), nnx.Param)
    else:
        inputs = jnp.zeros((1, 1, 2, 3)), jnp.zeros((1, 2), int)
        tree = jax.eval_shape(LinenModel().init, jax.random.key(0), *inputs)["params"]
    leaves = _trees.flatten(tree)
    return {path: leaf.shape for path, leaf in zip(leaves.paths, leaves.values, strict=True)}


# path: shape, axes of the units, axes of the fibers
WANTED = {
    "patches/kernel": ((2, 2, 3, 8), (3,), (0, 1, 3)),
    "patches/bias": ((8,), (), ()),
    "depthwise/kernel": ((3, 3, 1, 8), (3,), (0, 1, 3)),
    "depthwise/bias": ((8,), (), ()),
    "words/embedding": ((11, 8), (0,), (0,)),
    "cls": ((1, 1, 8), (), (0, 2)),
    "pos_embedding": ((1, 5, 8), (), (0, 2)),
    **{
        f"attention/{which}/{leaf}": ((8, 2, 4), (1, 2), (1, 2)) if leaf == "kernel" else ((2, 4), (), ())
        for which in ("query", "key", "value")
        for leaf in ("kernel", "bias")
    },
    "attention/out/kernel": ((2, 4, 8), (2,), (2,)),
    "attention/out/bias": ((8,), (), ()),
    "norm/scale": ((8,), (), ()),
    "norm/bias": ((8,), (), ()),
    "head/kernel": ((8, 4), (1,), (1,)),
    "head/bias": ((4,), (), ()),
    "temperature": ((), (), ()),
}


@pytest.mark.parametrize("library", ["nnx", "linen"])
def test_every_leaf_of_a_real_model(library):
    found = {path: (s, flax_units(path, s), flax_fibers(path, s)) for path, s in shapes_of(library).items()}
    assert found == WANTED


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("dense/kernel", (5, 7), (1,)),
        ("mlp/w", (5, 7), (1,)),
        ("conv/kernel", (3, 5, 7), (2,)),
        ("conv3d/kernel", (2, 2, 2, 5, 7), (4,)),
        ("attention/qkv/kernel", (6, 3, 2, 4), (1, 2, 3)),
        ("attention/qkv/bias", (3, 2, 4), ()),
        ("attention/query/kernel", (6, 8), (1,)),  # a plain dense layer of that name
        ("query/norm/kernel", (6, 2, 4), (2,)),  # the module's own name counts, not its parent's
        ("query_norm/scale", (2, 4), ()),
        ("encoder/cls_token", (1, 1, 6), ()),
        ("encoder/position_embedding", (1, 9, 6), ()),
        ("encoder/register_tokens", (4, 6), ()),
        ("encoder/mask_token", (1, 6), ()),
        ("position/kernel", (5, 7), (1,)),  # a layer's kernel stays a kernel
        ("class_head/kernel", (5, 7), (1,)),
        ("opposite/weights", (5, 7), (1,)),  # contains "pos", is no position
        ("tokens/embedding", (9, 6), (0,)),
        ("logit_scale", (), ()),
        ("gamma", (6,), ()),
        ("", (5, 7), (1,)),
    ],
)
def test_flax_units_tells_leaves_by_name_and_shape(path, shape, axes):
    assert flax_units(path, shape) == axes


def test_the_other_rules():
    assert [torch_units("w", s) for s in ((), (3,), (3, 4), (3, 4, 5, 5))] == [(), (), (0,), (0,)]
    assert [torch_fibers("w", s) for s in ((), (3,), (3, 4), (3, 4, 5, 5))] == [(), (), (0,), (0, 2, 3)]
    assert [whole_leaf("w", s) for s in ((), (3,), (3, 4))] == [(), (), ()]
    assert [elementwise("w", s) for s in ((), (3,), (3, 4))] == [(), (0,), (0, 1)]


# every layer, against the same layer in torch's layout


def layers(chosen):
    return pytest.mark.parametrize("layer", [pytest.param(one, id=one.name) for one in LAYERS if chosen(one)])


@layers(lambda layer: layer.build)
def test_the_table_has_the_leaves_of_the_layers(layer):
    built = _trees.flatten(layer.build())
    shapes = {path: leaf.shape for path, leaf in zip(built.paths, built.values, strict=True)}
    assert shapes == {path: shape for path, (shape, _) in layer.leaves.items()}


@layers(lambda layer: layer.leaves)
def test_units_and_fibers_are_the_rows_and_fibers_of_torch(layer):
    units, fibers = (torch_units, torch_fibers) if layer in EQUINOX else (flax_units, flax_fibers)
    for path, (shape, kind) in layer.leaves.items():
        assert units(path, shape) == kind.units, path
        assert fibers(path, shape) == kind.fibers, path
        leaf = 1 + RNG.random(shape)
        ours = kind.torch(leaf / sums(leaf, kind.units)), kind.torch(leaf / np.sqrt(sums(leaf**2, kind.fibers)))
        told = all(
            np.allclose(*pair, rtol=1e-5) for pair in zip(ours, normalized_by_torch(kind.torch(leaf)), strict=True)
        )
        assert told != bool(kind.untold), path
        assert kind.untold in units.__doc__, path


def sums(array, kept):
    return array.sum(axis=tuple(a for a in range(array.ndim) if a not in kept), keepdims=True)


def normalized_by_torch(tensor):
    """Over the l1 norm of every row, and ``F.normalize(tensor, dim=1)``; a vector over its own norms."""
    tensor = np.asarray(tensor)
    if tensor.ndim < 2:
        return tensor / tensor.sum(), tensor / np.linalg.norm(tensor)
    return (tensor.T / tensor.reshape(len(tensor), -1).sum(1)).T, tensor / np.linalg.norm(tensor, axis=1, keepdims=True)


def test_a_fiber_of_zeros_stays_zero():
    kernel = np.zeros((4, 3), np.float32)
    kernel[:, 0] = 2.0
    np.testing.assert_array_equal(fibers(kernel, flax_fibers), [[0.5, 0, 0]] * 4)


# the arithmetic, against NumPy


@st.composite
def split_arrays(draw):
    """An array, the number of its layer axes and the unit axes of one layer."""
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=5)))
    depth = draw(st.integers(0, len(shape)))
    inner = range(len(shape) - depth)
    units = tuple(draw(st.permutations(draw(st.lists(st.sampled_from(inner), unique=True)))) if inner else ())
    signs = tuple(a - len(inner) if draw(st.booleans()) else a for a in units)
    numbers = np.random.default_rng(draw(st.integers(0, 99))).integers(-9, 9, shape)
    return numbers.astype(np.float32), depth, signs


def by_hand(array, depth, units):
    """The l1 norm of every unit, by looping over all elements."""
    axes = [*range(depth), *(a % (array.ndim - depth) + depth for a in units)]
    sums = np.zeros([n if a in axes else 1 for a, n in enumerate(array.shape)])
    for index in np.ndindex(array.shape):
        sums[tuple(i if a in axes else 0 for a, i in enumerate(index))] += abs(array[index])
    return sums


@settings(deadline=None, max_examples=40)
@given(split_arrays())
def test_norms_are_what_a_loop_over_the_elements_gives(case):
    array, depth, units = case
    layout = layout_of(array.shape, lambda *_: units, layers=depth)
    wanted = by_hand(array, depth, units)

    @jax.jit  # one compilation for each example
    def found(array):
        layers, (sums,) = sums_of(_ball.magnitudes, array, layout)
        numbers = layers.spread(layers.split(jnp.arange(float(layout.scalars))))
        return layers.spread(sums)[0], layers.join(sums), layers.join(sums, _layers.largest), numbers[0]

    units_of, layers_of, largest_of, spread_of = found(array)
    np.testing.assert_array_equal(units_of, wanted)
    np.testing.assert_array_equal(layers_of, np.abs(array).sum(axis=tuple(range(depth, array.ndim))).ravel())
    per_layer = wanted.reshape(layout.scalars, -1 if layout.scalars else 1)
    np.testing.assert_array_equal(largest_of, per_layer.max(axis=1, initial=0))
    spread = np.broadcast_to(spread_of, array.shape)
    assert layout.scalars == np.prod(array.shape[:depth], dtype=int)
    for layer, index in enumerate(np.ndindex(array.shape[:depth])):
        assert (spread[index] == layer).all()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-30, "f4"), (1.0, "f4"), (1e30, "f4"), (0.0, "f4"), (1e-250, "f8"), (1.0, "f8"), (1e250, "f8")],
)
def test_a_length_is_right_where_squares_overflow_or_vanish(size, dtype):
    with jax.enable_x64(True):
        layers, sums = sums_of(
            _ball.squares, jnp.full((2, 3, 3), size, dtype), layout_of((2, 3, 3), whole_leaf, layers=1)
        )
        (lengths,) = layers.map(_ball.length, *sums)
        assert lengths.dtype == dtype
        np.testing.assert_allclose(lengths.ravel(), [3 * size] * 2, rtol=1e-6 if dtype == "f4" else 1e-14)


def test_a_length_that_is_not_finite_is_not_hidden():
    for value in (np.inf, np.nan):
        layers, sums = sums_of(_ball.squares, jnp.array([1.0, value]), layout_of((2,), whole_leaf))
        np.testing.assert_array_equal(layers.map(_ball.length, *sums)[0], [value])


def test_the_derivative_of_a_length_is_the_direction():
    length = lambda x: _ball.length(*map(jnp.sum, _ball.squares(x)))
    np.testing.assert_allclose(jax.grad(length)(jnp.array([3.0, -4.0])), [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(length)(jnp.zeros(2)), [0.0, 0.0])


@pytest.mark.parametrize("path", ["block/dense/kernel", "block/query/kernel", "block/dense/bias", "block/pos"])
@pytest.mark.parametrize("layers", [(3,), (2, 3)])
def test_stacked_layers_are_split_as_each_alone(path, layers):
    shape = {"block/query/kernel": (6, 2, 4), "block/dense/bias": (5,)}.get(path, (5, 7))
    array = RNG.standard_normal((*layers, *shape)).astype(np.float32)
    together = norms(array, flax_units, path, layers=len(layers))
    fiber = fibers(array, flax_fibers, path, layers=len(layers))
    for index in np.ndindex(layers):
        np.testing.assert_allclose(together[index], norms(array[index], flax_units, path), rtol=1e-6)
        np.testing.assert_allclose(fiber[index], fibers(array[index], flax_fibers, path), rtol=1e-6)


# stacked layers, told by their names


@pytest.mark.parametrize(
    ("path", "shape", "layers"),
    [
        ("layers/attention/query/kernel", (12, 6, 2, 3), 1),
        ("blocks/mlp/kernel", (12, 6, 24), 1),
        ("blocks/mlp/bias", (12, 24), 1),
        ("blocks/norm/scale", (12, 6), 1),
        ("blocks/gate", (12,), 1),
        ("encoder_layers/mlp/kernel", (12, 6, 24), 1),
        ("visual/resblocks/mlp/kernel", (12, 6, 24), 1),
        ("Transformer/encoderblock/MlpBlock_0/Dense_0/kernel", (12, 6, 24), 1),
        ("ScanBlock_0/Dense_0/kernel", (12, 6, 24), 1),
        ("CheckpointScanBlock_0/Dense_0/bias", (12, 24), 1),
        ("ScanCheckpointBlock_0/Dense_0/kernel", (12, 6, 24), 1),
        ("VmapCritic_0/Dense_0/kernel", (2, 6, 24), 1),
        ("__layer_stack_no_per_layer/linear/w", (12, 6, 24), 1),
        ("blocks/layers/mlp/kernel", (4, 3, 6, 24), 2),
        ("layers/0/blocks/mlp/kernel", (3, 6, 24), 1),
        ("blocks/mlp/layers/0/kernel", (12, 6, 24), 1),
        # no stacks: numbered layers, names of no stack, a scan that shares its weights, leaves of one layer's rank
        ("layers/0/kernel", (3, 6, 24), 0),
        ("layers/0", (6, 24), 0),
        ("layers_0/kernel", (3, 6, 24), 0),
        ("blocks/block_3/conv/kernel", (3, 6, 24), 0),
        ("Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel", (3, 6, 24), 0),
        ("head/kernel", (6, 24), 0),
        ("layers", (6, 24), 0),
        ("ScanLSTMCell_0/hf/kernel", (6, 6), 0),
        ("ScanLSTMCell_0/hf/bias", (6,), 0),
        ("layers/first/kernel", (6, 24), 0),
        ("layers/first/bias", (24,), 0),
        ("layers/words/embedding", (11, 6), 0),
    ],
)
def test_stacked_layers_are_told_by_their_names(path, shape, layers):
    assert stacked_layers(path, shape) == layers


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, rngs=rngs)
        self.mlp = nnx.Sequential(nnx.Linear(6, 9, rngs=rngs), nnx.Linear(9, 6, rngs=rngs))


class Stack(nnx.Module):
    def __init__(self):
        self.blocks = nnx.vmap(lambda key: Block(nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 12))
        self.head = nnx.Sequential(nnx.Linear(6, 3, rngs=nnx.Rngs(1)))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Sequential([nn.MultiHeadDotProductAttention(2), nn.LayerNorm(), nn.Dense(6)])(x), None


class LinenStack(nn.Module):
    stack: str | None  # the name of the scanned module

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(LinenBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=12)
        return nn.Dense(3, name="head")(blocks(name=self.stack)(x, None)[0])


@pytest.mark.parametrize("name", ["nnx", "ScanLinenBlock_0", "blocks"])
def test_every_stacked_layer_has_a_radius(name):
    if name == "nnx":
        tree = nnx.state(nnx.eval_shape(Stack), nnx.Param)
    else:
        model = LinenStack(None if name.startswith("Scan") else name)
        tree = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 6)))["params"]
        assert set(tree) == {name, "head"}
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), tree)
    learned = radii(jax.jit(ftp(optax.sgd(0.1), layer_axes=stacked_layers).init)(params), params)
    assert len(learned) == 14 + 2 * (name == "nnx")
    assert all(jnp.shape(radius) == (() if "head" in path else (12,)) for path, radius in learned.items())


SCANNED = {
    "blocks": {
        "attention": {
            **{name: {"kernel": jnp.zeros((12, 6, 2, 3))} for name in ("query", "key", "value")},
            "out": {"kernel": jnp.zeros((12, 2, 3, 6))},
        },
        "mlp": {"kernel": jnp.zeros((12, 6, 6))},
    },
    "head": {"kernel": jnp.zeros((6, 4)), "bias": jnp.zeros(4)},
}
METHODS = {
    "ftp": lambda **options: ftp(optax.sgd(0.1), **options),
    "digrap": lambda **options: digrap(**options),
    "tpgm": lambda **options: tpgm(optax.sgd(0.1), **options),
    "pgm": lambda **options: pgm(optax.sgd(0.1), radius=1.0, **options),
    "spd": lambda **options: spd(optax.sgd(0.1), strength=1.0, **options),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_stack_that_the_rank_gives_away_needs_layer_axes(method):
    with pytest.raises(ValueError, match=r"'blocks/attention/key/kernel'.*\(12, 6, 2, 3\).*layer_axes.*stacked_layers"):
        METHODS[method]().init(SCANNED)
    state = METHODS[method](layer_axes=stacked_layers).init(SCANNED)
    if method == "ftp":
        assert state.radii.shape == (62,)


@pytest.mark.parametrize(
    "path", ["a/query/kernel", "a/q_proj/kernel", "a/value/w", "a/qkv/kernel", "a/to_kv/kernel", "a/k/kernel"]
)
def test_the_rank_gives_stacks_of_attention_away(path):
    shape = (6, 3, 2, 4) if "kv" in path else (6, 2, 4)
    for rule in (flax_units, flax_fibers):
        assert rule(path, shape) == tuple(range(1, len(shape)))
        with pytest.raises(ValueError, match=rf"'{path}'.*layer_axes"):
            rule(path, (12, *shape))


def test_leaves_without_elements():
    shapes = [(0,), (0, 4), (4, 0), (3, 3, 0, 4)]
    for shape in shapes:
        layers, (sums,) = sums_of(_ball.magnitudes, jnp.zeros(shape), layout_of(shape, flax_units))
        assert layers.join(sums, _layers.largest).tolist() == [0.0]
    params = {"empty": [{"kernel": jnp.zeros(shape)} for shape in shapes], "full": {"kernel": jnp.ones((2, 3))}}
    for tx in (ftp(optax.sgd(0.1)), digrap()):
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        updates = params
        for _ in range(3):
            updates, state = update(params, state, params)
        assert [leaf["kernel"].shape for leaf in updates["empty"]] == shapes
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((updates, state)))


# answers that do not fit


@pytest.mark.parametrize("answer", [(2,), (0, 5), (-3,), (0.0,), ("out",), (None,)])
@pytest.mark.parametrize("make", [lambda **k: ftp(optax.sgd(0.1), **k), lambda **k: digrap(**k)], ids=["ftp", "digrap"])
def test_axes_that_a_leaf_lacks_are_named_with_its_path(make, answer):
    tx = make(unit_axes=lambda path, shape: answer if "body" in path else ())
    with pytest.raises(ValueError, match=r"unit_axes.*'body/kernel'.*\(2, 3\)"):
        tx.init({"body": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones((2, 3))}})


@pytest.mark.parametrize("answer", [None, 1])
def test_an_answer_that_is_no_tuple_is_named_with_its_path(answer):
    with pytest.raises((ValueError, TypeError), match="body/kernel"):
        ftp(optax.sgd(0.1), unit_axes=lambda path, shape: answer).init({"body": {"kernel": jnp.ones((2, 3))}})


@pytest.mark.parametrize("answer", [-1, 3, 1.5, None, (1,)])
@pytest.mark.parametrize("make", [lambda **k: ftp(optax.sgd(0.1), **k), lambda **k: digrap(**k)], ids=["ftp", "digrap"])
def test_a_number_of_layer_axes_that_does_not_fit_is_named_with_the_path(make, answer):
    tx = make(layer_axes=lambda path, shape: answer)
    with pytest.raises((ValueError, TypeError), match=r"layer_axes.*body/kernel"):
        tx.init({"body": {"kernel": jnp.ones((2, 3))}})


def test_layer_axes_as_a_number():
    assert layout_of((4, 2, 3), flax_units, layers=1) == ((4,), (0, 2))
    assert layout_of((4,), flax_units, layers=2) == ((4,), (0,))  # no more than a leaf has
    with pytest.raises(ValueError, match=r"layer_axes.*body/kernel"):
        ftp(optax.sgd(0.1), layer_axes=-1).init({"body": {"kernel": jnp.ones((2, 3))}})
    for make in (lambda **k: ftp(optax.sgd(0.1), **k), lambda **k: digrap(**k)):
        for wrong in (1.0, None, jnp.array(1)):
            with pytest.raises(TypeError, match="layer_axes must be an int or a callable"):
                make(layer_axes=wrong)


def test_units_may_be_given_in_any_order_and_from_the_end():
    assert layout_of((2, 3, 4), lambda *_: (2, 0)) == layout_of((2, 3, 4), lambda *_: [0, -1]) == ((), (0, 2))
    assert layout_of((5, 2, 3), lambda *_: (-1, 1), layers=1) == ((5,), (0, 2))


def test_rules_see_the_shape_without_layer_axes_and_the_path_without_the_value_of_nnx():
    seen = []
    note = lambda path, shape: (seen.append((path, shape)), ())[1]
    ftp(optax.sgd(0.1), unit_axes=note, layer_axes=1).init(nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param))
    assert seen == [("bias", ()), ("kernel", (3,))]
