"""Classifiers of the user's classes on pre-trained models, and the directories that they are kept in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from pretrained.classifier import Classifier, classify, zero_shot
from pretrained.finetuned import load_finetuned, save_finetuned
from pretrained.load import load
from pretrained.preprocessing import Preprocessing
from vision.errors import UserError
from vision.weights import load_safetensors

DATA = Path(__file__).parent / "data"
HALF = (0.5, 0.5, 0.5)
PREPARE = Preprocessing(32, (32, 32), 3, HALF, HALF)
CLASSES = ("ant", "bee", "cow")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def logits(model: Classifier) -> np.ndarray:
    return np.asarray(nnx.jit(lambda model: model(IMAGES))(model))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("hf/vit-pooler", "ViTForImageClassification"),
        ("hf/vit-float16", "ViTForImageClassification"),
        ("hf/dinov2", "Dinov2ForImageClassification"),
        ("hf/dinov2-registers", "Dinov2WithRegistersForImageClassification"),
        ("hf/resnet-features", "ResNetForImageClassification"),
        ("hf/convnextv2-features", "ConvNextV2ForImageClassification"),
        ("hf/swin-features", "SwinForImageClassification"),
        ("hf/clip-vision", "CLIPVisionModel"),
        ("hf/dinov3_vit-small", "DINOv3ViTModel"),
        ("timm/vit_base_patch16_224-no_head", None),
        ("timm/resnet50-no_head", None),
        ("big_vision/token.npz", None),
    ],
)
def test_a_new_head_is_kept_in_the_format_or_beside_it(name: str, architecture: str | None, tmp_path: Path) -> None:
    made = classify(load(DATA / name), CLASSES, PREPARE, seed=0)
    assert made.new_head
    before = logits(made.model)
    assert before.shape == (2, 3)
    save_finetuned(tmp_path / "kept", made.model, made, CLASSES, {"method": "none"})
    kept, notes = load_finetuned(tmp_path / "kept")
    assert (notes.classes, notes.preprocessing, notes.others) == (CLASSES, PREPARE, {"method": "none"})
    tolerance = 2e-2 if "float16" in name else 1e-6  # the head is rounded to the file's format
    np.testing.assert_allclose(logits(kept.model), before, rtol=0, atol=tolerance)
    if architecture is not None:
        config = json.loads((tmp_path / "kept/config.json").read_text())
        assert config["architectures"] == [architecture]
        if architecture.endswith("ForImageClassification"):
            assert config["id2label"] == {"0": "ant", "1": "bee", "2": "cow"}
            assert not (tmp_path / "kept/head.safetensors").exists()
        else:
            assert load_safetensors(tmp_path / "kept/head.safetensors")["weight"].shape[0] == 3


def test_a_head_that_knows_the_classes_is_kept_in_their_order() -> None:
    loaded = load(DATA / "hf/vit")
    made = classify(loaded, ("LABEL_5", "LABEL_2"), PREPARE, seed=0)
    assert not made.new_head
    whole = classify(loaded, loaded.spec.classes or (), PREPARE, seed=0)
    assert whole.origin is loaded
    np.testing.assert_allclose(logits(made.model), logits(whole.model)[:, [5, 2]], rtol=1e-5, atol=1e-6)


def test_a_name_that_two_classes_share_tells_neither(tmp_path: Path) -> None:
    """ImageNet has two cranes: a head for others of its classes is kept, one for cranes is new."""
    directory = Path(shutil.copytree(DATA / "hf/vit", tmp_path / "vit"))
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] |= {"1": "crane", "4": "crane"}
    (directory / "config.json").write_text(json.dumps(config))
    loaded = load(directory)
    assert not classify(loaded, ("LABEL_5", "LABEL_2"), PREPARE, seed=0).new_head
    assert classify(loaded, ("LABEL_5", "crane"), PREPARE, seed=0).new_head


def test_weights_that_were_not_trained_come_back_as_they_were(tmp_path: Path) -> None:
    """A CLIP's text tower, the token for masked patches, and all that training did not change."""
    for name in ("hf/clip-sharded", "hf/dinov2"):
        source, target = DATA / name, tmp_path / Path(name).name
        loaded = load(source)
        head = np.random.default_rng(0).standard_normal((3, 24 if "clip" in name else 1))
        made = (
            zero_shot(loaded, head[:, : loaded.model.text.config.projection], PREPARE)
            if "clip" in name
            else classify(loaded, CLASSES, PREPARE, seed=0)
        )
        save_finetuned(target, made.model, made, CLASSES, {})
        again = load(target).tensors.arrays
        prefix = "" if "clip" in name else "dinov2."
        for tensor, array in loaded.tensors.arrays.items():
            np.testing.assert_array_equal(again[prefix + tensor], array)


def test_zero_shot_logits_are_scaled_cosines() -> None:
    loaded = load(DATA / "hf/clip")
    embeddings = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    made = zero_shot(loaded, embeddings, PREPARE)
    features = np.asarray(made.model.features(IMAGES))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    scale = np.exp(np.asarray(loaded.model.logit_scale[...]))
    wanted = scale * features @ (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).T
    np.testing.assert_allclose(logits(made.model), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("hf/clip", (3, 31), "embeds images in 32 features"), ("hf/vit", (3, 64), "has no logit_scale")],
)
def test_a_head_that_does_not_fit_is_refused(name: str, shape: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zero_shot(load(DATA / name), np.ones(shape), PREPARE)


def test_a_text_tower_alone_is_no_classifier() -> None:
    with pytest.raises(UserError, match="has no image tower"):
        classify(load(DATA / "hf/clip-text"), CLASSES, PREPARE, seed=0)


def test_a_directory_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_finetuned(tmp_path)
    (tmp_path / "finetuned.json").write_text("{}")
    with pytest.raises(UserError, match=r"not written by finetune\.py"):
        load_finetuned(tmp_path)
