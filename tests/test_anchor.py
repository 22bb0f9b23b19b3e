"""Masks, anchors, the messages for trees that do not fit, and re-anchoring."""

import functools
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import add_decayed_anchor, digrap, drift, ftp, pgm, radii, reanchor, spd, strengths

OUTSIDE = optax.sgd(0.1)
MAKERS = {
    "ftp": lambda **k: ftp(OUTSIDE, **k),
    "digrap": lambda **k: optax.chain(digrap(**k), OUTSIDE),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def some_params() -> dict[str, Any]:
    return {"body": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones((3, 2))}}


def constrained(state: Any, params: Any) -> list[str]:
    return list(drift(state, params))


def says(*parts: str) -> str:
    """A pattern for a message that contains all parts, in order."""
    return r"(?s)" + ".*".join(re.escape(p) for p in parts)


# masks

BODY = ["body/bias", "body/kernel"]
MASKS = {
    "tree": ({"body": {"bias": True, "kernel": True}, "head": {"kernel": False}}, BODY),
    "prefix": ({"body": True, "head": False}, BODY),
    "mixed prefix": ({"body": {"bias": False, "kernel": True}, "head": False}, ["body/kernel"]),
    "one boolean": (True, [*BODY, "head/kernel"]),
    "none": (None, [*BODY, "head/kernel"]),
    "callable": (lambda params: jax.tree.map(lambda x: x.ndim > 1, params), ["body/kernel", "head/kernel"]),
    "callable, prefix": (lambda params: {name: name == "body" for name in params}, BODY),
    "another type of mapping": (nnx.State({"body": True, "head": False}), BODY),
    "masked nodes": (
        {"body": {"bias": optax.MaskedNode(), "kernel": True}, "head": optax.MaskedNode()},
        ["body/kernel"],
    ),
    "jax booleans": (
        {"body": jnp.array(True), "head": jnp.zeros((), bool)},
        BODY,
    ),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_choose_what_is_constrained(make, mask):
    chosen, wanted = MASKS[mask]
    tx, params = make(mask=chosen), some_params()
    state = tx.init(params)
    assert constrained(state, params) == wanted
    updates, _ = tx.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"boody": True, "head": False}, ValueError, says("'boody'", "params lacks", "body/bias")),
        ({"body": {"bias": True, "kern": True}, "head": False}, ValueError, says("'body/kern'", "params lacks")),
        ({"body": {"bias": True}, "head": False}, ValueError, says("no entry for 'body/kernel'", "subtree")),
        ({"body": True}, ValueError, says("no entry for 'head/kernel'", "subtree")),
        ({}, ValueError, says("no entry for 'body/bias'", "subtree")),
        ({"body": 1, "head": False}, TypeError, says("'body'", "1", "True or False")),
        ({"body": "yes", "head": False}, TypeError, says("'body'", "'yes'", "True or False")),
        ({"body": jnp.ones(()), "head": False}, TypeError, says("'body'", "True or False")),
        ({"body": jnp.ones(2, bool), "head": False}, (TypeError, ValueError), says("'body'", "True or False")),
        ({"body": False, "head": False}, ValueError, says("none of the 3 leaves", "plain fine-tuning", "body/bias")),
        (lambda params: jax.tree.map(lambda x: False, params), ValueError, says("none of the 3 leaves")),
        (False, ValueError, says("none of the 3 leaves")),
    ],
)
def test_masks_that_do_not_fit(make, mask, error, message):
    with pytest.raises(error, match=message):
        make(mask=mask).init(some_params())


def test_leaves_that_are_masked_already_take_no_part(make):
    params = {**some_params(), "head": {"kernel": optax.MaskedNode()}}
    for mask in (None, {"body": True, "head": True}, lambda p: jax.tree.map(lambda x: x.ndim > 0, p)):
        tx = make(mask=mask)
        state = tx.init(params)
        assert constrained(state, params) == BODY
        updates, _ = tx.update(params, state, params)
        assert updates["head"] == {"kernel": optax.MaskedNode()}


def test_a_mask_for_all_params_fits_those_that_a_prefix_label_leaves(make):
    labels = {"body": "a", "head": "b"}  # optax.partition then masks "head" as one node
    full = {"body": {"bias": False, "kernel": True}, "head": {"kernel": False}}
    params = some_params()
    state = optax.partition({"a": make(mask=full), "b": OUTSIDE}, labels).init(params)
    assert constrained(state, params) == ["body/kernel"]


def test_a_tree_of_one_leaf_and_a_tree_of_none(make):
    tx = make()
    state = tx.init(jnp.ones((2, 3)))
    for _ in range(3):
        updates, state = tx.update(jnp.ones((2, 3)), state, jnp.ones((2, 3)))
    assert updates.shape == (2, 3)
    assert drift(state, jnp.ones((2, 3))) == {"": 0.0}
    assert constrained(make(mask=True).init(jnp.ones(3)), jnp.ones(3)) == [""]
    for empty in ({}, (), {"body": {}}, {"body": None}):
        state = make(mask={"body": True}).init(empty)  # a mask cannot constrain what is not there
        updates, _ = tx.update(empty, state, empty)
        assert updates == empty


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool", "uint8"])
def test_leaves_that_are_no_real_numbers_are_left_out_by_mask_or_refused(make, dtype):
    params = {"count": jnp.zeros(3, dtype), "kernel": jnp.ones((2, 3))}
    with pytest.raises(TypeError, match=says("'count'", dtype, "mask=")):
        make().init(params)
    tx = make(mask={"count": False, "kernel": True})
    state = tx.init(params)
    updates, _ = tx.update({"count": jnp.ones(3, dtype), "kernel": jnp.ones((2, 3))}, state, params)
    assert bool(jnp.isfinite(updates["kernel"]).all())


def test_random_keys_are_refused_by_name(make):
    params = {"rng": jax.random.key(0), "kernel": jnp.ones((2, 3))}
    with pytest.raises(TypeError, match=says("'rng'", "mask=")):
        make().init(params)


# anchors


def test_the_anchor_is_the_params_or_the_one_given(make):
    params = some_params()
    assert set(drift(make().init(params), params).values()) == {0.0}
    away = jax.tree.map(lambda x: x + 2.0, params)
    state = make(anchor=away).init(params)
    assert drift(state, params)["body/bias"] == pytest.approx(2 * 3**0.5)
    chex.assert_trees_all_equal(optax.tree.get(state, "anchor"), away)


def test_the_anchor_is_a_copy(make):
    params = some_params()
    for given in (None, params):
        state = make(anchor=given).init(params)
        for ours, theirs in zip(jax.tree.leaves(optax.tree.get(state, "anchor")), jax.tree.leaves(params), strict=True):
            assert ours.unsafe_buffer_pointer() != theirs.unsafe_buffer_pointer()


def test_the_anchor_may_come_in_another_container(make):
    params = some_params()
    state = make(anchor=nnx.State(params)).init(params)
    chex.assert_trees_all_equal(optax.tree.get(state, "anchor"), params)


def test_the_anchor_may_be_unlike_the_params_where_nothing_is_constrained(make):
    params, other = some_params(), some_params()
    other["head"]["kernel"] = jnp.ones((3, 7))
    state = make(mask={"body": True, "head": False}, anchor=other).init(params)
    assert constrained(state, params) == BODY


def change(path: str, leaf: Any) -> dict[str, Any]:
    """Some params with a leaf replaced, added or, by None, removed."""
    params = some_params()
    module, name = path.split("/")
    params.setdefault(module, {})[name] = leaf
    if leaf is None:
        del params[module][name]
    return params


OTHER_TREES = {  # other trees, and what must be named
    "without a leaf": (change("body/bias", None), "body/bias"),
    "with one more": (change("body/scale", jnp.ones(3)), "body/scale"),
    "of another shape": (change("body/kernel", jnp.ones((2, 4))), "body/kernel"),
    "of another rank": (change("body/kernel", jnp.ones((2, 3, 1))), "body/kernel"),
}


@pytest.mark.parametrize("other", OTHER_TREES)
def test_an_anchor_that_does_not_fit(make, other):
    tree, path = OTHER_TREES[other]
    with pytest.raises(ValueError, match=says("the anchor", path)):
        make(anchor=tree).init(some_params())


def test_masked_leaves_where_a_constrained_one_is_wanted(make):
    params, masked = some_params(), change("body/kernel", optax.MaskedNode())
    with pytest.raises((TypeError, ValueError), match=says("body/kernel")):
        make(anchor=masked).init(params)
    tx = make()
    state = tx.init(params)
    for grads, now in ((masked, params), (params, masked)):
        with pytest.raises((TypeError, ValueError), match=says("body/kernel")):
            tx.update(grads, state, now)
    with pytest.raises((TypeError, ValueError), match=says("body/kernel")):
        reanchor(state, masked)


def test_an_anchor_of_another_dtype(make):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), some_params())
    with pytest.raises(TypeError, match=says("'body/bias'", "bfloat16", "float32", "anchor_dtype=")):
        make(anchor=half).init(some_params())
    state = make(anchor=half, anchor_dtype=jnp.bfloat16).init(some_params())
    assert {x.dtype for x in jax.tree.leaves(optax.tree.get(state, "anchor"))} == {jnp.dtype("bfloat16")}


def test_anchor_dtype(make):
    tx, params = make(anchor_dtype="bfloat16"), some_params()
    state = tx.init(params)
    updates, new = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, new), (params, state))
    assert optax.tree.get(new, "anchor")["body"]["bias"].dtype == jnp.bfloat16


# update: what does not fit


def test_update_without_params(make):
    tx, params = make(), some_params()
    with pytest.raises(ValueError, match=says("tx.update(grads, state, params)")):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("other", OTHER_TREES)
@pytest.mark.parametrize("role", ["gradient", "params", "state"])
def test_update_with_a_tree_that_does_not_fit(make, role, other):
    tree, path = OTHER_TREES[other]
    tx, params = make(), some_params()
    state = tx.init(tree if role == "state" else params)  # a state restored from a run of another model
    grads, params = (tree if role == "gradient" else params), (tree if role == "params" else params)
    with pytest.raises(ValueError, match=says(path)):
        tx.update(grads, state, params)


def test_update_with_a_gradient_without_one_subtree_names_what_is_missing(make):
    tx, params = make(), some_params()
    message = says("gradient", "no leaf 'body/bias'", "structure of params", "3 leaves, found 1")
    with pytest.raises(ValueError, match=message):
        tx.update({"head": params["head"]}, tx.init(params), params)


def test_update_with_a_state_of_other_layer_axes(make):
    params = {"blocks": {"kernel": jnp.ones((4, 2, 3))}, "head": {"kernel": jnp.ones((3, 2))}}
    state = make().init(params)
    with pytest.raises(ValueError, match=says("layer_axes")):
        make(layer_axes=lambda path, shape: int("blocks" in path)).update(params, state, params)


def test_trees_of_one_order_and_other_containers_fit(make):
    tx, params = make(), some_params()
    state = nnx.State(params)
    expected, _ = tx.update(params, tx.init(params), params)
    actual, _ = tx.update(state, tx.init(params), state)
    chex.assert_trees_all_equal(nnx.to_pure_dict(actual), expected)


# re-anchoring


def grads_of(params: Any) -> Any:
    return jax.tree.map(lambda x: 0.3 * x - jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) / 5, params)


def run(tx: Any, params: Any, steps: int = 4, state: Any = None) -> tuple[Any, Any]:
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        updates, state = tx.update(grads_of(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


HYPER = optax.adam(0.1)
MASK = {"body": True, "head": False}
# nothing in these but the methods' states changes, so that reanchor must give what init gives
STATEFUL = {
    "ftp": ftp(OUTSIDE, hyper_optimizer=HYPER),
    "masked ftp": ftp(OUTSIDE, hyper_optimizer=HYPER, mask=MASK),
    "lean": ftp(OUTSIDE, hyper_optimizer=HYPER, memory="lean"),
    "bf16 anchor": ftp(OUTSIDE, hyper_optimizer=HYPER, anchor_dtype=jnp.bfloat16),
    "digrap": digrap(),
    "both": optax.chain(optax.clip(10.0), digrap(mask=MASK), ftp(OUTSIDE, hyper_optimizer=HYPER)),
    "digrap inside ftp": ftp(optax.chain(digrap(), OUTSIDE), hyper_optimizer=HYPER),
    "masked": optax.masked(ftp(OUTSIDE, hyper_optimizer=HYPER), {"body": True, "head": {"kernel": False}}),
    "masked by a prefix": optax.masked(ftp(OUTSIDE, hyper_optimizer=HYPER), MASK),
    "partition": optax.partition(
        {"a": ftp(OUTSIDE, hyper_optimizer=HYPER), "b": optax.chain(digrap(), OUTSIDE)},
        {"body": {"bias": "a", "kernel": "a"}, "head": {"kernel": "b"}},
    ),
    "partition by a prefix": optax.partition(
        {"a": ftp(OUTSIDE, hyper_optimizer=HYPER), "b": optax.chain(digrap(), OUTSIDE)}, {"body": "a", "head": "b"}
    ),
    "layers": ftp(OUTSIDE, hyper_optimizer=HYPER, layer_axes=1),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_reanchor_is_a_new_init_at_the_params(case):
    tx = STATEFUL[case]
    params, state = run(tx, some_params())
    new = reanchor(state, params)
    chex.assert_trees_all_equal(new, tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(new, state)


def test_reanchor_keeps_the_base_optimizer():
    tx = optax.chain(digrap(), ftp(optax.adam(0.1), hyper_optimizer=HYPER))
    params, state = run(tx, some_params())
    new, fresh = reanchor(state, params), tx.init(params)
    chex.assert_trees_all_equal(new[1].inner_state, state[1].inner_state)
    chex.assert_trees_all_equal(new[1]._replace(inner_state=None), fresh[1]._replace(inner_state=None))
    chex.assert_trees_all_equal(new[0], fresh[0])


def test_reanchor_restarts_from_the_own_initial_radius():
    tx = ftp(OUTSIDE, hyper_optimizer=HYPER, initial_radius=0.05)
    params, state = run(tx, some_params())
    assert set(radii(state, params).values()) != set(radii(reanchor(state, params), params).values())
    assert list(radii(reanchor(state, params), params).values()) == [pytest.approx(0.05)] * 3


def test_reanchor_inside_wrappers_with_states_of_their_own():
    wrap = lambda tx: optax.apply_if_finite(optax.MultiSteps(tx, 2).gradient_transformation(), 3)
    tx = wrap(optax.chain(digrap(), ftp(optax.adam(0.1), hyper_optimizer=HYPER)))
    step = jax.jit(lambda params, state: run(tx, params, 1, state))
    params, state = some_params(), tx.init(some_params())
    for _ in range(8):
        params, state = step(params, state)
    new = reanchor(state, params)
    assert drift(state, params)["body/bias"] > 0
    assert set(drift(new, params).values()) == {0.0}
    assert set(strengths(new, params).values()) == {0.0}
    chex.assert_trees_all_equal(optax.tree.get(new, "gradient_step"), optax.tree.get(state, "gradient_step"))
    step(params, new)


def test_params_and_the_new_state_can_both_be_donated():
    tx = optax.chain(digrap(), ftp(OUTSIDE, hyper_optimizer=HYPER))
    params, state = run(tx, some_params())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(grads_of(params), state, params)
        return optax.apply_updates(params, updates), state

    before = jax.tree.map(np.array, params)  # a copy: a view would keep the buffer from being donated
    state = reanchor(state, params)
    old = jax.tree.leaves((params, state))
    params, state = step(params, state)  # twice the same buffer would raise
    assert all(x.is_deleted() for x in old)
    chex.assert_trees_all_close(params, before, atol=1e-6)
    params, state = step(params, reanchor(state, params))
    chex.assert_trees_all_close(params, before, atol=1e-6)


def test_reanchor_under_jit():
    tx = ftp(OUTSIDE, hyper_optimizer=HYPER)
    params, state = run(tx, some_params())
    chex.assert_trees_all_equal(jax.jit(reanchor)(state, params), reanchor(state, params))


def nnx_run(tx: Any) -> tuple[nnx.Module, nnx.Optimizer]:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    return model, optimizer


@nnx.jit
def nnx_step(model: nnx.Module, optimizer: nnx.Optimizer) -> None:
    optimizer.update(model, nnx.grad(lambda m: jnp.mean((m(jnp.ones((4, 2))) - 3.0) ** 2))(model))


def test_reanchor_in_an_nnx_optimizer():
    tx = optax.chain(digrap(), ftp(optax.sgd(0.1), hyper_optimizer=HYPER))
    model, optimizer = nnx_run(tx)
    for _ in range(4):
        nnx_step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    assert drift(optimizer.opt_state, params)["kernel"] > 0
    optimizer.opt_state = nnx.data(reanchor(optimizer.opt_state, params))
    chex.assert_trees_all_equal(jax.tree.leaves(optimizer.opt_state), jax.tree.leaves(tx.init(params)))
    nnx_step(model, optimizer)  # the first step after it leaves everything where it is
    chex.assert_trees_all_close(nnx.state(model, nnx.Param), params, atol=1e-6)
    for _ in range(3):
        nnx_step(model, optimizer)
    assert drift(optimizer.opt_state, nnx.state(model, nnx.Param))["kernel"] > 0


def test_reanchor_reaches_the_relatives_in_an_nnx_optimizer():
    tx = optax.chain(
        add_decayed_anchor(0.1), spd(pgm(optax.sgd(0.1), radius=5.0), strength=lambda count: 0.5 / (1 + count))
    )
    model, optimizer = nnx_run(tx)
    nnx_step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    assert drift(optimizer.opt_state, params)["kernel"] > 0
    optimizer.opt_state = nnx.data(reanchor(optimizer.opt_state, params))
    assert drift(optimizer.opt_state, params)["kernel"] == 0
    chex.assert_trees_all_equal(jax.tree.leaves(optimizer.opt_state), jax.tree.leaves(tx.init(params)))
    nnx_step(model, optimizer)
    assert drift(optimizer.opt_state, nnx.state(model, nnx.Param))["kernel"] > 0


def test_reanchor_finds_nothing():
    with pytest.raises(ValueError, match=says("no anchored method's state", "pass the optimizer state")):
        reanchor(optax.adam(0.1).init(some_params()), some_params())


@pytest.mark.parametrize("case", ["ftp", "lean", "digrap"])
@pytest.mark.parametrize("other", OTHER_TREES)
def test_reanchor_at_params_that_do_not_fit(case, other):
    tree, path = OTHER_TREES[other]
    with pytest.raises(ValueError, match=says("reanchor", path)):
        reanchor(STATEFUL[case].init(some_params()), tree)
