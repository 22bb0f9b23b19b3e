"""Pre-trained models from their files: what torch computes of them, the same bytes back, and what is refused."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from pretrained.load import Pretrained, load, save
from pretrained.outputs import outputs
from vision.errors import UserError

DATA = Path(__file__).parent / "data"
MODELS = [
    *sorted(path.parent for scheme in ("hf", "timm") for path in (DATA / scheme).glob("*/config.json")),
    *sorted(path for path in (DATA / "big_vision").glob("*.npz") if not path.name.endswith(".expected.npz")),
]
BASES = ("clip", "convnext", "dinov2", "resnet", "siglip", "swin", "vit")


def named(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@functools.cache
def loaded(path: Path) -> Pretrained:
    return load(path)


def reference(path: Path) -> dict[str, np.ndarray]:
    """Inputs, and what torch makes of them."""
    with np.load(path / "expected.npz" if path.is_dir() else path.with_suffix(".expected.npz")) as file:
        return dict(file)


def computed(model: Pretrained, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What we make of the inputs of a reference, and of the larger images with the same texts."""
    inputs = {name: arrays[name] for name in ("pixels", "ids") if name in arrays}
    found = outputs(model, inputs)
    if "pixels_larger" in arrays:
        larger = outputs(model, inputs | {"pixels": arrays["pixels_larger"]})
        found |= {f"{name}_larger": array for name, array in larger.items()}
    return found


@pytest.mark.parametrize("path", MODELS, ids=named)
def test_every_output_is_that_of_torch(path: Path) -> None:
    expected = reference(path)
    found = computed(loaded(path), expected)
    names = expected.keys() - {"pixels", "ids", "pixels_larger"}
    assert names, "a reference has outputs"
    for name in sorted(names):
        assert found[name].shape == expected[name].shape, name
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max(), name


@pytest.mark.parametrize("path", MODELS, ids=named)
def test_files_come_back_as_they_were(path: Path, tmp_path: Path) -> None:
    save(loaded(path), tmp_path)
    written = sorted(file.name for file in tmp_path.iterdir())
    source = path if path.is_dir() else path.parent
    assert written == (sorted(file.name for file in path.glob("model*")) if path.is_dir() else [path.name])
    for name in written:
        if name.endswith(".npz"):
            with np.load(tmp_path / name) as new, np.load(source / name) as old:
                assert new.files == old.files
                assert all(np.array_equal(new[key], old[key]) and new[key].dtype == old[key].dtype for key in old.files)
        else:
            assert (tmp_path / name).read_bytes() == (source / name).read_bytes(), name
