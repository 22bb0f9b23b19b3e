"""Radii, strengths and drift by path, wherever in a state they are."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import (
    add_decayed_anchor,
    digrap,
    drift,
    ftp,
    layer_table,
    radii,
    reanchor,
    spd,
    stacked_layers,
    strengths,
    tpgm,
)

BASE = optax.sgd(0.1)
PATHS = ["body/bias", "body/kernel", "head/kernel"]
MASK = {"body": True, "head": False}


def some_params() -> dict[str, Any]:
    return {"body": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones((3, 2))}}


def moved(params: Any) -> Any:
    """Every leaf moved by its position in the tree: by 1, by 2, ..."""
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, [x + i + 1 for i, x in enumerate(leaves)])


def with_radii(state: Any, field: str = "radii") -> Any:
    """The state with the scalars 1, 2, 3, ... in it."""
    number = lambda x: jnp.arange(1.0, 1.0 + x.size)
    return optax.tree.set(state, **{field: number(optax.tree.get(state, field))})


WRAPPERS = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "named chain": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("method", tx)),
    "multi steps": lambda tx: optax.MultiSteps(tx, 2),
    "apply if finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda _: True, p)),
    "nested": lambda tx: optax.chain(optax.apply_if_finite(optax.chain(tx), 3)),
}
READ = {"radii": (radii, lambda **k: ftp(BASE, **k)), "strengths": (strengths, lambda **k: digrap(**k))}


@pytest.mark.parametrize("field", READ)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_scalars_are_found_by_path_in_any_wrapper(field, wrapper):
    read, make = READ[field]
    params = some_params()
    state = with_radii(WRAPPERS[wrapper](make()).init(params), field)
    found = read(state, params)
    assert found == dict(zip(PATHS, [1.0, 2.0, 3.0], strict=True))
    assert {type(x) for x in found.values()} == {float}
    # in any pytree that holds it
    assert read({"step": 3, "opt_state": (state, None)}, params) == found


@pytest.mark.parametrize("field", READ)
def test_unconstrained_leaves_have_no_number(field):
    read, make = READ[field]
    params = some_params()
    mask = {"body": {"bias": False, "kernel": True}, "head": True}
    state = with_radii(make(mask=mask).init(params), field)
    assert read(state, params) == {"body/kernel": 1.0, "head/kernel": 2.0}
    assert list(drift(state, params)) == ["body/kernel", "head/kernel"]


@pytest.mark.parametrize("field", READ)
def test_layers_have_a_number_each(field):
    read, make = READ[field]
    params = {"blocks": {"kernel": jnp.ones((3, 2, 2)), "scale": jnp.ones((3, 2))}, "head": jnp.ones((2, 2))}
    state = with_radii(make(layer_axes=lambda path, _: int("blocks" in path)).init(params), field)
    found = read(state, params)
    assert list(found) == ["blocks/kernel", "blocks/scale", "head"]
    np.testing.assert_array_equal(found["blocks/kernel"], [1, 2, 3])
    np.testing.assert_array_equal(found["blocks/scale"], [4, 5, 6])
    assert found["head"] == 7.0
    away = jax.tree.map(lambda x: x, params)
    away["blocks"]["kernel"] += jnp.array([0.0, 1.0, 2.0]).reshape(3, 1, 1)
    gone = drift(state, away)
    np.testing.assert_allclose(gone["blocks/kernel"], [0, 2, 4])
    np.testing.assert_array_equal(gone["blocks/scale"], [0, 0, 0])
    assert gone["head"] == 0.0


@pytest.mark.parametrize("field", READ)
def test_two_layer_axes(field):
    read, make = READ[field]
    params = {"blocks": jnp.ones((2, 3, 4))}
    state = with_radii(make(layer_axes=2).init(params), field)
    np.testing.assert_array_equal(read(state, params)["blocks"], jnp.arange(1.0, 7.0))
    away = params["blocks"].at[1, 0].add(2.0)
    np.testing.assert_allclose(drift(state, {"blocks": away})["blocks"], [0, 0, 0, 4, 0, 0])


def test_drift_is_the_l2_distance_from_the_anchor():
    params = some_params()
    for tx in (ftp(BASE), digrap(), optax.chain(digrap(), ftp(BASE, memory="lean"))):
        state = tx.init(params)
        assert drift(state, params) == dict.fromkeys(PATHS, 0.0)
        gone = drift(state, moved(params))
        assert gone == {
            "body/bias": pytest.approx(3**0.5),
            "body/kernel": pytest.approx(24**0.5),
            "head/kernel": pytest.approx(54**0.5),
        }


def test_drift_in_half_precision_is_summed_in_float32():
    params = {"kernel": jnp.zeros((64, 64), jnp.float16)}
    state = ftp(BASE).init(params)
    away = {"kernel": jnp.full((64, 64), 16.0, jnp.float16)}  # the sum of squares is beyond float16
    assert drift(state, away) == {"kernel": 1024.0}


def test_both_methods_in_one_chain():
    params, far = some_params(), moved(some_params())
    tx = optax.chain(
        digrap(mask={"body": {"bias": True, "kernel": False}, "head": True}, anchor=far), ftp(BASE, mask=MASK)
    )
    state = with_radii(with_radii(tx.init(params)), "strengths")
    assert radii(state, params) == {"body/bias": 1.0, "body/kernel": 2.0}
    assert strengths(state, params) == {"body/bias": 1.0, "head/kernel": 2.0}
    gone = drift(state, params)
    assert set(gone) == set(PATHS)
    assert gone["body/kernel"] == 0.0
    assert gone["head/kernel"] == pytest.approx(54**0.5)


@pytest.mark.parametrize("where", [0, 1], ids=["ftp first", "digrap first"])
def test_of_two_anchors_the_first_counts(where):
    params = {"kernel": jnp.zeros(4)}
    links = [ftp(BASE, anchor={"kernel": jnp.ones(4)}), digrap(anchor={"kernel": jnp.full(4, 2.0)})]
    state = optax.chain(*(links if where == 0 else links[::-1])).init(params)
    assert drift(state, params) == {"kernel": [2.0, 4.0][where]}


LABELS = {
    "by leaf": {"body": {"bias": "a", "kernel": "b"}, "head": {"kernel": "b"}},
    "by subtree": {"body": "a", "head": "b"},
}


@pytest.mark.parametrize("labels", LABELS)
def test_the_groups_of_a_partition_are_joined(labels):
    params = some_params()
    groups = {"a": ftp(BASE, initial_radius=0.25), "b": optax.chain(digrap(), ftp(BASE, initial_radius=0.5))}
    state = optax.partition(groups, LABELS[labels]).init(params)
    found = radii(state, params)
    in_b = PATHS[1:] if labels == "by leaf" else PATHS[2:]
    assert found == {path: 0.5 if path in in_b else 0.25 for path in PATHS}
    assert set(strengths(state, params)) == set(in_b)
    assert drift(state, params) == dict.fromkeys(PATHS, 0.0)


def test_masked_by_a_subtree():
    params = some_params()
    state = optax.masked(ftp(BASE, initial_radius=0.5), MASK).init(params)
    assert radii(state, params) == {"body/bias": 0.5, "body/kernel": 0.5}
    assert drift(state, params) == {"body/bias": 0.0, "body/kernel": 0.0}


def test_under_jit_numbers_are_traced():
    params = some_params()
    tx = optax.chain(digrap(), ftp(BASE, mask=MASK))
    state = with_radii(with_radii(tx.init(params)), "strengths")
    read = jax.jit(lambda s, p: (radii(s, p), strengths(s, p), drift(s, p)))
    far = moved(params)
    for traced, known in zip(
        read(state, far), (radii(state, far), strengths(state, far), drift(state, far)), strict=True
    ):
        assert list(traced) == list(known)
        assert {path: pytest.approx(float(x[0] if x.ndim else x)) for path, x in traced.items()} == known


def test_layers_under_jit_say_what_to_do():
    params = {"blocks": jnp.ones((3, 2, 2))}
    for tx, read in ((ftp(BASE, layer_axes=1), radii), (digrap(layer_axes=1), strengths)):
        with pytest.raises(ValueError, match="outside"):
            jax.jit(read)(tx.init(params), params)


def test_nnx_optimizer_state_as_it_is():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(digrap(), ftp(BASE, initial_radius=0.5)), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    assert radii(optimizer.opt_state, params) == {"bias": 0.5, "kernel": 0.5}
    assert strengths(optimizer.opt_state, params) == {"bias": 0.0, "kernel": 0.0}
    assert drift(optimizer.opt_state, params) == {"bias": 0.0, "kernel": 0.0}
    far = jax.tree.map(lambda x: x + 1.0, params)
    gone = {"bias": pytest.approx(3**0.5), "kernel": pytest.approx(6**0.5)}
    assert drift(optimizer.opt_state, far) == gone
    is_variable = lambda node: isinstance(node, nnx.Variable)
    arrays = jax.tree.map(lambda x: x[...], (optimizer.opt_state, far), is_leaf=is_variable)
    assert drift(*arrays) == gone
    assert drift(optimizer.opt_state, nnx.to_pure_dict(far)) == gone


def test_nnx_layers_and_masks():
    class Model(nnx.Module):
        def __init__(self):
            self.blocks = nnx.Param(jnp.ones((3, 2, 2)))
            self.head = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    model = Model()
    tx = ftp(BASE, layer_axes=1, mask={"blocks": True, "head": False})
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    assert list(radii(optimizer.opt_state, params)) == ["blocks"]
    assert radii(optimizer.opt_state, params)["blocks"].shape == (3,)
    np.testing.assert_array_equal(drift(optimizer.opt_state, params)["blocks"], [0, 0, 0])


def test_a_tree_without_constrained_leaves_has_no_numbers():
    state = optax.chain(digrap(), ftp(BASE)).init({})
    assert radii(state, {}) == strengths(state, {}) == drift(state, {}) == {}


# what does not fit


def test_a_state_without_the_method():
    params = some_params()
    with pytest.raises(ValueError, match=r"radii: the state holds none.*with ftp"):
        radii(digrap().init(params), params)
    with pytest.raises(ValueError, match=r"strengths: the state holds none.*with digrap"):
        strengths(ftp(BASE).init(params), params)
    for nothing in (optax.adam(0.1).init(params), ftp(BASE, memory="lean").init(params), None):
        with pytest.raises(ValueError, match=r"no anchor.*lean"):
            drift(nothing, params)


@pytest.mark.parametrize("read", [radii, strengths, drift])
def test_params_that_do_not_fit_are_named(read):
    state = optax.chain(digrap(), ftp(BASE)).init(some_params())
    less = {"body": some_params()["body"]}
    more = {**some_params(), "tail": {"kernel": jnp.ones(2)}}
    for params, path in ((less, "head/kernel"), (more, "tail/kernel")):
        with pytest.raises(ValueError, match=re.escape(path)):
            read(state, params)


def test_drift_from_an_anchor_of_another_shape_is_named():
    other = {**some_params(), "head": {"kernel": jnp.ones((1, 2))}}  # it would broadcast
    with pytest.raises(ValueError, match="head/kernel"):
        drift(ftp(BASE).init(some_params()), other)


@pytest.mark.parametrize("read", [radii, strengths, drift, layer_table, reanchor], ids=lambda read: read.__name__)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_state_comes_first(read, wrapper):
    """0.1 had `drift` and `layer_table` the other way round, and said of it that the state holds no anchor."""
    params, name = some_params(), read.__name__
    state = WRAPPERS[wrapper](optax.chain(digrap(), ftp(BASE))).init(params)
    read(state, params)
    call = re.escape(
        f"{name}: the first argument holds no optimizer state, the second does; call {name}(state, params)"
    )
    with pytest.raises(TypeError, match=call):
        read(params, state)
    for nothing in (params, optax.adam(0.1).init(params)):  # no state in either: it is not the order that is wrong
        with pytest.raises(ValueError, match=f"{name}: the state holds no"):
            read(nothing, params)


# states with a leading axis

ENSEMBLES = {
    "ftp": (lambda **k: ftp(BASE, **k), (radii, drift)),
    "ftp lean": (lambda **k: ftp(BASE, memory="lean", **k), (radii,)),
    "digrap": (lambda **k: digrap(**k), (strengths, drift)),
    "digrap lean": (lambda **k: digrap(memory="lean", **k), (strengths, drift)),
    "tpgm": (lambda **k: tpgm(BASE, **k), (radii, drift)),
    "spd": (lambda **k: spd(BASE, strength=1.0, **k), (drift,)),
    "l2_sp": (lambda **k: add_decayed_anchor(0.1, **k), (drift,)),
}


def members(tx: Any, count: int = 3) -> tuple[Any, Any]:
    """The states and params of as many runs as there are leaves, each with scalars of its own."""
    params = jax.vmap(lambda i: jax.tree.map(lambda x: x * i, some_params()))(1.0 + jnp.arange(count))
    fill = lambda x: jnp.arange(1.0, 1.0 + x.size).reshape(x.shape) if x.shape == (count, 3) else x
    state = jax.vmap(tx.init)(params)
    for field in ("radii", "strengths"):
        if optax.tree.get(state, field) is not None:
            state = optax.tree.set(state, **{field: fill(optax.tree.get(state, field))})
    return state, jax.tree.map(lambda x: x + jnp.arange(count).reshape(count, *[1] * (x.ndim - 1)), params)


def member(i: int, tree: Any) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


@pytest.mark.parametrize("wrapper", ["alone", "nested"])
@pytest.mark.parametrize("method", ENSEMBLES)
def test_an_ensemble_is_refused_and_read_under_vmap(method, wrapper):
    make, readers = ENSEMBLES[method]
    state, params = members(WRAPPERS[wrapper](make()))
    for read in readers:
        name = read.__name__
        say = (
            re.escape(f"{name}: the state has a leading axis of 3")
            + ".*"
            + re.escape(f"jax.vmap({name})(state, params)")
        )
        for call in (read, jax.jit(read)):
            with pytest.raises(ValueError, match=say):
                call(state, params)
            with pytest.raises(ValueError, match=say):  # the params of one run
                call(state, member(0, params))
        found = jax.vmap(read)(state, params)
        assert {value.shape for value in found.values()} == {(3,)}
        for i in range(3):
            assert member(i, found) == read(member(i, state), member(i, params))
        assert len({float(x) for x in found["body/kernel"]}) == 3
    with pytest.raises(
        ValueError, match=r"layer_table: the state has a leading axis of 3.*jax\.tree\.map\(lambda x: x\[i"
    ):
        layer_table(state, params)
    assert len(layer_table(*member(1, (state, params)))) == 3
    with pytest.raises(ValueError, match="layer_table: not under jit or vmap"):
        jax.vmap(lambda s, p: layer_table(s, p)[0].radius)(state, params)


def test_one_state_and_many_params_and_the_other_way_round():
    tx = ftp(BASE)
    states, many = members(tx)
    state, params = member(0, (states, many))
    for read in (radii, drift):
        with pytest.raises(ValueError, match=r"the state has shape \(3,\) at 'body/bias', the parameter \(3, 3\)"):
            read(state, many)
        with pytest.raises(ValueError, match="the state has a leading axis of 3"):
            read(states, params)
        to_many, from_many = (
            jax.vmap(read, in_axes=(None, 0))(state, many),
            jax.vmap(read, in_axes=(0, None))(states, params),
        )
        for i in range(3):
            assert member(i, to_many) == read(state, member(i, many))
            assert member(i, from_many) == read(member(i, states), params)


def test_an_ensemble_of_ensembles_is_read_under_two_vmaps():
    params = jax.tree.map(lambda x: jnp.stack([jnp.stack([x, 2 * x, 3 * x])] * 2), some_params())
    state = jax.vmap(jax.vmap(ftp(BASE).init))(params)
    for call in (radii, jax.vmap(radii)):
        with pytest.raises(ValueError, match=r"a leading axis of .*jax.vmap\(radii\)"):
            call(state, params)
    assert {x.shape for x in jax.vmap(jax.vmap(radii))(state, params).values()} == {(2, 3)}


def test_an_ensemble_with_layers_is_read_one_by_one():
    """Under vmap the number of layers of each leaf is not known, as under jit."""
    params = {"blocks": jnp.ones((2, 3, 4, 5)), "head": jnp.ones((2, 5))}
    state = jax.vmap(ftp(BASE, layer_axes=lambda path, _: int(path == "blocks")).init)(params)
    with pytest.raises(ValueError, match=r"radii: the state has a leading axis of 2"):
        radii(state, params)
    with pytest.raises(ValueError, match=r"under jit or vmap.*jax\.tree\.map\(lambda x: x\[i\], \(state, params\)\)"):
        jax.vmap(radii)(state, params)
    assert radii(*member(1, (state, params)))["blocks"].shape == (3,)


def test_a_mesh_of_axes_that_init_knows_is_no_ensemble():
    """Stacked layers, of which each has its radius, are one run's."""
    params = {"layers": {"kernel": jnp.ones((3, 2, 2))}, "experts": jnp.ones((3, 2, 2))}
    state = ftp(BASE, layer_axes=stacked_layers).init(params)
    assert radii(state, params)["layers/kernel"].shape == (3,)
    assert radii(state, params)["experts"] == pytest.approx(1e-8)


@pytest.mark.parametrize(
    ("shape", "layers"),
    [((2, 1, 8), (1, 2)), ((1, 2, 8), (2,)), ((1, 1, 8), (0, 1, 2)), ((3, 1, 1), (1, 2, 3)), ((1,), (0, 1))],
)
def test_drift_is_right_whatever_the_depth_of_layer_axes(shape, layers):
    """The state knows a leaf's number of layers, not on how many axes; axes of size 1 make no difference."""
    params = {"kernel": jnp.ones(shape)}
    away = {"kernel": params["kernel"] + jnp.arange(1.0, 1 + params["kernel"].size).reshape(shape)}
    for depth in layers:
        state = ftp(BASE, layer_axes=depth).init(params)
        count = int(np.prod(shape[:depth]))
        gaps = np.asarray(away["kernel"] - params["kernel"]).reshape(count, -1)
        np.testing.assert_allclose(drift(state, away)["kernel"], np.sqrt(np.square(gaps).sum(1)), rtol=1e-6)
