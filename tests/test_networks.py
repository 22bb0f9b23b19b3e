"""What is trained of a model and how it computes: frozen leaves, half precision, blocks computed again, batch norms."""

import fnmatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny_models import moved, tiny_images, tiny_model

from vision.batch_norm import BatchNorm
from vision.errors import UserError
from vision.networks import Network, path_of, split_model

DEEP = ("vit", "resnet", "convnext", "swin")
LABELS = jnp.array([0, 1, 2, 1])


def loss(params: Any, network: Network, images: Any) -> jax.Array:
    logits, _ = network.train_logits(params, network.stats, images)
    return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), LABELS].mean()


def paths(tree: Any) -> list[str]:
    return [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def equations(jaxpr: Any) -> Any:
    """All equations, also those inside of others."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from equations(inner)
            elif hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)


def products(network: Network, params: Any, of: Any = jax.grad(loss)) -> list[Any]:  # noqa: B008
    """The matrix products and convolutions of a function, by default of the gradient."""
    closed = jax.make_jaxpr(of)(params, network, tiny_images())
    return [e for e in equations(closed.jaxpr) if e.primitive.name in ("dot_general", "conv_general_dilated")]


# --- what is trained ---


def test_patterns_keep_leaves_out_of_the_parameters() -> None:
    model = tiny_model("vit")
    _, everything = split_model(model)
    patterns = ("image/blocks/0/*", "*bias")

    network, params = split_model(model, frozen=patterns)

    kept = [path for path in paths(everything) if not any(fnmatch.fnmatchcase(path, p) for p in patterns)]
    assert paths(params) == kept
    assert 0 < len(kept) < len(paths(everything))
    np.testing.assert_array_equal(network.logits(params, tiny_images()), model(tiny_images()))


def test_one_block_is_not_the_ten_after_it() -> None:
    model = nnx.Dict(blocks=nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(12)]))
    _, params = split_model(model, frozen=["blocks/1/*"])
    assert sorted(params["blocks"]) == [0, *range(2, 12)]


def test_the_head_alone() -> None:
    _, params = split_model(tiny_model("vit"), head_only=True)
    assert paths(params) == ["head/bias", "head/kernel"]
    _, rest = split_model(tiny_model("vit"), frozen=["head/*"])
    assert list(rest) == ["image"]


def test_no_gradient_is_computed_below_what_is_trained() -> None:
    """A product of the forward pass has two in the backward pass: for its input, and for its kernel."""
    model = tiny_model("vit")
    forward = len(products(*split_model(model, head_only=True))) - 1  # the head's kernel
    last = [path for path in paths(split_model(model)[1]) if path.startswith("image/blocks/1/")]
    in_block = sum(path.endswith("kernel") for path in last) + 2  # of attention, scores and mixing
    below = ["image/patches/*", "image/class_token", "image/position_embeddings", "image/blocks/0/*"]

    frozen = products(*split_model(model, frozen=below))

    # nothing of the first block: of the last block's qkv no gradient of the input but through the layer norm before
    assert forward + 2 * in_block <= len(frozen) <= forward + 2 * in_block + 3
    assert len(products(*split_model(model))) >= len(frozen) + 2 * in_block


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"frozen": ["image/*", "block/*"]},
            r"--freeze block/\*: no parameter has such a path; there are head/bias to ",
        ),
        ({"frozen": ["image/*", "head/*"]}, r"--freeze image/\* head/\*: leaves nothing to train"),
        ({"frozen": ["head/*"], "head_only": True}, r"--freeze head/\*: leaves nothing to train"),
        ({"live_stats": True}, "--batch-norm live: the model has no batch normalisation"),
    ],
)
def test_what_cannot_be_is_said(flags, message) -> None:
    with pytest.raises(UserError, match=message):
        split_model(tiny_model("vit"), **flags)


def test_a_model_without_blocks_has_nothing_to_compute_again() -> None:
    with pytest.raises(UserError, match="--remat: the model has no blocks"):
        split_model(tiny_model("small-cnn"), remat=True)


# --- a network is an argument ---


def test_a_frozen_backbone_is_an_input_of_the_program_and_no_constant() -> None:
    network, params = split_model(tiny_model("vit"), head_only=True)
    traces = []

    @jax.jit
    def logits(network: Network, params: Any, images: Any) -> jax.Array:
        traces.append(1)
        return network.logits(params, images)

    closed = jax.make_jaxpr(logits)(network, params, tiny_images())
    backbone = sum(leaf.nbytes for leaf in jax.tree.leaves(network.rest))
    assert sum(np.asarray(const).nbytes for const in closed.consts) < backbone / 100
    others = jax.tree.map(lambda x: 2 * x, network)
    assert not np.allclose(logits(network, params, tiny_images()), logits(others, params, tiny_images()))
    again, _ = split_model(tiny_model("vit"), head_only=True)
    logits(again, params, tiny_images())
    assert len(traces) == 1


# --- in another dtype ---


@pytest.mark.parametrize("name", [*DEEP, "small-cnn", "efficientnet-lite0"])
def test_float32_parameters_compute_in_bfloat16(name: str) -> None:
    network, params = split_model(tiny_model(name), compute_dtype="bfloat16")

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(jax.grad(loss), params, network, tiny_images()))} == {
        jnp.dtype("float32")
    }
    found = products(network, params, loss)
    assert found
    for equation in found:
        assert {var.aval.dtype for var in equation.invars} == {jnp.dtype("bfloat16")}, equation
    assert network.model(params).head.kernel.dtype == jnp.float32  # what is written


def test_softmax_and_norms_stay_float32() -> None:
    network, params = split_model(tiny_model("vit"), compute_dtype="bfloat16")
    closed = jax.make_jaxpr(lambda p, x: network.logits(p, x))(params, tiny_images())
    for name in ("exp", "rsqrt"):
        dtypes = [e.invars[0].aval.dtype for e in equations(closed.jaxpr) if e.primitive.name == name]
        assert dtypes
        assert set(dtypes) == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", [*DEEP, "small-cnn"])
def test_bfloat16_is_near_float32(name: str) -> None:
    model = tiny_model(name)
    (wide, params), (narrow, _) = split_model(model), split_model(model, compute_dtype="bfloat16")
    compute = jax.jit(Network.logits)
    exact, logits = (compute(network, params, tiny_images()) for network in (wide, narrow))
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


# --- blocks computed again ---


def saved_bytes(network: Network, params: Any) -> int:
    """What a forward pass keeps for the backward pass."""
    kept = jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, network, tiny_images()), p)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", [*DEEP, "efficientnet-lite0"])
def test_fewer_bytes_are_kept_for_the_backward_pass(name: str) -> None:
    plain, params = split_model(tiny_model(name))
    again, _ = split_model(tiny_model(name), remat=True)
    own = sum(leaf.nbytes for leaf in jax.tree.leaves((params, plain)))
    assert saved_bytes(again, params) - own < 0.7 * (saved_bytes(plain, params) - own)


@pytest.mark.parametrize("name", DEEP)
def test_gradients_are_the_same_when_blocks_are_computed_again(name: str) -> None:
    plain, params = split_model(tiny_model(name))
    again, _ = split_model(tiny_model(name), remat=True)
    gradient = jax.jit(jax.grad(loss))
    one, other = (gradient(params, network, tiny_images()) for network in (plain, again))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


# --- batch norms ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_live_batch_norm_is_as_in_torch(dtype: str) -> None:
    norm = BatchNorm(3, epsilon=1e-3, momentum=0.25)
    norm.mean[...] = jnp.array([1.0, 2.0, 3.0])
    x = jnp.asarray(np.random.default_rng(0).normal(5, 2, (4, 2, 2, 3)), dtype)
    values = np.asarray(x, np.float64).reshape(16, 3)
    still = norm(x)
    np.testing.assert_array_equal(norm.mean[...], [1, 2, 3])  # frozen unless asked

    norm.set_attributes(live=True)
    y = norm(x)

    exact = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-3)
    atol = 2e-6 if dtype == "float32" else 0.02
    np.testing.assert_allclose(np.asarray(y, np.float64).reshape(16, 3), exact, atol=atol)
    assert y.dtype == still.dtype == dtype
    np.testing.assert_allclose(norm.mean[...], 0.75 * np.array([1, 2, 3]) + 0.25 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.75 + 0.25 * values.var(0, ddof=1), rtol=1e-5)
    norm.set_attributes(live=False)
    by_running = (x[0, 0, 0] - norm.mean[...]) / np.sqrt(norm.var[...] + 1e-3)
    np.testing.assert_allclose(np.asarray(norm(x)[0, 0, 0], np.float32), by_running, atol=atol)


def test_the_gradient_goes_through_the_statistics_of_the_batch() -> None:
    """Shifting or scaling all images changes nothing that follows a live batch norm."""
    norm = BatchNorm(3, epsilon=0.0)
    norm.set_attributes(live=True)
    graph, state = nnx.split(norm)
    state = nnx.to_pure_dict(state)
    x, weights = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 3))) for i in (0, 1))
    gradient = jax.grad(lambda x: (weights * nnx.merge(graph, state)(x)).sum())(x)
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-5)
    np.testing.assert_allclose((gradient * x).sum(0), 0, atol=1e-5)


@pytest.mark.parametrize("remat", [False, True])
def test_live_statistics_move_in_training_and_serve_in_evaluation(remat: bool) -> None:
    model = tiny_model("resnet")
    network, params = split_model(model, live_stats=True, remat=remat)
    frozen, same = split_model(model)
    assert frozen.stats == {}
    assert jax.tree.structure(params) == jax.tree.structure(same)
    images = tiny_images()
    before = network.logits(params, images)
    np.testing.assert_array_equal(before, frozen.logits(params, images))

    logits, stats = jax.jit(Network.train_logits)(network, params, network.stats, images)

    assert not np.allclose(logits, before)
    assert jax.tree.structure(stats) == jax.tree.structure(network.stats)
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (stats, network.stats)), strict=True))
    after = network.logits(params, images, stats)
    assert not np.allclose(after, before)
    np.testing.assert_array_equal(after, network.model(params, stats)(images))
    np.testing.assert_array_equal(network.logits(params, images), before)  # nothing is changed in place
    still, none = frozen.train_logits(params, {}, images)
    np.testing.assert_allclose(still, before, rtol=1e-5)
    assert none == {}


def test_statistics_of_frozen_blocks_stay() -> None:
    network, params = split_model(tiny_model("resnet"), live_stats=True, frozen=["image/stem/*", "image/stages/[01]/*"])
    live = paths(network.stats)
    assert live
    assert all(path.startswith(("image/stages/2/", "image/stages/3/")) for path in live)
    _, stats = network.train_logits(params, network.stats, tiny_images())
    assert paths(stats) == live


def test_live_statistics_are_those_of_the_global_batch() -> None:
    network, params = split_model(tiny_model("resnet"), live_stats=True)
    images = tiny_images(8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(images, NamedSharding(mesh, P("data")))
    whole = jax.device_put((network, params), NamedSharding(mesh, P()))
    step = jax.jit(lambda network, params, images: network.train_logits(params, network.stats, images))

    (logits, stats), (one_logits, one_stats) = step(*whole, spread), step(network, params, images)

    np.testing.assert_allclose(logits, one_logits, rtol=1e-3, atol=1e-3)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(one_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_momentum_is_the_models_own() -> None:
    norms = lambda name: {m.momentum for _, m in nnx.iter_graph(tiny_model(name)) if isinstance(m, BatchNorm)}
    assert norms("resnet") == {0.1}
    assert norms("efficientnet-lite0") == {0.01}  # TensorFlow's 0.99


def test_logits_of_moved_parameters_are_those_of_the_model() -> None:
    network, params = split_model(tiny_model("vit"), frozen=["image/blocks/0/*"])
    tuned = moved(params)
    np.testing.assert_array_equal(network.logits(tuned, tiny_images()), network.model(tuned)(tiny_images()))
    assert not np.allclose(network.logits(tuned, tiny_images()), network.logits(params, tiny_images()))
