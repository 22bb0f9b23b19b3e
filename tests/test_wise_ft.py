"""The line from the anchor to the fine-tuned parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import ftp, smallest_share, wise_ft

RNG = np.random.default_rng(0)


def some_params(dtype="float32"):
    make = lambda *shape: jnp.asarray(1e3 * RNG.standard_normal(shape), dtype)
    return {"body": {"bias": make(3), "kernel": make(2, 3)}, "scale": make()}


@pytest.mark.parametrize("alpha", [0.25, 0.5, 1, jnp.float32(0.75), np.float64(0.1), -0.5, 1.5])
def test_is_the_straight_line(alpha):
    tuned, anchor = some_params(), some_params()
    a = float(alpha)
    wanted = jax.tree.map(
        lambda w, w0: (1 - a) * np.asarray(w0, np.float64) + a * np.asarray(w, np.float64), tuned, anchor
    )
    mixed = wise_ft(tuned, anchor, alpha)
    chex.assert_trees_all_equal_shapes_and_dtypes(mixed, tuned)
    chex.assert_trees_all_close(mixed, jax.tree.map(np.float32, wanted), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float16", "bfloat16", "float32", "float64"])
def test_both_ends_are_exact(dtype):
    with jax.enable_x64(dtype == "float64"):
        tuned, anchor = some_params(dtype), some_params(dtype)
        for mix in (wise_ft, jax.jit(wise_ft)):
            for alpha in (0, 0.0, jnp.array(0.0)):
                chex.assert_trees_all_equal(mix(tuned, anchor, alpha), anchor)
            for alpha in (1, 1.0, jnp.array(1.0)):
                chex.assert_trees_all_equal(mix(tuned, anchor, alpha), tuned)
        chex.assert_trees_all_equal_dtypes(wise_ft(tuned, anchor, 0.3), tuned)


def test_half_precision_is_mixed_in_float32():
    # every product of its own is rounded in bfloat16: 0.9 becomes 0.8984
    tuned, anchor = {"w": jnp.array([1.0, 3.0], jnp.bfloat16)}, {"w": jnp.array([1.0, 2.0], jnp.bfloat16)}
    mixed = wise_ft(tuned, anchor, 0.9)["w"]
    np.testing.assert_array_equal(mixed, jnp.array([1.0, 2.9], jnp.bfloat16))
    # float16 ends at 65504
    big = {"w": jnp.array([60000.0], jnp.float16)}
    np.testing.assert_array_equal(wise_ft(big, jax.tree.map(jnp.negative, big), 0.5)["w"], [0.0])


def test_alpha_does_not_widen_the_params():
    with jax.enable_x64(True):
        tuned = {"w": jnp.ones(2, jnp.float32)}
        assert wise_ft(tuned, tuned, jnp.float64(0.3))["w"].dtype == jnp.float32


def test_the_anchor_may_have_another_dtype():
    tuned, anchor = {"w": jnp.array([1.0, 3.0])}, {"w": jnp.array([0.0, 1.0], jnp.bfloat16)}
    mixed = wise_ft(tuned, anchor, 0.5)["w"]
    assert mixed.dtype == jnp.float32
    np.testing.assert_array_equal(mixed, [0.5, 2.0])


def test_vmap_gives_the_whole_curve():
    tuned, anchor = some_params(), some_params()
    alphas = jnp.linspace(0, 1, 5)
    curve = jax.jit(jax.vmap(lambda a: wise_ft(tuned, anchor, a)))(alphas)
    for i, alpha in enumerate(alphas):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], curve), wise_ft(tuned, anchor, alpha), rtol=1e-6)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[0], curve), anchor)
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[-1], curve), tuned)


def test_gradients_by_alpha_and_params():
    tuned, anchor = {"w": jnp.array([4.0])}, {"w": jnp.array([1.0])}
    by_params, by_alpha = jax.grad(lambda p, a: wise_ft(p, anchor, a)["w"].sum(), argnums=(0, 1))(tuned, 0.25)
    assert by_alpha == 3.0
    assert by_params["w"] == 0.25


def test_leaves_that_are_no_floats_are_the_params_own():
    tuned = {
        "count": jnp.array(7),
        "key": jax.random.key(3),
        "frozen": None,
        "on": jnp.array(True),
        "w": jnp.array(4.0),
    }
    anchor = {
        "count": jnp.array(1),
        "key": jax.random.key(0),
        "frozen": None,
        "on": jnp.array(False),
        "w": jnp.array(2.0),
    }
    mixed = wise_ft(tuned, anchor, 0.5)
    assert (mixed["count"], mixed["on"], mixed["w"], mixed["frozen"]) == (7, True, 3.0, None)
    assert mixed["key"] == tuned["key"]


def test_masked_leaves_stay():
    tuned = {"w": jnp.array(4.0), "head": optax.MaskedNode()}
    assert wise_ft(tuned, {"w": jnp.array(2.0), "head": optax.MaskedNode()}, 0.5) == {
        "w": 3.0,
        "head": optax.MaskedNode(),
    }


MASKS = {
    "tree": {"body": {"bias": True, "kernel": True}, "head": {"kernel": False}},
    "prefix": {"body": True, "head": False},
    "callable": lambda params: {name: name == "body" for name in params},
    "masked nodes": {"body": True, "head": optax.MaskedNode()},
}


@pytest.mark.parametrize("mask", MASKS)
def test_what_the_mask_leaves_out_is_the_params(mask):
    tuned = {"body": {"bias": jnp.full(3, 4.0), "kernel": jnp.full((2, 3), 4.0)}, "head": {"kernel": jnp.ones((3, 7))}}
    start = {"body": {"bias": jnp.full(3, 2.0), "kernel": jnp.full((2, 3), 2.0)}, "head": {"kernel": jnp.ones((3, 9))}}
    half = jax.tree.map(lambda x: jnp.full_like(x, 3.0), tuned["body"])
    for mix in (wise_ft, jax.jit(wise_ft, static_argnames="mask") if callable(MASKS[mask]) else wise_ft):
        mixed = mix(tuned, start, 0.5, mask=MASKS[mask])
        chex.assert_trees_all_equal(mixed, {"body": half, "head": tuned["head"]})
        chex.assert_trees_all_equal(mix(tuned, start, 0.0, mask=MASKS[mask]), start | {"head": tuned["head"]})
    curve = jax.vmap(lambda alpha: wise_ft(tuned, start, alpha, mask=MASKS[mask]))(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(curve["body"]["bias"], [[2.0] * 3, [4.0] * 3])
    np.testing.assert_array_equal(curve["head"]["kernel"], jnp.ones((2, 3, 7)))


@pytest.mark.parametrize("wrap", [lambda tree: tree, lambda tree: nnx.State(jax.tree.map(nnx.Param, tree))])
def test_the_anchor_may_be_that_of_a_masked_state(wrap):
    """Which holds nothing where the mask leaves out."""
    pretrained, tuned = (wrap({"body": jnp.full(3, x), "head": jnp.full(2, x)}) for x in (2.0, 4.0))
    mask = {"body": True, "head": False}
    anchor = ftp(optax.sgd(0.1), mask=mask).init(pretrained).anchor
    mixed = wise_ft(tuned, anchor, 0.5, mask=mask)
    chex.assert_trees_all_equal(mixed, wrap({"body": jnp.full(3, 3.0), "head": jnp.full(2, 4.0)}))
    with pytest.raises(ValueError, match="'head'; one of them is masked"):
        wise_ft(tuned, anchor, 0.5)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"bias": True, "kernle": False}, ValueError, "wise_ft: the mask has an entry 'kernle', which params lacks"),
        ({"bias": True}, ValueError, "wise_ft: the mask has no entry for 'kernel'"),
        ({"bias": 1, "kernel": True}, TypeError, "wise_ft: the mask's entry at 'bias' is 1"),
        ({"bias": False, "kernel": False}, ValueError, "wise_ft: the mask constrains none of the 2 leaves"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask, error, message):
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}
    with pytest.raises(error, match=message):
        wise_ft(params, params, 0.5, mask=mask)


def test_an_nnx_state_keeps_its_type():
    model, start = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(1))
    params, anchor = nnx.state(model, nnx.Param), nnx.state(start, nnx.Param)
    mixed = wise_ft(params, anchor, 0.5)
    wanted = (np.asarray(model.kernel[...]) + np.asarray(start.kernel[...])) / 2
    assert jax.tree.structure(mixed) == jax.tree.structure(params)
    nnx.update(model, mixed)
    np.testing.assert_allclose(model.kernel[...], wanted, rtol=1e-5, atol=1e-6)


def test_an_anchor_restored_as_a_plain_dict_fits_an_nnx_state():
    params = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    anchor = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(1)), nnx.Param)
    chex.assert_trees_all_equal(wise_ft(params, nnx.to_pure_dict(anchor), 0.5), wise_ft(params, anchor, 0.5))


def test_an_empty_tree():
    assert wise_ft({}, {}, 0.5) == {}


@pytest.mark.parametrize(
    ("anchor", "path"),
    [
        ({"body": {"bias": jnp.ones(3)}}, "body/kernel"),
        ({"body": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3)), "scale": jnp.ones(3)}}, "body/scale"),
        ({"body": {"bias": jnp.ones(3), "kernel": jnp.ones((1, 3))}}, "body/kernel"),  # it would broadcast
        ({"body": {"bias": jnp.ones(3), "kernel": optax.MaskedNode()}}, "body/kernel"),
    ],
)
def test_an_anchor_that_does_not_fit_is_named(anchor, path):
    with pytest.raises(ValueError, match=path):
        wise_ft({"body": {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}}, anchor, 0.5)


@pytest.mark.parametrize("alpha", [jnp.ones(3), np.ones((1,))])
def test_more_than_one_alpha_says_vmap(alpha):
    with pytest.raises(ValueError, match=r"alpha.*jax\.vmap"):
        wise_ft({"w": jnp.ones(3)}, {"w": jnp.ones(3)}, alpha)


# which point of the line

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), 10_000, 1.0),  # an error of 0.005
        ((0.1, 0.2, 0.3, 0.4, 0.5), 25, 0.75),  # of 0.1: what lies exactly one error below is taken
        ((0.5, 0.5, 0.5, 0.5, 0.5), 100, 0.0),
        ((0.9, 0.99, 1.0, 1.0, 1.0), 50, 0.5),  # nothing wrong: no error, and equals remain
        ((0.0, 0.0, 0.0, 0.0, 0.0), 7, 0.0),
        ((0.6, 0.2, 0.61, 0.2, 0.2), 100, 0.0),  # the line need not rise and fall once
    ],
)
def test_the_smallest_share_within_one_standard_error_of_the_best(scores, count, expected):
    assert smallest_share(ALPHAS, scores, count) == expected
    backwards = smallest_share(ALPHAS[::-1], scores[::-1], count)
    assert backwards == expected, "whatever the order"


def test_without_an_error_the_smallest_of_the_best_is_taken():
    scores = (0.6, 0.61, 0.7, 0.7, 0.69)
    found = [smallest_share(ALPHAS, scores, 100, errors=errors) for errors in (0.0, 1.0, 2.0)]
    assert found == [0.5, 0.5, 0.25], "an error is 0.046"


def test_more_images_never_go_further_back():
    rng = np.random.default_rng(1)
    for _ in range(50):
        scores = rng.uniform(size=5)
        found = [smallest_share(ALPHAS, scores, count) for count in (1, 10, 100, 10_000, 10**8)]
        assert found == sorted(found)
        assert found[-1] == ALPHAS[int(scores.argmax())]
