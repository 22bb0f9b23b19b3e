"""Convolutional models and Swin in what their recorded outputs do not show."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pretrained.convnext import GlobalResponseNorm
from pretrained.load import load
from pretrained.outputs import outputs
from vision.errors import UserError

HF = Path(__file__).parent / "data" / "hf"
TIMM = Path(__file__).parent / "data" / "timm"


def test_the_gradient_of_a_channel_without_response_is_finite() -> None:
    norm = GlobalResponseNorm(3, (1, 1, 1))
    norm.weight.set_value(jnp.ones((1, 1, 1, 3)))
    x = jnp.ones((2, 4, 4, 3)).at[..., 1].set(0)

    gradient = jax.grad(lambda x: norm(x).sum())(x)

    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[..., 1], 1, rtol=1e-6)


def test_an_image_of_less_than_a_pixel_in_the_last_map_is_refused() -> None:
    with pytest.raises(UserError, match=r"images of \(32, 31\) pixels: this ConvNeXt needs \(32, 32\) at least"):
        outputs(load(HF / "convnext"), {"pixels": np.zeros((1, 3, 32, 31), np.float32)})


def test_a_map_of_less_than_a_window_is_refused_as_by_transformers() -> None:
    with pytest.raises(UserError, match=r"images too small: a map of \(4, 3\) is less than a window of \(4, 4\)"):
        outputs(load(HF / "swin"), {"pixels": np.zeros((1, 3, 16, 12), np.float32)})


@pytest.mark.parametrize("name", ["resnet", "convnext", "convnextv2-features", "swin"])
def test_bfloat16_parameters_compute_near_float32(name: str) -> None:
    inputs = {"pixels": np.load(HF / name / "expected.npz")["pixels"]}

    wide, narrow = (outputs(load(HF / name, dtype=dtype), inputs) for dtype in (jnp.float32, jnp.bfloat16))

    for key, array in wide.items():
        np.testing.assert_allclose(narrow[key], array, atol=0.05 * np.abs(array).max())


def test_the_statistics_of_batch_norms_are_no_parameters_and_stay_float32() -> None:
    model = load(HF / "resnet", dtype=jnp.bfloat16).model

    statistics = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    assert {leaf.dtype for leaf in statistics} == {jnp.dtype(jnp.float32)}
    gradient = nnx.grad(lambda model: model.outputs(jnp.ones((1, 32, 32, 3)))["logits"].sum())(model)
    assert len(jax.tree.leaves(gradient)) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))


def altered(directory: Path, to: Path, architecture: str, **arguments: object) -> Path:
    """The same weights, said to be of another architecture."""
    config = json.loads((directory / "config.json").read_text()) | {"architecture": architecture}
    config["model_args"] |= arguments
    (to / "config.json").write_text(json.dumps(config))
    shutil.copy(directory / "model.safetensors", to)
    return to


def test_a_null_layer_scale_means_none_in_timm(tmp_path: Path) -> None:
    expected = np.load(TIMM / "convnextv2_atto" / "expected.npz")
    same = altered(TIMM / "convnextv2_atto", tmp_path, "convnext_atto", use_grn=True, ls_init_value=None)

    actual = outputs(load(same), {"pixels": expected["pixels"]})

    np.testing.assert_allclose(actual["logits"], expected["logits"], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50d", "resnet50_gn", "resnetv2_50", "resnext50_32x4d", "wide_resnet50_2"])
def test_a_resnet_of_another_graph_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'architecture = "{name}" is not supported'):
        load(altered(TIMM / "resnet50", tmp_path, name))
