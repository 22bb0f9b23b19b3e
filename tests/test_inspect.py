"""Radii, strengths and drift by path, wherever in a state they are."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import digrap, drift, ftp, radii, strengths

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
    assert list(drift(params, state)) == ["body/kernel", "head/kernel"]


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
    gone = drift(away, state)
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
    np.testing.assert_allclose(drift({"blocks": away}, state)["blocks"], [0, 0, 0, 4, 0, 0])


def test_drift_is_the_l2_distance_from_the_anchor():
    params = some_params()
    for tx in (ftp(BASE), digrap(), optax.chain(digrap(), ftp(BASE, memory="lean"))):
        state = tx.init(params)
        assert drift(params, state) == dict.fromkeys(PATHS, 0.0)
        gone = drift(moved(params), state)
        assert gone == {
            "body/bias": pytest.approx(3**0.5),
            "body/kernel": pytest.approx(24**0.5),
            "head/kernel": pytest.approx(54**0.5),
        }


def test_drift_in_half_precision_is_summed_in_float32():
    params = {"kernel": jnp.zeros((64, 64), jnp.float16)}
    state = ftp(BASE).init(params)
    away = {"kernel": jnp.full((64, 64), 16.0, jnp.float16)}  # the sum of squares is beyond float16
    assert drift(away, state) == {"kernel": 1024.0}


def test_both_methods_in_one_chain():
    params, far = some_params(), moved(some_params())
    tx = optax.chain(
        digrap(mask={"body": {"bias": True, "kernel": False}, "head": True}, anchor=far), ftp(BASE, mask=MASK)
    )
    state = with_radii(with_radii(tx.init(params)), "strengths")
    assert radii(state, params) == {"body/bias": 1.0, "body/kernel": 2.0}
    assert strengths(state, params) == {"body/bias": 1.0, "head/kernel": 2.0}
    gone = drift(params, state)
    assert set(gone) == set(PATHS)
    assert gone["body/kernel"] == 0.0
    assert gone["head/kernel"] == pytest.approx(54**0.5)


@pytest.mark.parametrize("where", [0, 1], ids=["ftp first", "digrap first"])
def test_of_two_anchors_the_first_counts(where):
    params = {"kernel": jnp.zeros(4)}
    links = [ftp(BASE, anchor={"kernel": jnp.ones(4)}), digrap(anchor={"kernel": jnp.full(4, 2.0)})]
    state = optax.chain(*(links if where == 0 else links[::-1])).init(params)
    assert drift(params, state) == {"kernel": [2.0, 4.0][where]}


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
    assert drift(params, state) == dict.fromkeys(PATHS, 0.0)


def test_masked_by_a_subtree():
    params = some_params()
    state = optax.masked(ftp(BASE, initial_radius=0.5), MASK).init(params)
    assert radii(state, params) == {"body/bias": 0.5, "body/kernel": 0.5}
    assert drift(params, state) == {"body/bias": 0.0, "body/kernel": 0.0}


def test_under_jit_numbers_are_traced():
    params = some_params()
    tx = optax.chain(digrap(), ftp(BASE, mask=MASK))
    state = with_radii(with_radii(tx.init(params)), "strengths")
    read = jax.jit(lambda s, p: (radii(s, p), strengths(s, p), drift(p, s)))
    far = moved(params)
    for traced, known in zip(
        read(state, far), (radii(state, far), strengths(state, far), drift(far, state)), strict=True
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
    assert drift(params, optimizer.opt_state) == {"bias": 0.0, "kernel": 0.0}
    far = jax.tree.map(lambda x: x + 1.0, params)
    gone = {"bias": pytest.approx(3**0.5), "kernel": pytest.approx(6**0.5)}
    assert drift(far, optimizer.opt_state) == gone
    is_variable = lambda node: isinstance(node, nnx.Variable)
    arrays = jax.tree.map(lambda x: x[...], (far, optimizer.opt_state), is_leaf=is_variable)
    assert drift(*arrays) == gone
    assert drift(nnx.to_pure_dict(far), optimizer.opt_state) == gone


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
    np.testing.assert_array_equal(drift(params, optimizer.opt_state)["blocks"], [0, 0, 0])


def test_a_tree_without_constrained_leaves_has_no_numbers():
    state = optax.chain(digrap(), ftp(BASE)).init({})
    assert radii(state, {}) == strengths(state, {}) == drift({}, state) == {}


# what does not fit


def test_a_state_without_the_method():
    params = some_params()
    with pytest.raises(ValueError, match=r"radii: the state holds none.*with ftp"):
        radii(digrap().init(params), params)
    with pytest.raises(ValueError, match=r"strengths: the state holds none.*with digrap"):
        strengths(ftp(BASE).init(params), params)
    for nothing in (optax.adam(0.1).init(params), ftp(BASE, memory="lean").init(params), None):
        with pytest.raises(ValueError, match=r"no anchor.*lean"):
            drift(params, nothing)


@pytest.mark.parametrize("read", [radii, strengths, lambda state, params: drift(params, state)])
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
        drift(other, ftp(BASE).init(some_params()))
