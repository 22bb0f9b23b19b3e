"""safetensors and Orbax weights: everything comes back, or one line says what is wrong."""

import errno
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from counting import count
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision import weights
from vision.errors import UserError
from vision.files import atomic_write

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Net(nnx.Module):
    def __init__(self, classes: int = 3, dtype: object = jnp.float32, width: int = 4) -> None:
        rngs = nnx.Rngs(classes)
        self.blocks = nnx.List([nnx.Linear(2, width, param_dtype=dtype, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)  # has random state, which is no weight
        self.head = nnx.Linear(width, classes, param_dtype=dtype, rngs=rngs)


class FrozenScale(nnx.Module):
    def __init__(self) -> None:
        self.scale = nnx.BatchStat(jnp.ones(300))


PATHS = {"blocks/0/bias", "blocks/0/kernel", "head/bias", "head/kernel"}
PATHS |= {"norm/bias", "norm/mean", "norm/scale", "norm/var"}


def shifted(net: Net) -> Net:
    """Makes every leaf differ from its initial value."""
    for _, node in nnx.iter_graph(net):
        if isinstance(node, nnx.Param | nnx.BatchStat):
            node[...] = node[...] + 1
    return net


def save(kind: str, directory: Path, net: nnx.Module) -> Path:
    path = directory / ("weights.safetensors" if kind == "safetensors" else "checkpoint")
    if kind in ("safetensors", "orbax"):
        {"safetensors": weights.save_safetensors, "orbax": weights.save_orbax}[kind](path, net)
        return path
    state = nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, nnx.to_pure_dict(state) if kind == "pure dict" else state)
    return path


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["safetensors", "orbax", "pure dict", "state"])
def test_weights_come_back(tmp_path: Path, kind: str, dtype: object) -> None:
    saved, loaded = shifted(Net(dtype=dtype)), Net(dtype=dtype)
    assert weights.load_pretrained(save(kind, tmp_path, saved), loaded) == ()
    expected, actual = weights.model_arrays(saved), weights.model_arrays(loaded)
    assert expected.keys() == actual.keys() == PATHS
    for path in PATHS:
        assert actual[path].dtype == (jnp.float32 if path.startswith("norm") else dtype)
        np.testing.assert_array_equal(actual[path], expected[path])


def test_safetensors_keep_paths_dtypes_and_metadata(tmp_path: Path) -> None:
    net, path = Net(dtype=jnp.bfloat16), tmp_path / "new folder" / "w.safetensors"
    weights.save_safetensors(path, net, {"model": "small-cnn", "classes": '["a", "b"]'})
    tensors = weights.load_safetensors(path)
    assert tensors.keys() == PATHS
    assert tensors["head/kernel"].dtype == ml_dtypes.bfloat16
    metadata = weights.load_metadata(path)
    assert metadata == {"format": "flax", "model": "small-cnn", "classes": '["a", "b"]'}


@pytest.mark.parametrize("kind", ["safetensors", "orbax"])
def test_weights_are_cast_to_the_models_dtype(tmp_path: Path, kind: str) -> None:
    saved, loaded = shifted(Net()), Net(dtype=jnp.bfloat16)
    weights.load_pretrained(save(kind, tmp_path, saved), loaded)
    expected = saved.head.kernel[...].astype(jnp.bfloat16)
    np.testing.assert_array_equal(loaded.head.kernel[...], expected)


def test_loaded_weights_are_committed_to_a_device_as_the_old_ones_were(tmp_path: Path) -> None:
    """Weights that were, beside a fresh head that was not: after a step all are, and it compiles a second time."""
    path = tmp_path / "net.safetensors"
    weights.save_safetensors(path, Net(5))
    free, placed = Net(3), Net(3)
    nnx.update(placed, jax.device_put(nnx.state(placed, nnx.Param), jax.devices()[1]))
    for model, committed in ((free, False), (placed, True)):
        weights.load_pretrained(path, model)
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        assert {leaf.committed for leaf in leaves} == {committed}
    assert {leaf.device for leaf in leaves} == {jax.devices()[1]}


@pytest.mark.parametrize("kind", ["safetensors", "orbax"])
def test_another_number_of_classes_leaves_the_head(tmp_path: Path, kind: str) -> None:
    saved, loaded, untouched = shifted(Net()), Net(5), Net(5)
    skipped = weights.load_pretrained(save(kind, tmp_path, saved), loaded)
    assert skipped == ("head/bias", "head/kernel")
    np.testing.assert_array_equal(loaded.head.kernel[...], untouched.head.kernel[...])
    np.testing.assert_array_equal(loaded.norm.mean[...], saved.norm.mean[...])


def misfit(tmp_path: Path, tensors: dict[str, np.ndarray], reason: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors))
    net = Net()
    before = weights.model_arrays(net)
    with pytest.raises(UserError, match=reason) as caught:
        weights.load_pretrained(path, net)
    assert str(caught.value).startswith(f"{path}: does not fit Net: ")
    assert "\n" not in str(caught.value)
    for name, array in weights.model_arrays(net).items():  # checked first, then changed
        np.testing.assert_array_equal(array, before[name])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    good = {path: np.asarray(array) for path, array in weights.model_arrays(shifted(Net())).items()}
    without = {path: array for path, array in good.items() if "norm" not in path}
    misfit(tmp_path, without, "has no norm/bias, norm/mean, norm/scale and 1 more; give")
    misfit(tmp_path, good | {"stem/kernel": good["norm/bias"]}, "has unknown stem/kernel; give")
    wide = good | {"norm/mean": np.zeros(9, np.float32)}
    misfit(tmp_path, wide, r"has norm/mean of shape \(9,\), not \(4,\); give")
    whole = good | {"norm/mean": np.zeros(4, np.int32)}
    misfit(tmp_path, whole, "has norm/mean of dtype int32; give")
    # A head of which only one leaf has another number of classes is no head.
    misfit(tmp_path, good | {"head/bias": np.zeros(5, np.float32)}, r"head/bias of shape \(5,\)")
    narrow = good | {"head/kernel": np.zeros((7, 5), np.float32), "head/bias": np.zeros(5, "f4")}
    misfit(tmp_path, narrow, r"head/kernel of shape \(7, 5\), not \(4, 3\)")


def unreadable(path: Path, reason: str) -> None:
    count("damaged safetensors and Orbax files refused")
    with pytest.raises(UserError, match=reason) as caught:
        weights.load_pretrained(path, Net())
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    unreadable(tmp_path / "none.safetensors", "does not exist")
    text_file = tmp_path / "text.safetensors"
    text_file.write_text("hello")
    unreadable(text_file, "not a readable safetensors file")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        weights.load_metadata(text_file)
    unreadable(tmp_path, "not a whole Orbax checkpoint")


def test_a_half_written_file_is_refused(tmp_path: Path) -> None:
    path = save("safetensors", tmp_path, Net())
    data = path.read_bytes()
    for length in range(0, len(data), 11):
        path.write_bytes(data[:length])
        unreadable(path, "not a readable safetensors file")


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_header_is_read_or_refused(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    tensors = {"a": np.ones((2, 3), np.float32), "b/c": np.ones(4, ml_dtypes.bfloat16)}
    count("mutated safetensors files")
    data = bytearray(safetensors.numpy.save(tensors, {"key": "value"}))
    for position, value in edits:
        data[position % len(data)] = value
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    try:
        found, _ = weights.load_safetensors(path), weights.load_metadata(path)
    except UserError:  # any other exception fails the test
        return
    assert sum(math.prod(array.shape) for array in found.values()) <= len(data)


def test_a_damaged_orbax_directory_is_refused(tmp_path: Path) -> None:
    # One array alone: of several, Orbax abandons those in flight at the first that fails, and
    # TensorStore then complains about a closed event loop at a time of its own choosing.
    path = save("orbax", tmp_path, FrozenScale())
    with pytest.raises(UserError, match="exists already"):
        weights.save_orbax(path, FrozenScale())
    for file in path.rglob("d/*"):
        file.write_bytes(file.read_bytes()[:10])
    unreadable(path, "not a checkpoint of a model's state")
    (path / "_METADATA").write_text("{")
    unreadable(path, "not a checkpoint of a model's state")
    (path / "_METADATA").unlink()
    unreadable(path, "not a whole Orbax checkpoint")


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    atomic_write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*report\.json"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
