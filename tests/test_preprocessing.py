"""Preprocessing from a model's own files: what transformers' processors and timm's transforms make of one image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrained.preprocessing import Preprocessing, read_preprocessing
from vision.errors import UserError

DATA = Path(__file__).parent / "data" / "preprocessing"
CONFIGS: dict[str, dict[str, Any]] = json.loads((DATA / "configs.json").read_text())
FIELDS = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 20},
    "crop_size": {"height": 16, "width": 16},
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
ABOUT = {"input_size": [3, 16, 16], "crop_pct": 0.8, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
HALF = (0.5, 0.5, 0.5)


def written(name: str, config: dict[str, Any], directory: Path) -> Preprocessing:
    """A configuration read from the file of its library."""
    if name.startswith("timm"):
        (directory / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": config}))
    else:
        (directory / "preprocessor_config.json").write_text(json.dumps(config))
    return read_preprocessing(directory)


@pytest.mark.parametrize("name", CONFIGS)
def test_images_are_what_their_libraries_make_of_them(name: str, tmp_path: Path) -> None:
    found = written(name, CONFIGS[name], tmp_path)
    wide = Image.open(DATA / "image.png")
    with np.load(DATA / "expected.npz") as expected:
        for turned, image in (("wide", wide), ("tall", wide.transpose(Image.Transpose.ROTATE_90))):
            made = found.normalise(np.asarray(found(image), np.float32)).transpose(2, 0, 1)
            if "warped" in name:
                made = made[:, ::16, ::16]
            array = expected[f"{name}/{turned}"]
            assert made.shape == array.shape
            np.testing.assert_allclose(made, array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_comes_back_from_what_is_kept(name: str, tmp_path: Path) -> None:
    found = written(name, CONFIGS[name], tmp_path)
    assert Preprocessing.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("resize", "crop", "size", "expected"),
    [
        (256, (224, 224), 224, (256, (224, 224))),
        (256, (224, 224), 448, (512, (448, 448))),
        (256, (224, 224), 100, (114, (100, 100))),
        (224, (224, 224), 336, (336, (336, 336))),
        ((256, 256), (224, 224), 112, ((128, 128), (112, 112))),
        ((224, 224), None, 96, ((96, 96), None)),
        ((224, 160), None, 96, ((96, 96), None)),
        (256, None, 224, ((224, 224), None)),
        (None, None, 224, ((224, 224), None)),
        (None, (224, 224), 112, ((112, 112), (112, 112))),
    ],
)
def test_at_another_size_as_much_is_cut_off(resize: Any, crop: Any, size: int, expected: Any) -> None:
    made = Preprocessing(resize, crop, 3, HALF, HALF).at(size)
    assert (made.resize, made.crop) == expected
    assert made.size == (size, size)
    assert np.asarray(made(Image.new("RGB", (640, 480)))).shape == (size, size, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, 'image_processor_type = "PixtralImageProcessor" is not'),
        ({"image_processor_type": None}, "image_processor_type = null is not supported; supported: BitImage"),
        ({"size": None}, "has no field 'size'"),
        ({"size": {"longest_edge": 20}}, "size = .* is not supported; one number, a shortest_edge, or height and"),
        ({"size": {"height": 20}}, "size = "),
        ({"size": {"shortest_edge": 0}}, "size = "),
        ({"size": {"shortest_edge": True}}, "size = "),
        ({"size": 20.5}, "size = "),
        ({"crop_size": None}, "has no field 'crop_size'"),
        ({"crop_size": 21}, r"crop_size = \[21, 21\] is not supported; it must not exceed the size 20"),
        ({"resample": 99}, "resample = 99 is not supported; supported: 0, "),
        ({"resample": None}, "resample = null"),
        ({"do_resize": None}, "do_resize = null is not supported"),
        ({"do_center_crop": "yes"}, 'do_center_crop = "yes" is not supported; bool is needed'),
        ({"do_pad": True}, "do_pad = true is not supported; supported: False"),
        ({"pad_size": {"height": 30, "width": 30}}, "pad_size = .* is not supported"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\] is not supported; three finite numbers are needed"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "image_mean = .* three finite numbers are needed"),
        ({"image_std": None}, "has no field 'image_std'"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std = .* is not supported; positive numbers are needed"),
        ({"rescale_factor": float("inf")}, "rescale_factor = Infinity is not supported; a finite number"),
        ({"max_pixels": 100}, "max_pixels = 100 is not supported; no loader here knows this field"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": -1.0}, "crop_pct = -1.0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": [20, 20]}, "size = .* a shortest_edge is needed"),
    ],
)
def test_what_a_processor_does_not_say_or_we_do_not_do_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: {message}"):
        written("transformers", FIELDS | change, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": [1, 16, 16]}, "input_size = .* three channels"),
        ({"input_size": [3, 16]}, "input_size = .* channels, height and width are needed"),
        ({"input_size": [3, 16, "16"]}, "input_size = .* channels, height and width are needed"),
        ({"input_size": [3, 12, 16]}, "input_size = .* a square is needed with crop_mode center"),
        ({"input_size": None}, "has no field 'input_size'"),
        ({"crop_pct": 0}, "crop_pct = 0"),
        ({"crop_pct": 1.5}, "crop_pct = 1.5"),
        ({"crop_pct": float("nan")}, "crop_pct = NaN"),
        ({"crop_mode": "border"}, 'crop_mode = "border" is not supported; supported: center, squash'),
        ({"interpolation": "random"}, 'interpolation = "random" is not supported; supported: nearest'),
        ({"mean": [0.5, 0.5]}, "mean = "),
        ({"std": [0.5, 0.5, -0.5]}, "std = .* positive numbers are needed"),
    ],
)
def test_what_timms_transforms_do_and_we_do_not_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"config\.json: pretrained_cfg: {message}"):
        written("timm", ABOUT | change, tmp_path)


def test_a_model_that_does_not_say_is_refused_and_another_file_helps(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for model in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match=r"preprocessor_config\.json: does not exist, .* --preprocessor FILE"):
            read_preprocessing(model)
    with pytest.raises(UserError, match=r"vit\.npz: says nothing of its preprocessing; give it with --preprocessor"):
        read_preprocessing(tmp_path / "vit.npz")
    file = tmp_path / "other.json"
    with pytest.raises(UserError, match=r"other\.json: does not exist"):
        read_preprocessing(tmp_path, file)
    file.write_text(json.dumps(FIELDS))
    assert read_preprocessing(tmp_path / "vit.npz", file) == read_preprocessing(tmp_path, file)
