"""Mixup, CutMix and smoothed labels: shares that are right, and no communication between devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vision.mixing import mixed, soft_targets


def batch(rows: int, height: int = 12, width: int = 9) -> tuple[jax.Array, jax.Array]:
    """Noise in uint8, each row of a class of its own."""
    images = np.random.default_rng(rows).integers(0, 256, (rows, height, width, 3), dtype=np.uint8)
    return jnp.asarray(images), jnp.eye(rows)


def partners(rows: int) -> list[int]:
    """Who is mixed with whom, in plain words: 0 with 1, 2 with 3; who is left over with nobody."""
    return [row + 1 if row % 2 == 0 and row + 1 < rows else row - 1 if row % 2 else row for row in range(rows)]


@functools.cache
def compiled(mixup: float, cutmix: float):
    return jax.jit(functools.partial(mixed, mixup=mixup, cutmix=cutmix))


def shares(targets: np.ndarray) -> np.ndarray:
    """Each row's share of its own class."""
    return np.diagonal(targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_spreads_a_share_over_all_classes(smoothing: float) -> None:
    targets = soft_targets(jnp.array([2, 0]), 4, smoothing)
    assert targets.dtype == jnp.float32
    expected = np.full((2, 4), smoothing / 4)
    expected[0, 2] += 1 - smoothing
    expected[1, 0] += 1 - smoothing
    np.testing.assert_allclose(targets, expected, rtol=1e-6)


def test_smoothing_of_nothing_is_exact() -> None:
    np.testing.assert_array_equal(soft_targets(jnp.array([1, 1, 0]), 2, 0.0), [[0, 1], [0, 1], [1, 0]])


def test_no_mixing_gives_back_the_arguments() -> None:
    images, targets = batch(4)
    same = mixed(jax.random.key(0), images, targets, mixup=0, cutmix=0)
    assert same[0] is images
    assert same[1] is targets
    text = jax.jit(functools.partial(mixed, mixup=0, cutmix=0)).lower(jax.random.key(0), images, targets).as_text()
    assert "stablehlo." not in text


@settings(deadline=None, max_examples=40)
@given(rows=st.sampled_from([1, 2, 5]), seed=st.integers(0, 2**31), alpha=st.sampled_from([0.1, 1.0]))
def test_mixup_blends_both_by_one_share(rows: int, seed: int, alpha: float) -> None:
    images, targets = batch(rows)
    blended, labels = map(np.asarray, compiled(alpha, 0.0)(jax.random.key(seed), images, targets))
    kept, other = shares(labels)[0] if rows > 1 else 1.0, partners(rows)
    assert 0 <= kept <= 1
    wide, one_hot = np.asarray(images, np.float64), np.eye(rows)
    np.testing.assert_allclose(blended, kept * wide + (1 - kept) * wide[other], atol=1e-3)
    np.testing.assert_allclose(labels, kept * one_hot + (1 - kept) * one_hot[other], atol=1e-6)
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(rows=st.sampled_from([2, 5]), sides=st.sampled_from([(12, 9), (1, 1), (1, 30)]), seed=st.integers(0, 2**31))
def test_cutmix_shares_labels_by_the_pixels(rows: int, sides: tuple[int, int], seed: int) -> None:
    images, targets = batch(rows, *sides)
    # All rows differ everywhere, so that what came from where can be read off the result.
    images = images // 8 * 8 + jnp.arange(rows, dtype=jnp.uint8)[:, None, None, None]
    pasted, labels = map(np.asarray, compiled(0.0, 1.0)(jax.random.key(seed), images, targets))
    own, theirs = np.asarray(images), np.asarray(images)[partners(rows)]
    from_own = (pasted == own).all(-1)
    assert ((pasted == theirs).all(-1) | from_own).all()
    assert (from_own[: rows // 2 * 2] == from_own[0]).all()  # one rectangle for the batch
    for row in range(rows - rows % 2):
        cut = ~from_own[row]
        np.testing.assert_array_equal(cut, cut.any(1)[:, None] & cut.any(0)[None, :])
        for side in (cut.any(1), cut.any(0)):  # a rectangle is in one piece
            assert np.count_nonzero(np.diff(np.concatenate([[0], side.astype(int), [0]]))) in (0, 2)
        np.testing.assert_allclose(labels[row, row], from_own[row].mean(), atol=2e-7)
        np.testing.assert_allclose(labels[row, partners(rows)[row]], 1 - from_own[row].mean(), atol=2e-7)
    if rows % 2:
        np.testing.assert_array_equal(pasted[-1], own[-1])
        np.testing.assert_array_equal(labels[-1], np.eye(rows)[-1])


@functools.cache
def many(mixup: float, cutmix: float, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels were kept and what share the labels say, for 4000 keys."""
    images = jnp.zeros((2, *sides, 1)).at[1].set(1.0)  # the second is 1: what remains of it is what is kept
    keys = jax.random.split(jax.random.key(7), 4000)
    step = lambda key: mixed(key, images, jnp.eye(2), mixup=mixup, cutmix=cutmix)
    kept, labels = jax.jit(functools.partial(jax.lax.map, step))(keys)
    return np.asarray(kept)[:, 1, :, :, 0], np.asarray(labels)[:, 1, 1]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 4.0])
def test_shares_of_mixup_are_of_the_beta_distribution(alpha: float) -> None:
    _, labels = many(alpha, 0.0, (2, 2))
    assert abs(labels.mean() - 0.5) < 0.03
    assert labels.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def zhang_and_yun(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The paper's rectangle (Yun et al. 2019, appendix A), clipped at the border, by hand."""
    ratio = np.sqrt(1 - rng.beta(1, 1))
    cut_h, cut_w = int(height * ratio), int(width * ratio)
    y, x = rng.integers(height) - cut_h // 2, rng.integers(width) - cut_w // 2
    kept = np.ones((height, width))
    kept[max(y, 0) : max(y + cut_h, 0), max(x, 0) : max(x + cut_w, 0)] = 0
    return kept


def test_rectangles_of_cutmix_are_the_papers() -> None:
    sides = (24, 16)
    found, labels = many(0.0, 1.0, sides)
    rng = np.random.default_rng(0)
    expected = np.array([zhang_and_yun(rng, *sides) for _ in range(4000)])
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.05)  # how often each pixel is kept
    quantiles = (0.1, 0.3, 0.5, 0.7, 0.9)
    np.testing.assert_allclose(np.quantile(labels, quantiles), np.quantile(expected.mean((1, 2)), quantiles), atol=0.03)


def test_both_are_drawn_half_of_the_time() -> None:
    kept, labels = many(0.8, 1.0, (24, 16))
    blended = ((kept > 0) & (kept < 1)).all((1, 2))
    assert abs(blended.mean() - 0.5) < 0.04
    assert set(np.unique(kept[~blended])) <= {0.0, 1.0}
    np.testing.assert_allclose(kept.mean((1, 2)), labels, atol=1e-5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_a_key_says_all_and_jit_changes_nothing(mixup: float, cutmix: float) -> None:
    images, targets = batch(6)
    step = functools.partial(mixed, mixup=mixup, cutmix=cutmix)
    first, again, other = (step(jax.random.key(seed), images, targets) for seed in (0, 0, 1))
    jitted = compiled(mixup, cutmix)(jax.random.key(0), images, targets)
    for one, same, fast in zip(first, again, jitted, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, same)
        np.testing.assert_allclose(one, fast, rtol=1e-6, atol=1e-4)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bfloat16, jnp.float32])
def test_images_of_any_type_are_mixed_in_float32(dtype: jnp.dtype) -> None:
    images, targets = batch(4)
    made, _ = compiled(0.8, 1.0)(jax.random.key(3), images.astype(dtype), targets)
    expected, _ = compiled(0.8, 1.0)(jax.random.key(3), images.astype(dtype).astype(jnp.float32), targets)
    assert made.dtype == jnp.float32
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_devices_do_not_talk(axis_type: AxisType) -> None:
    """Two rows on each of eight devices: the result is that of one device, and nothing is sent."""
    images, targets = batch(16)
    expected = compiled(0.8, 1.0)(jax.random.key(0), images, targets)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    key = jax.device_put(jax.random.key(0), whole)
    arguments = key, jax.device_put(images, rows), jax.device_put(targets, rows)
    program = jax.jit(functools.partial(mixed, mixup=0.8, cutmix=1.0)).lower(*arguments).compile()
    assert not re.findall(r"all-\w+|collective-\w+|reduce-scatter", program.as_text() or "")
    for found, wanted in zip(program(*arguments), expected, strict=True):
        assert found.sharding.is_equivalent_to(rows, found.ndim)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-4)


def test_one_row_a_device_is_mixed_too() -> None:
    images, targets = batch(8)
    rows = NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), P("data"))
    found = compiled(0.8, 1.0)(jax.random.key(0), jax.device_put(images, rows), jax.device_put(targets, rows))
    for one, wanted in zip(found, compiled(0.8, 1.0)(jax.random.key(0), images, targets), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-6, atol=1e-4)
