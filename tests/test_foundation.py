"""The pre-trained digits model and its cache; the small model itself."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision import cache, foundation
from vision.data import Task
from vision.digits import SEEN, digits_task
from vision.foundation import pretrained_digits_model
from vision.models import DEFAULT_IMAGE_SIZE, MODELS, create_model


@pytest.fixture(scope="module", autouse=True)
def short_training() -> Iterator[None]:
    """One epoch: 19 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foundation, "EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def task() -> Task:
    return digits_task(0, smallest=True)


@pytest.fixture(scope="module")
def trained(task, tmp_path_factory) -> "Trained":
    """Trained once for the whole module, with what it left in its cache."""
    directory = tmp_path_factory.mktemp("cache")
    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTP_OPTAX_CACHE", str(directory))
        model = pretrained_digits_model(task, 0, on_step=steps)
    return Trained(model, directory, steps)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(directory))
    return directory


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf[...]) for name, leaf in foundation._by_name(nnx.state(model, nnx.Param)).items()}


def same(one: nnx.Module, other: nnx.Module) -> bool:
    one_leaves, other_leaves = weights(one), weights(other)
    assert one_leaves.keys() == other_leaves.keys()
    return all(np.array_equal(one_leaves[name], other_leaves[name]) for name in one_leaves)


class Steps(list):
    """An `on_step` that counts."""

    def __call__(self, *step) -> None:
        self.append(step)


class Trained(NamedTuple):
    model: nnx.Module
    cache: Path
    steps: Steps


def test_pretraining_teaches_the_seen_domains(task, monkeypatch):
    monkeypatch.setattr(foundation, "EPOCHS", 5)
    images = np.concatenate([task.ood[name].images for name in SEEN])
    labels = np.concatenate([task.ood[name].labels for name in SEEN])
    accuracy = nnx.jit(lambda model: (model(images).argmax(-1) == labels).mean())
    assert accuracy(create_model("small-cnn", 10)) < 0.3
    assert accuracy(pretrained_digits_model(task, 0, cache=False)) > 0.8


def test_every_step_is_reported_and_the_loss_falls(trained):
    assert [(done, total) for done, total, _ in trained.steps] == [(i, 19) for i in range(1, 20)]
    assert trained.steps[-1][2] < trained.steps[0][2]


def test_the_second_call_comes_from_the_cache_and_is_the_same(task, trained, monkeypatch):
    assert [path.suffix for path in trained.cache.iterdir()] == [".safetensors"]  # no temporary file is left
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(trained.cache))
    steps = Steps()
    assert same(trained.model, pretrained_digits_model(task, 0, on_step=steps))
    assert steps == []


def test_without_the_cache_the_result_is_the_same_and_nothing_is_stored(task, trained, own_cache):
    steps = Steps()
    assert same(trained.model, pretrained_digits_model(task, 0, cache=False, on_step=steps))
    assert steps == trained.steps
    assert not own_cache.exists()


def test_seeds_and_data_have_their_own_cache_entries(task, trained, own_cache):
    shutil.copytree(trained.cache, own_cache)
    assert not same(trained.model, pretrained_digits_model(task, 1))
    assert not same(trained.model, pretrained_digits_model(digits_task(1, smallest=True), 0))
    assert len(list(own_cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncated", "other arrays"])
def test_a_damaged_cache_file_is_built_anew(task, trained, own_cache, damage):
    shutil.copytree(trained.cache, own_cache)
    (path,) = own_cache.iterdir()
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        cache.store_arrays(path.stem, {"head/kernel": np.zeros((2, 2), np.float32)})
    steps = Steps()
    assert same(trained.model, pretrained_digits_model(task, 0, on_step=steps))
    assert len(steps) == 19
    assert path.read_bytes() == content


def test_bfloat16_is_the_float32_result_cast(task, trained, monkeypatch):
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(trained.cache))
    half = pretrained_digits_model(task, 0, dtype=jnp.bfloat16)
    assert len(list(trained.cache.iterdir())) == 1
    full = weights(trained.model)
    for name, value in weights(half).items():
        assert value.dtype == jnp.bfloat16
        np.testing.assert_array_equal(value, full[name].astype(jnp.bfloat16))


def test_a_task_without_pretraining_data_is_an_error(task):
    bare = Task(**{**vars(task), "pretrain": None})
    with pytest.raises(ValueError, match="'digits' has no pre-training data"):
        pretrained_digits_model(bare, 0)


# The cache


def test_the_cache_directory(monkeypatch, own_cache):
    assert cache.cache_dir() == own_cache
    monkeypatch.delenv("FTP_OPTAX_CACHE")
    assert cache.cache_dir().name == "ftp_optax"
    assert cache.cache_dir().is_absolute()


def test_a_cache_that_cannot_be_written_is_a_warning(own_cache):
    own_cache.write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="FTP_OPTAX_CACHE"):
        cache.store_arrays("key", {"x": np.zeros(2)})
    assert cache.load_arrays("key") is None


def test_a_store_that_fails_half_way_leaves_the_old_entry(monkeypatch, own_cache):
    cache.store_arrays("key", {"x": np.zeros(2)})

    def disk_full(arrays, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "save_file", disk_full)
    with pytest.warns(UserWarning, match="no space left"):
        cache.store_arrays("key", {"x": np.ones(2)})
    loaded = cache.load_arrays("key")
    assert loaded is not None
    np.testing.assert_array_equal(loaded["x"], np.zeros(2))
    assert len(list(own_cache.iterdir())) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unnoticed(own_cache, data):
    arrays = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    cache.store_arrays("key", arrays)
    (path,) = own_cache.iterdir()
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.integers(position + 1, len(content)))])
    loaded = cache.load_arrays("key")
    # Either refused, or the change was in a byte without meaning (white space in the header).
    assert loaded is None or cache.digest(loaded) == cache.digest(arrays)


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.zeros(3)},
        {"y": np.zeros(2)},
        {"x": np.zeros(2, np.float32)},
        {"x": np.zeros((1, 2))},
        {"x": np.ones(2)},
    ],
)
def test_the_digest_tells_names_dtypes_shapes_and_values_apart(other):
    assert cache.digest({"x": np.zeros(2)}) != cache.digest(other)
    assert cache.digest(other, "a") != cache.digest(other, "b")
    assert re.fullmatch("[0-9a-f]{64}", cache.digest(other))


# The small model


def test_the_small_cnn_is_small():
    assert sum(value.size for value in weights(create_model("small-cnn", 10)).values()) == 153_418


@pytest.mark.parametrize(("size", "dtype"), [(8, jnp.float32), (33, jnp.float32), (16, jnp.bfloat16)])
def test_any_image_size_gives_float32_logits(size, dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
    model = create_model("small-cnn", 7, dtype=dtype)
    apply = nnx.jit(lambda model, images: model(images))
    logits = apply(model, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    np.testing.assert_array_equal(apply(model, images.astype(np.float32)), logits)
    assert {value.dtype for value in weights(model).values()} == {jnp.dtype(dtype)}
    assert isinstance(model.head, nnx.Linear)


def test_every_parameter_of_the_small_cnn_has_a_gradient():
    graph, params = nnx.split(create_model("small-cnn", 10), nnx.Param)
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    grads = jax.jit(jax.grad(lambda params: nnx.merge(graph, params)(images)[:, 0].sum()))(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_the_seed_decides_the_initial_weights():
    assert same(create_model("small-cnn", 10, seed=1), create_model("small-cnn", 10, seed=1))
    assert not same(create_model("small-cnn", 10, seed=1), create_model("small-cnn", 10, seed=2))


def test_an_unknown_model_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=re.escape(f"choose one of {', '.join(MODELS)}")):
        create_model("resnet", 10)
    assert DEFAULT_IMAGE_SIZE.keys() == set(MODELS)
