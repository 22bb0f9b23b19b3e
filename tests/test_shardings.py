"""The state's shardings are those of the parameters, through every wrapper."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import digrap, ftp, state_shardings

ADAM = optax.adam(1e-3)
LABELS = {"body": "a", "head": "b"}


def label_leaves(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: LABELS["body" if "body" in str(path) else "head"], params)


# tx, and how many of the state's arrays have the shape and the place of one of the three parameters
WRAPPED = {
    "ftp": (ftp(ADAM), 12),
    "lean": (ftp(ADAM, memory="lean"), 9),
    "mask": (ftp(ADAM, mask={"body": True, "head": False}), 10),
    "digrap chain": (optax.chain(optax.clip_by_global_norm(1.0), digrap(), ftp(ADAM)), 18),
    "factored moments": (ftp(optax.adafactor(1e-3, min_dim_size_to_factor=4)), 7),  # those of the bias are whole
    "muon": (ftp(optax.contrib.muon(1e-3)), 10),
    "partition": (optax.partition({"a": ftp(ADAM), "b": ADAM}, LABELS), 10),
    "partition by function": (optax.partition({"a": ftp(ADAM), "b": ADAM}, label_leaves), 10),
    "multi steps": (optax.MultiSteps(ftp(ADAM), 4), 15),
    "injected": (optax.inject_hyperparams(lambda kappa: ftp(ADAM, kappa=kappa))(kappa=0.5), 12),
    "plain adam": (ADAM, 6),
}
SPECS = {"body": {"bias": P("x"), "kernel": P("x", None)}, "head": {"kernel": P(None, "x")}}


@functools.cache
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))


def some_params() -> Any:
    params = {"body": {"bias": jnp.ones(8), "kernel": jnp.ones((8, 16))}, "head": {"kernel": jnp.ones((16, 8))}}
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh(), spec)), params, SPECS)


def cut(tree: Any) -> list[str]:
    """The paths of the arrays that are not whole on every device."""
    return [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path(tree) if not x.sharding.is_fully_replicated]


@pytest.mark.parametrize("case", WRAPPED)
def test_what_has_a_parameters_shape_lies_where_the_parameter_lies(case):
    (tx, count), params = WRAPPED[case], some_params()
    shardings = state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert len(cut(state)) == count, cut(state)
    # init without jit puts the same arrays at the same places, and all others on one device
    for (path, one), other in zip(jax.tree.leaves_with_path(tx.init(params)), jax.tree.leaves(state), strict=True):
        if not one.sharding.is_fully_replicated:
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim), path
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    assert state_shardings(tx, abstract) == shardings


def test_without_it_a_jitted_init_makes_whole_arrays():
    """Why the function is there. If this fails, JAX has learnt better and the docs should say so."""
    state = jax.jit(ftp(ADAM).init)(some_params())
    assert not any("displacement" in path or "mu" in path for path in cut(state))


def test_one_device_has_it_all():
    params = {"kernel": jnp.ones((4, 2))}
    (place,) = {params["kernel"].sharding}
    assert set(jax.tree.leaves(state_shardings(ftp(ADAM), params))) == {place}


@pytest.mark.parametrize(
    ("mask", "count"), [(None, 4), ({"bias": False, "kernel": True}, 4), ({"bias": True, "kernel": False}, 2)]
)
def test_nnx_parameters(mask, count):
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "x"))
    with jax.set_mesh(mesh()):
        model = nnx.jit(lambda: nnx.Linear(16, 8, kernel_init=init, rngs=nnx.Rngs(0)))()
        params, tx = nnx.state(model, nnx.Param), ftp(ADAM, mask=mask)
        state = jax.jit(tx.init, out_shardings=state_shardings(tx, params))(params)
    assert len(cut(state)) == count
    assert all("kernel" in path for path in cut(state))


@pytest.mark.parametrize("base", [optax.lbfgs(), optax.sm3(0.1)], ids=["lbfgs", "sm3"])
@pytest.mark.parametrize("wrap", [lambda base: base, ftp], ids=["alone", "ftp"])
def test_says_what_optax_cannot_map_and_what_to_do(base, wrap):
    tx, params = wrap(base), some_params()
    with pytest.raises(TypeError, match=r"map_params cannot tell.*L-BFGS and SM3.*eval_shape\(tx.init, params\)"):
        state_shardings(tx, params)
    replicated = NamedSharding(mesh(), P())
    shardings = jax.tree.map(lambda _: replicated, jax.eval_shape(tx.init, params))
    assert not cut(jax.jit(tx.init, out_shardings=shardings)(params))


def test_says_which_parameter_is_nowhere_or_elsewhere():
    with pytest.raises(ValueError, match=r"'kernel' has no sharding.*ShapeDtypeStruct"):
        state_shardings(ftp(ADAM), {"kernel": jax.ShapeDtypeStruct((4, 2), jnp.float32)})
    half = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    params = some_params() | {"head": {"kernel": jax.device_put(jnp.ones((16, 8)), NamedSharding(half, P("x")))}}
    with pytest.raises(ValueError, match="2 meshes"):
        state_shardings(ftp(ADAM), params)
