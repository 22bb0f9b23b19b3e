"""timm's `config.json`: what an architecture's name stands for, which record wins, what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from pretrained import timm
from pretrained.classifier import classify
from pretrained.finetuned import load_finetuned, save_finetuned
from pretrained.load import load
from pretrained.outputs import outputs
from pretrained.preprocessing import read_preprocessing
from vision.errors import UserError
from vision.weights import model_variables

DATA = Path(__file__).parent / "data" / "timm"
VIT = DATA / "vit_base_patch16_224"
LABELS = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")


def published(architecture: str, size: int = 224, **others: Any) -> dict[str, Any]:
    """A configuration as those of released weights: without `model_args`."""
    about = {"input_size": [3, size, size], "fixed_input_size": True, "num_classes": 0}
    return {"architecture": architecture, "num_classes": 0, "pretrained_cfg": about} | others


def tiny(**changed: Any) -> dict[str, Any]:
    return json.loads((VIT / "config.json").read_text()) | changed


def with_arguments(**changed: Any) -> dict[str, Any]:
    config = tiny()
    return config | {"model_args": config["model_args"] | changed}


# Parameters without a classifier, counted by timm 1.0.31; heads are seen in no shape.
@pytest.mark.parametrize(
    ("architecture", "size", "parameters", "heads"),
    [
        ("vit_tiny_patch16_384", 384, 5597376, 3),
        ("vit_base_patch32_224", 224, 87455232, 12),
        ("vit_base_patch16_gap_224", 224, 85797120, 16),
        ("vit_base_patch16_plus_240", 240, 116660992, 14),
        ("vit_so150m2_patch16_reg1_gap_256", 256, 135226560, 13),
        ("vit_so400m_patch14_siglip_384", 384, 428225600, 16),
        ("vit_large_patch14_clip_336", 336, 303507456, 16),
        ("vit_small_patch14_reg4_dinov2", 518, 22057344, 6),
        ("vit_giant_patch14_dinov2", 518, 1136479232, 24),
        ("vit_small_plus_patch16_dinov3_qkvb", 256, 28692480, 6),
        ("deit3_medium_patch16_224", 224, 38336512, 8),
    ],
)
def test_a_name_stands_for_sizes(architecture: str, size: int, parameters: int, heads: int) -> None:
    model: Any = nnx.eval_shape(timm.read(published(architecture, size), (), "config.json").build)
    assert sum(np.prod(variable.shape) for variable in model_variables(model).values()) == parameters
    assert model.image.config.blocks.heads == heads


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_18x2_224",  # two attentions side by side
        "vit_base_patch16_xp_224",  # RMS norms
        "vit_base_patch17_224",
        "vit_7b_patch16_dinov3_qkvb",
        "vit_enormous_patch16_dinov3",
        "deit_base_distilled_patch16_224",
        "eva02_base_patch14_224",
    ],
)
def test_an_unknown_architecture_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f'config.json: architecture = "{name}" is not supported; supported are'):
        timm.read(published(name), (), "config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_arguments(norm_layer="rmsnorm"), 'model_args: norm_layer = "rmsnorm" is not supported; no loader here'),
        (with_arguments(epsilon=1.0), "model_args: epsilon = 1.0 is not supported; no loader here"),
        (with_arguments(gated=True), "model_args: gated = true is not supported; no loader here"),
        (with_arguments(qk_norm=True), "model_args: qk_norm = true is not supported; supported: False"),
        (with_arguments(act_layer="elu"), 'model_args: act_layer = "elu" is not supported; supported: gelu, gelu_tanh'),
        (with_arguments(global_pool="max"), 'model_args: global_pool = "max" is not supported; supported: token, avg'),
        (with_arguments(global_pool="avg"), 'config.json: global_pool = "token" is not supported; supported: avg'),
        (with_arguments(num_classes=9), "model_args: num_classes = 9 is not supported; the file itself says 7"),
        (with_arguments(class_token=False), 'global_pool = "token" is not supported; there is no class token'),
        (with_arguments(num_heads=3), "num_heads = 3 is not supported; it must divide embed_dim = 16"),
        (with_arguments(img_size=3), r"patch_size = \[4, 4\] is not supported; it must not exceed img_size = \(3, 3\)"),
        (with_arguments(in_chans=1), "model_args: in_chans = 1 is not supported; supported: 3"),
        (tiny(num_features=32), "num_features = 32 is not supported; supported: 16"),
        (tiny(label_names=["ant"]), r'label_names = \["ant"\] is not supported; 7 names are needed'),
        (tiny(pretrained_cfg={"label_offset": 1}), "pretrained_cfg: label_offset = 1 is not supported; supported: 0"),
        (tiny(pretrained_cfg={"speed": 2}), "pretrained_cfg: speed = 2 is not supported; no loader here"),
        (tiny(notes="mine"), 'config.json: notes = "mine" is not supported; no loader here knows this field'),
    ],
)
def test_what_a_configuration_asks_for_is_followed_or_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.read(config, (), "config.json")


@pytest.mark.parametrize(
    ("given", "names"),
    [(list(LABELS), LABELS), ({str(i): name for i, name in enumerate(LABELS)}, LABELS), (None, None)],
)
def test_the_classes_have_the_names_of_the_file(given: object, names: tuple[str, ...] | None) -> None:
    assert timm.read(tiny(label_names=given), (), "config.json").classes == names


def test_null_takes_layer_scale_away() -> None:
    read = timm.read(
        published("deit3_small_patch16_224", model_args={"init_values": None, "depth": 1}), (), "config.json"
    )
    model: Any = nnx.eval_shape(read.build)
    assert not model.image.blocks[0].layer_scale


def test_a_file_is_read_with_the_configuration_beside_it() -> None:
    pixels = {"pixels": np.load(VIT / "expected.npz")["pixels"]}
    found, expected = (outputs(load(path), pixels)["logits"] for path in (VIT / "model.safetensors", VIT))
    np.testing.assert_array_equal(found, expected)


def test_a_configuration_of_neither_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((VIT / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="has neither a field 'model_type', as of transformers, nor 'architecture'"):
        load(tmp_path)


def test_the_pooling_that_timm_leaves_in_siglips_files_is_kept(tmp_path: Path) -> None:
    """Its towers that pool by the mean are read from the files of those that pool by attention."""
    name = "vit_base_patch16_siglip_224"
    config = json.loads((DATA / name / "config.json").read_text())
    config["architecture"], config["global_pool"] = "vit_base_patch16_siglip_gap_224", "avg"
    config["model_args"]["global_pool"] = "avg"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((DATA / name / "model.safetensors").read_bytes())
    arrays = dict(np.load(DATA / name / "expected.npz"))

    found = outputs(load(tmp_path), {"pixels": arrays["pixels"]})

    np.testing.assert_allclose(found["pooled"], arrays["tokens"].mean(1), atol=1e-5)


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_small_patch16_dinov3"])
def test_a_classifier_of_other_classes_is_a_timm_directory_again(name: str, tmp_path: Path) -> None:
    made = classify(load(DATA / name), ["ant", "owl"], read_preprocessing(DATA / name), seed=0)
    save_finetuned(tmp_path / "tuned", made.model, made, ["ant", "owl"], {})
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)))

    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert load(tmp_path / "tuned").spec.classes == ("ant", "owl")
    assert config["num_classes"] == config["model_args"]["num_classes"] == config["pretrained_cfg"]["num_classes"] == 2
    again = load_finetuned(tmp_path / "tuned")[0].model
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(made.model(images)))


def test_images_of_less_than_a_patch_are_refused() -> None:
    with pytest.raises(UserError, match=r"images of \(16, 3\) pixels: less than a patch of \(4, 4\)"):
        outputs(load(VIT), {"pixels": np.zeros((1, 3, 16, 3), np.float32)})


def test_dinov3_of_transformers_with_the_names_it_has_in_memory(tmp_path: Path) -> None:
    source = DATA.parent / "hf" / "dinov3_vit-small"
    arrays = safetensors.numpy.load_file(source / "model.safetensors")
    renamed = {re.sub(r"^layer\.", "model.layer.", name): array for name, array in arrays.items()}
    safetensors.numpy.save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    expected = dict(np.load(source / "expected.npz"))

    found = outputs(load(tmp_path), {"pixels": expected["pixels"]})

    np.testing.assert_allclose(found["pooled"], expected["pooled"], atol=1e-5)
