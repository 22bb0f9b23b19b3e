"""The base optimizers of the main job: schedules, weight decay, layer-wise rates, and whose parameters are muon's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.models import create_model
from vision.networks import depth_order, path_of, split_model
from vision.optimizers import base_optimizer, decayed, learning_rate
from vision.options import TrainingOptions

OPTIMIZERS = ("adamw", "sgd", "lion", "muon")
ORDER = [
    "image/patches/kernel", "image/class_token", "image/position_embedding/embedding",
    "image/blocks/0/norm/scale", "image/blocks/0/conv/kernel", "image/blocks/0/depthwise/kernel",
    "image/blocks/1/mlp/kernel", "image/blocks/1/mlp/bias",
    "image/norm/scale", "head/kernel", "head/bias",
]  # fmt: skip
SHAPES = [(2, 2, 3, 8), (1, 1, 8), (5, 8), (8,), (3, 3, 8, 6), (3, 3, 1, 6), (16, 12), (12,), (12,), (12, 4), (4,)]
GROUPS = [ORDER[:3], ORDER[3:6], ORDER[6:8], ORDER[8:]]
KERNELS = [path for path in ORDER if path.endswith("kernel")]
MATRICES = ["image/blocks/0/conv/kernel", "image/blocks/1/mlp/kernel"]


def tree(seed: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), len(ORDER))
    flat = {path: jax.random.normal(key, shape) for path, shape, key in zip(ORDER, SHAPES, keys, strict=True)}
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *modules, name = path.split("/")
        node = nested
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return nested


def flat(nested: Any) -> dict[str, np.ndarray]:
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(nested)}


PARAMS, GRADIENT = tree(0), tree(1)


def rates_of(num_steps: int, **flags: Any) -> list[float]:
    """The learning rate at every step, and beyond the end."""
    rates: Any = learning_rate(TrainingOptions(**flags), num_steps)
    return [float(rates(step)) for step in range(2 * num_steps + 1)]


def first_update(gradient: Any = GRADIENT, params: Any = PARAMS, **flags: Any) -> dict[str, np.ndarray]:
    options = TrainingOptions(warmup=0.0, schedule="constant", **flags)
    tx = base_optimizer(options, 10, ORDER)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    return flat(updates)


@pytest.mark.parametrize("num_steps", [2, 7, 30, 125])
def test_the_default_schedule_is_optax_own(num_steps: int) -> None:
    warmup = max(1, num_steps // 10)
    expected: Any = optax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup, max(num_steps, warmup + 1))
    assert rates_of(num_steps) == [float(expected(step)) for step in range(2 * num_steps + 1)]


@pytest.mark.parametrize(("schedule", "middle", "end"), [("cosine", 0.5, 0), ("linear", 0.5, 0), ("constant", 1, 1)])
def test_schedules_at_their_corners(schedule: str, middle: float, end: float) -> None:
    rates = rates_of(100, lr=0.5, schedule=schedule, warmup=0.2)
    for step, share in ((0, 0), (10, 0.5), (20, 1), (60, middle), (100, end), (200, end)):
        assert rates[step] == pytest.approx(0.5 * share, abs=1e-7)
    quarter = {"cosine": 0.5 + 0.5 * np.cos(np.pi / 4), "linear": 0.75, "constant": 1}[schedule]
    assert rates[40] == pytest.approx(0.5 * quarter)
    at_once = rates_of(100, lr=0.5, schedule=schedule, warmup=0.0)
    assert at_once[::50] == pytest.approx([0.5, 0.5 * middle, *[0.5 * end] * 3], abs=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_run_may_be_warm_up_alone(schedule: str) -> None:
    assert rates_of(4, lr=0.5, schedule=schedule, warmup=1.0)[:5] == [0, 0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_a_run_of_one_step_learns(schedule: str) -> None:
    assert rates_of(1, lr=0.5, schedule=schedule)[0] == 0.5


def test_adamw_is_optax_adamw_to_the_bit() -> None:
    _, params = split_model(create_model("small-cnn", 10))
    options = TrainingOptions(lr=1e-2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 20)
    ours, theirs = base_optimizer(options, 20, depth_order("small-cnn")), optax.adamw(schedule, weight_decay=0.0)
    ends = []
    for tx in (optax.chain(optax.clip_by_global_norm(1.0), one) for one in (ours, theirs)):
        step, own, state = jax.jit(tx.update), params, tx.init(params)
        for index in range(3):
            gradient = jax.tree.map(lambda leaf, n=index: jnp.sin(leaf * 100 + n), params)
            updates, state = step(gradient, state, own)
            own = optax.apply_updates(own, updates)
        ends.append(own)
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (ends[0], params)), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_shrinks_kernels_alone(optimizer: Any) -> None:
    """Without a gradient nothing else moves; lr times decay is the share that is lost."""
    updates = first_update(jax.tree.map(jnp.zeros_like, GRADIENT), optimizer=optimizer, lr=0.1, weight_decay=0.5)
    for path, leaf in flat(PARAMS).items():
        lost = 0.05 * leaf if path in KERNELS else 0 * leaf
        np.testing.assert_allclose(updates[path], -lost, rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_is_decoupled(optimizer: Any) -> None:
    plain = first_update(optimizer=optimizer, lr=0.1)
    with_decay = first_update(optimizer=optimizer, lr=0.1, weight_decay=0.5)
    for path, leaf in flat(PARAMS).items():
        lost = 0.05 * leaf if path in KERNELS else 0 * leaf
        np.testing.assert_allclose(with_decay[path], plain[path] - lost, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_a_kernel_is_decayed_too() -> None:
    mask = decayed({"query": {"kernel_lora_a": jnp.ones((4, 2)), "bias": jnp.ones(4)}, "class_token": jnp.ones((1, 4))})
    assert mask == {"query": {"kernel_lora_a": True, "bias": False}, "class_token": False}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_layer_decay_scales_what_a_step_does(optimizer: Any, decay: float) -> None:
    plain = first_update(optimizer=optimizer, weight_decay=decay)
    scaled = first_update(optimizer=optimizer, weight_decay=decay, layer_decay=0.75)
    for depth, group in enumerate(GROUPS):
        for path in group:
            np.testing.assert_allclose(scaled[path], plain[path] * 0.75 ** (3 - depth), rtol=1e-6)
            assert np.abs(plain[path]).max() > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_keep_their_precision(optimizer: Any) -> None:
    params, gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (PARAMS, GRADIENT))
    updates = first_update(gradient, params, optimizer=optimizer, weight_decay=0.1, layer_decay=0.5)
    assert {leaf.dtype for leaf in updates.values()} == {jnp.dtype(jnp.bfloat16)}


def test_muon_takes_the_matrices_within() -> None:
    """Its steps are orthogonal, as long as adamw's; of all others they are adamw's."""
    muon, adamw = first_update(optimizer="muon", lr=0.1), first_update(optimizer="adamw", lr=0.1)
    for path, update in muon.items():
        if path not in MATRICES:
            np.testing.assert_allclose(update, adamw[path], rtol=1e-6)
            continue
        matrix = update.reshape(-1, update.shape[-1])
        lengths = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * max(matrix.shape) ** 0.5)
        assert (lengths > 0.6).all(), "Newton-Schulz in five steps: about 1"
        assert (lengths < 1.3).all()
        assert np.sum(update * flat(GRADIENT)[path]) < 0


def test_sgd_has_plain_momentum() -> None:
    options = TrainingOptions(optimizer="sgd", lr=0.5, warmup=0.0, schedule="constant")
    tx = base_optimizer(options, 10, ["kernel"])
    params = {"kernel": jnp.ones((2, 2))}
    state, gradient = tx.init(params), {"kernel": jnp.full((2, 2), 2.0)}
    for factor in (1, 1.9, 2.71):
        updates, state = tx.update(gradient, state, params)
        np.testing.assert_allclose(flat(updates)["kernel"], -factor, rtol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_part_of_the_network_alone_is_optimised(optimizer: Any) -> None:
    """All but the head frozen: a tree without the other leaves."""
    whole = first_update(optimizer=optimizer, layer_decay=0.5)
    head = first_update({"head": GRADIENT["head"]}, {"head": PARAMS["head"]}, optimizer=optimizer, layer_decay=0.5)
    assert head.keys() == {"head/kernel", "head/bias"}
    for path, update in head.items():
        np.testing.assert_allclose(update, whole[path], rtol=1e-6)
