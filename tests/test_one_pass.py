"""Sums in one pass are the sums, wherever and however they are taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import _one_pass

AFTER = jnp.zeros(())


def best_here(arrays, axes, after):
    """The sums that suit the platform, as a step takes them."""
    piece = lambda one, other, after, *, layout, sums: sums([one, other], layout, after)
    return _one_pass.in_turn(piece, [axes], [arrays], after)[0]


def some(shape, dtype=jnp.float32):
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw(shape), dtype) for _ in range(2)]


def products(arrays):
    return [arrays[0] * arrays[1], jnp.abs(arrays[1])]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((48, 5), (0,)),
        ((5, 48), (1,)),
        ((48, 5), (0, 1)),
        ((3, 3, 16, 8), (0, 1, 2)),
        ((2, 60, 7), (1,)),
        ((2, 23), (1,)),  # no rows to cut into
        ((23, 48), ()),
        ((0, 5), (0,)),
        ((48, 0), (0,)),
        ((), ()),
    ],
)
def test_they_are_the_plain_sums(shape, axes):
    arrays = some(shape)
    found = jax.jit(lambda a: best_here(products(a), axes, AFTER))(arrays)
    for got, array in zip(found, products(arrays), strict=True):
        np.testing.assert_allclose(got, np.sum(np.float64(array), axes, keepdims=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("after", [0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])
def test_nothing_leaks_from_what_is_waited_for(after):
    arrays = some((48, 5))
    expected = best_here(arrays, (0,), AFTER)
    for got, sums in zip(best_here(arrays, (0,), jnp.array([after, 2.0])), expected, strict=True):
        np.testing.assert_array_equal(got, sums)


def test_there_may_be_nothing_to_wait_for():
    arrays = some((48, 5))
    np.testing.assert_array_equal(best_here(arrays, (0,), jnp.zeros(0))[0], best_here(arrays, (0,), AFTER)[0])


def test_what_is_not_finite_stays_in_its_column():
    arrays = some((48, 5))
    arrays[0] = arrays[0].at[3, 1].set(jnp.nan).at[7, 2].set(jnp.inf)
    found = best_here(arrays, (0,), AFTER)[0][0]
    assert np.isnan(found[1])
    assert np.isposinf(found[2])
    assert np.isfinite(found[jnp.array([0, 3, 4])]).all()


def test_a_long_column_is_summed_as_exactly_as_by_jax():
    arrays = some((24 * 2**14, 2))
    exact = [np.sum(np.float64(a), 0) for a in products(arrays)]
    for got, plain, true in zip(
        best_here(products(arrays), (0,), AFTER), (jnp.sum(a, 0) for a in products(arrays)), exact, strict=True
    ):
        assert np.abs(got[0] - true).max() <= 4 * np.abs(plain - true).max() + 1e-7 * np.abs(true).max()


def test_it_can_be_differentiated_and_vectorised():
    arrays = some((2, 48, 5))
    total = lambda a: sum(jnp.sum(jnp.square(s)) for s in best_here(products(a), (0,), a[0][0]))
    plain = lambda a: sum(jnp.sum(jnp.square(jnp.sum(x, 0))) for x in products(a))
    for got, expected in zip(jax.vmap(jax.grad(total))(arrays), jax.vmap(jax.grad(plain))(arrays), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_an_array_is_read_once_on_one_device_and_nothing_is_sent_on_a_mesh():
    """The rows would cut what lies on several devices: there the sums are plain, one all-reduce for both."""
    shape = jax.ShapeDtypeStruct((768, 512), jnp.float32)
    sums = jax.jit(lambda a, b: best_here([a * b, jnp.abs(b)], (0,), AFTER))
    analysis: Any = sums.lower(shape, shape).compile().cost_analysis()
    streams = analysis["bytes accessed"] / (4 * shape.size)
    assert 2 < streams < 2.2
    place = NamedSharding(jax.make_mesh((8,), ("data",)), P("data"))
    placed = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
    text = sums.lower(placed, placed).compile().as_text() or ""
    assert text.count(" all-reduce(") == 1
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


def test_accelerators_are_given_plain_sums():
    """Asked of the lowered text alone: no accelerator is needed."""
    shape = jax.ShapeDtypeStruct((768, 512), jnp.float32)
    sums = jax.jit(lambda a, b: best_here([a * b, jnp.abs(b)], (0,), AFTER))
    traced = sums.trace(shape, shape)
    assert "768x512" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "24x32x512" in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("tpu", "cuda"):
        assert "24x32x512" not in traced.lower(lowering_platforms=(platform,)).as_text()
