"""Paths of leaves: what Flax wraps round an array is no part of one, a leaf or module called ``value`` is."""

import dataclasses
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from ftp_optax import (
    add_decayed_anchor,
    digrap,
    drift,
    ftp,
    maps_strengths,
    pgm,
    radii,
    reanchor,
    scale_free,
    spd,
    strengths,
    tpgm,
    tpgm_project,
    wise_ft,
)

BASE = optax.sgd(0.1)
METHODS = {
    "ftp": lambda **k: ftp(BASE, **k),
    "ftp_lean": lambda **k: ftp(BASE, memory="lean", **k),
    "ftp_scale_free": lambda **k: ftp(BASE, hyper_optimizer=scale_free(optax.adam(0.1)), **k),
    "digrap": lambda **k: optax.chain(digrap(**k), BASE),
    "digrap_lean": lambda **k: optax.chain(digrap(memory="lean", **k), BASE),
    "tpgm": lambda **k: tpgm(BASE, **k),
    "spd": lambda **k: spd(BASE, strength=0.5, **k),
    "pgm": lambda **k: pgm(BASE, radius=1.0, **k),
    "add_decayed_anchor": lambda **k: optax.chain(add_decayed_anchor(0.1, **k), BASE),
}


class Attention(eqx.Module):
    key: jax.Array
    query: jax.Array
    value: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Projections:
    key: jax.Array
    query: jax.Array
    value: jax.Array


class Table(nnx.Module):
    """An NNX module is a tree too; this one's only leaf is called like what a Variable holds."""

    def __init__(self):
        self.value = nnx.Param(jnp.ones((2, 3)))


class Wrapped(nnx.Module):
    def __init__(self):
        self.value = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.table = Table()


class Boxed(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3, name="value", kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "x")))(x)


def projections(make: Any) -> dict[str, Any]:
    one = jnp.ones((2, 3))
    return {"attn": make(key=one, query=one, value=one)}


THREE = ["attn/key", "attn/query", "attn/value"]
WRAPPED = ["table/value", "value/bias", "value/kernel"]
TREES = {
    "dict": (projections(dict), THREE),
    "equinox": (projections(Attention), THREE),
    "dataclass": (projections(Projections), THREE),
    "only value": ({"table": {"value": jnp.ones(3)}}, ["table/value"]),
    "module": ({"value": {"kernel": jnp.ones(3)}}, ["value/kernel"]),
    "root": ({"value": jnp.ones(3)}, ["value"]),
    "nnx state": (nnx.state(Wrapped()), WRAPPED),
    "nnx module": (Wrapped(), WRAPPED),
    "nnx variable": (nnx.Param(jnp.ones(3)), [""]),
    "nnx variable of a tree": ({"w": nnx.Param({"value": jnp.ones(3)})}, ["w/value"]),
    "nnx pure dict": (nnx.to_pure_dict(nnx.state(Wrapped())), WRAPPED),
    "linen boxes": (Boxed().init(jax.random.key(0), jnp.ones((1, 2)))["params"], ["value/bias", "value/kernel"]),
}


@pytest.mark.parametrize("tree", TREES)
def test_paths_name_what_the_tree_calls_its_leaves(tree):
    params, paths = TREES[tree]
    assert list(drift(ftp(BASE).init(params), params)) == paths
    seen = []
    ftp(BASE, unit_axes=lambda path, shape: seen.append(path) or ()).init(params)
    assert seen == paths


def test_a_mask_needs_an_entry_for_every_leaf_beside_one_called_value():
    params = projections(dict)
    with pytest.raises(ValueError, match="no entry for 'attn/key'"):
        ftp(BASE, mask={"attn": {"query": True, "value": False}}).init(params)
    tx = ftp(BASE, mask={"attn": {"key": True, "query": True, "value": False}})
    assert list(radii(tx.init(params), params)) == THREE[:2]


def test_depths_are_found_of_a_leaf_called_value():
    found = maps_strengths(projections(dict), 1.0, layers=THREE)
    assert found == {"attn": {"key": 1.0, "query": 0.5, "value": 0.0}}


def test_a_strength_is_found_of_a_leaf_called_value():
    params = projections(dict)
    spd(BASE, strength={"attn": {"key": 0.1, "query": 0.2, "value": 0.3}}).init(params)
    with pytest.raises(ValueError, match="no entry for 'attn/query'"):
        spd(BASE, strength={"attn": {"key": 0.1, "value": 0.3}}).init(params)


COLLIDING = {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(3)}
SHARED = r"Two leaves.*'a/b'.*rename"


@pytest.mark.parametrize("method", METHODS)
def test_two_leaves_of_one_path_are_refused_in_init(method):
    with pytest.raises(ValueError, match=SHARED):
        METHODS[method]().init(COLLIDING)


def test_two_leaves_of_one_path_are_refused_by_what_needs_no_init():
    with pytest.raises(ValueError, match=SHARED):
        wise_ft(COLLIDING, COLLIDING, 0.5)
    with pytest.raises(ValueError, match=SHARED):
        maps_strengths(COLLIDING, 1.0, layers=["a", "a/b"])
    with pytest.raises(ValueError, match=SHARED):
        tpgm_project(COLLIDING, COLLIDING, lambda params, batch: jnp.zeros(()), [0])
    with pytest.raises(ValueError, match=SHARED):  # a mask must not say two things of one leaf
        ftp(BASE, mask={"a": {"b": True}, "a/b": False}).init({"a": {"b": jnp.ones(2)}})


def test_a_slash_in_a_name_is_no_collision():
    params = {"mlp/~/linear_0": {"w": jnp.ones((2, 3))}, "mlp": {"scale": jnp.ones(3)}}
    assert set(radii(ftp(BASE).init(params), params)) == {"mlp/scale", "mlp/~/linear_0/w"}


# where a leaf is not constrained, `optax.MaskedNode` is where the Variable was, as optax's own masks have it


class Net(nnx.Module):
    def __init__(self):
        self.body = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.body(x))


MASKS = {
    "head": {"body": True, "head": False},
    "bias": {"body": {"bias": False, "kernel": True}, "head": {"bias": False, "kernel": True}},
    "none": None,
}


def held_out(params: Any) -> jax.Array:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def nnx_optimizer(method: str, mask: Any) -> nnx.Optimizer:
    """An optimizer after a step, in a chain."""
    model, x = Net(), jnp.ones((3, 4))
    tx = optax.chain(optax.clip_by_global_norm(1.0), METHODS[method](mask=mask))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    extra = {"held_out_loss": held_out} if method == "tpgm" else {}
    grads = nnx.grad(lambda model: jnp.sum(model(x) ** 2))(model)
    optimizer.update(model, grads, **extra)
    return optimizer


@pytest.mark.parametrize(("method", "mask"), [*((m, "head") for m in METHODS), ("ftp", "bias"), ("ftp", "none")])
def test_partition_specs_have_the_structure_of_the_state(method, mask):
    optimizer = nnx_optimizer(method, MASKS[mask])
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    for state in (nnx.state(optimizer), optimizer.opt_state, optimizer.tx.init(nnx.state(Net(), nnx.Param))):
        assert jax.tree.structure(nnx.get_partition_spec(state)) == jax.tree.structure(state)
        assert jax.tree.structure(nnx.get_named_sharding(state, mesh)) == jax.tree.structure(state)


@pytest.mark.parametrize("method", METHODS)
def test_a_masked_node_is_where_the_variable_was(method):
    state = METHODS[method](mask=MASKS["head"]).init(nnx.state(Net(), nnx.Param))
    records = [tree for field in ("anchor", "displacement") for _, tree in optax.tree.get_all_with_path(state, field)]
    for record in filter(None, records):
        assert dict(record["head"]) == {"bias": optax.MaskedNode(), "kernel": optax.MaskedNode()}
        assert isinstance(record["body"]["kernel"], nnx.Param)
    boxed = Boxed().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
    state = METHODS[method](mask={"value": {"bias": True, "kernel": False}}).init(boxed)
    records = [tree for field in ("anchor", "displacement") for _, tree in optax.tree.get_all_with_path(state, field)]
    assert all(record["value"]["kernel"] == optax.MaskedNode() for record in filter(None, records))


class Factors(nnx.Module):
    def __init__(self):
        self.b, self.w = nnx.Param(jnp.ones(2)), nnx.Param({"high": jnp.ones(2), "low": jnp.ones(2)})


def test_a_variable_of_several_arrays_is_masked_inside():
    """NNX's optimizer updates trees without Variables, in which every array must find its own entry."""
    model, mask = Factors(), {"b": True, "w": {"high": False, "low": False}}
    optimizer = nnx.Optimizer(model, ftp(BASE, mask=mask), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    optimizer.update(model, params)
    assert list(radii(optimizer.opt_state, params)) == ["b"]
    assert list(drift(reanchor(optimizer.opt_state, params), params)) == ["b"]


@pytest.mark.parametrize("mask", ["head", "bias"])
def test_what_is_read_and_restarted_is_that_of_a_plain_dict(mask):
    params, constrained = nnx.state(Net(), nnx.Param), MASKS[mask]
    tx = optax.chain(digrap(mask=constrained), ftp(BASE, mask=constrained))
    pure = nnx.to_pure_dict(params)
    state, plain = tx.init(params), tx.init(pure)
    for read in (radii, strengths):
        assert read(state, params) == read(state, pure) == read(plain, pure) == read(plain, params)
    again = reanchor(state, params)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert drift(again, params) == drift(again, pure) == dict.fromkeys(radii(state, params), 0.0)
