"""Eight devices do what one does: data parallel, FSDP, tensor parallel, and both at once, whole training steps.

The optimizer must not move parameters: no all-gather, and a number of all-reduces that does not grow with the tree.
"""

import collections
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_contract import METHODS, same, step_of

from ftp_optax import state_shardings

STEPS = 4
WIDTH = 32


class Layout(NamedTuple):
    """A mesh, where the two kinds of kernels and biases lie on it, and where the examples of a batch do."""

    mesh: dict[str, int]
    up: P  # kernels of even layers
    down: P  # kernels of odd layers
    bias: P  # of even layers; those of odd layers are whole
    batch: P


LAYOUTS = {
    "data parallel": Layout({"data": 8}, P(), P(), P(), P("data")),
    "fsdp": Layout({"data": 8}, P("data"), P("data"), P("data"), P("data")),
    "tensor parallel": Layout({"model": 8}, P(None, "model"), P("model"), P("model"), P()),
    "fsdp and tensor parallel": Layout(
        {"data": 4, "model": 2}, P("data", "model"), P("model", "data"), P("model"), P("data")
    ),
}
KINDS = (
    "ftp_adam", "ftp_lean", "digrap_adam", "digrap_lean", "tpgm_adam", "spd_adam", "pgm_adam", "l2_sp_adam",
    "averaged_ftp",
)  # fmt: skip


@functools.cache
def mesh_of(layout: str, axis_type: AxisType) -> jax.sharding.Mesh:
    axes = LAYOUTS[layout].mesh
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(axis_type,) * len(axes))


def some_params(layers: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(0.3 * rng.standard_normal(shape), jnp.float32)
    return {f"layer{i}": {"bias": make(WIDTH), "kernel": make(WIDTH, WIDTH)} for i in range(layers)}


def shardings_of(layout: str, axis_type: AxisType = AxisType.Auto, layers: int = 2) -> dict[str, Any]:
    at, mesh = LAYOUTS[layout], mesh_of(layout, axis_type)
    pairs = ((at.down, P()) if i % 2 else (at.up, at.bias) for i in range(layers))
    specs = {f"layer{i}": {"bias": bias, "kernel": kernel} for i, (kernel, bias) in enumerate(pairs)}
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda s: isinstance(s, P))


def batch() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((16, WIDTH)), jnp.float32)


def loss_of(params: Any, x: jax.Array) -> jax.Array:
    y = x
    for layer in params.values():
        y = jnp.tanh(y @ layer["kernel"] + layer["bias"])
    return jnp.mean(jnp.square(y - jnp.roll(x, 1, axis=1)))


def transform(method: str) -> Any:
    make, base = METHODS[method]
    return make(base)


def train(tx: Any, params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
    """A few whole steps. The result's shardings are given: XLA may cut what was whole, under any optimizer."""
    places = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    step = lambda p, s: step_of(tx)(p, s, jax.grad(loss_of)(p, x))
    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=places)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


@functools.cache
def on_one_device(method: str) -> tuple[Any, Any]:
    tx, params = transform(method), some_params()
    return jax.device_get(train(tx, params, tx.init(params), batch()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", KINDS)
def test_training_on_a_mesh_is_training_on_one_device(method, layout):
    tx, at = transform(method), shardings_of(layout)
    params = jax.device_put(some_params(), at)
    expected = state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=expected)(params)
    x = jax.device_put(batch(), NamedSharding(mesh_of(layout, AxisType.Auto), LAYOUTS[layout].batch))
    params, state = train(tx, params, state, x)
    same((params, state), on_one_device(method))
    assert_placed((params, state), (at, expected))


def assert_placed(tree: Any, shardings: Any) -> None:
    for (path, leaf), place in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim), (path, leaf.sharding)


def elementwise_gradient(params: Any) -> Any:
    """Of a quadratic: a model's matrix products would need out_shardings of their own on an explicit mesh."""
    return jax.tree.map(lambda x: x - 0.3, params)


def two_steps(tx: Any) -> Any:
    return jax.jit(lambda p, s: step_of(tx)(*step_of(tx)(p, s, elementwise_gradient(p)), elementwise_gradient(p)))


@functools.cache
def two_steps_on_one_device(method: str) -> tuple[Any, Any]:
    tx, params = transform(method), some_params()
    return jax.device_get(two_steps(tx)(params, tx.init(params)))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "data parallel"])
@pytest.mark.parametrize("method", KINDS)
def test_shardings_are_in_the_types_of_an_explicit_mesh(method, layout):
    tx = transform(method)
    with jax.set_mesh(mesh_of(layout, AxisType.Explicit)):
        params = jax.device_put(some_params(), shardings_of(layout, AxisType.Explicit))
        state = jax.jit(tx.init)(params)  # here the types tell where zeros lie
        types = jax.tree.map(jax.typeof, (params, state))
        assert_placed((params, state), (shardings_of(layout, AxisType.Explicit), state_shardings(tx, params)))
        after = two_steps(tx)(params, state)
        assert jax.tree.map(jax.typeof, after) == types
    same(after, two_steps_on_one_device(method))


def stacked(method: str) -> tuple[Any, Any]:
    """A method that counts two leading axes of a leaf as layers, and parameters for it."""
    make, base = METHODS[method]
    rng = np.random.default_rng(0)
    params = {"stack": rng.standard_normal((8, 8, 6, 4), np.float32), "single": rng.standard_normal((8, 4), np.float32)}
    return make(base, layer_axes=lambda path, shape: 2 if "stack" in path else 0), params


@functools.cache
def stacked_on_one_device(method: str) -> tuple[Any, Any]:
    tx, params = stacked(method)
    return jax.device_get(two_steps(tx)(params, tx.init(params)))


@pytest.mark.parametrize("spec", [P(None, "data"), P(("data", "model")), P("data", None, None, "model")])
@pytest.mark.parametrize("method", [method for method in KINDS if method != "l2_sp_adam"])
def test_layer_axes_may_be_cut_on_an_explicit_mesh(method, spec):
    """Numbers of layers that lie on several devices are put together into the one array of scalars."""
    tx, start = stacked(method)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        params = jax.device_put(start, {"stack": NamedSharding(mesh, spec), "single": NamedSharding(mesh, P("data"))})
        state = jax.jit(tx.init)(params)
        after = two_steps(tx)(params, state)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, (params, state))
    same(after, stacked_on_one_device(method))


COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def collectives(method: str, layout: str) -> dict[str, int]:
    """What a step of the optimizer alone sends between devices, for a tree of twelve leaves."""
    tx, at = transform(method), shardings_of(layout, layers=6)
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    params = jax.tree.map(place, jax.eval_shape(lambda: some_params(6)), at)
    expected = state_shardings(tx, params)
    state = jax.tree.map(place, jax.eval_shape(tx.init, params), expected)
    step = jax.jit(step_of(tx), donate_argnums=(0, 1), out_shardings=(at, expected))
    return dict(collections.Counter(COLLECTIVE.findall(step.lower(params, state, params).compile().as_text())))


# All-reduces of a step, by method: with FSDP, tensor parallel, both. The sums of all leaves travel together, however
# many leaves. Where units are cut and lie on several devices too, sums within a unit come before sums over units, and
# where two axes of the mesh cut a leaf, each has all-reduces of its own.
LIMITS = {
    "ftp_adam": (2, 3, 7),
    "ftp_lean": (2, 3, 7),
    "digrap_adam": (1, 1, 3),
    "digrap_lean": (1, 1, 3),
    "tpgm_adam": (2, 4, 9),
    "spd_adam": (1, 1, 3),
    "pgm_adam": (1, 1, 2),
    "l2_sp_adam": (0, 0, 0),
    "averaged_ftp": (2, 3, 7),
}


@pytest.mark.parametrize("layout", ["fsdp", "tensor parallel", "fsdp and tensor parallel"])
@pytest.mark.parametrize("method", KINDS)
def test_a_step_gathers_nothing_and_reduces_all_leaves_together(method, layout):
    found = collectives(method, layout)
    assert found.keys() <= {"all-reduce"}
    limit = LIMITS[method][["fsdp", "tensor parallel", "fsdp and tensor parallel"].index(layout)]
    assert found.get("all-reduce", 0) <= limit
