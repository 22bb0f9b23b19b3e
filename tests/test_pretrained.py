"""Pre-trained models from their files: what torch computes of them, the same bytes back, and what is refused."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


# Altered configurations


def copy_of(source: Path, target: Path) -> Path:
    """A copy of a model's files."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("expected.npz")))


def configured(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the configuration in a copy."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def message(path: Path) -> str:
    """The one line with which a model is refused."""
    with pytest.raises(UserError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# What a field is changed to where twice the number or the contrary is no plausible value.
OTHER_VALUES: dict[str, Any] = {
    "architectures": ["ViTMSNModel"],
    "hidden_act": "silu",
    "layer_scale_init_value": 0.0,
    "layer_type": "basic",
    "model_type": "vit_msn",
    "num_channels": 4,
    "pooler_act": "relu",
}
# Initial values, dropout, who wrote the file, names, and what other models than those that we read need.
WITHOUT_EFFECT = {
    *("initializer_factor", "initializer_range", "layerscale_value", "logit_scale_init_value"),
    *("attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "hidden_dropout_prob"),
    *("dtype", "transformers_version", "label2id", "bos_token_id", "pad_token_id"),
    *("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names"),
    *("encoder_stride", "use_mask_token"),
}
# As in transformers: no pooler in a classifier; the width of the whole counts; DINOv2's MLP follows mlp_ratio; a
# convolution takes any size; SigLIP reads the last token, whatever it is.
WITHOUT_EFFECT_HERE = {
    "clip": {"text_config.projection_dim", "vision_config.projection_dim"},
    "convnext": {"image_size"},
    "dinov2": {"intermediate_size"},
    "siglip": {"text_config.eos_token_id"},
    "swin": {"image_size"},
    "vit": {"pooler_act", "pooler_output_size"},
}


def fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Paths of all fields, those of the towers' own objects too."""
    for name, value in config.items():
        if name in ("text_config", "vision_config"):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def alter(config: dict[str, Any], field: str) -> None:
    """Gives one field another plausible value."""
    *parents, name = field.split(".")
    for parent in parents:
        config = config[parent]
    value = config[name]
    if name in OTHER_VALUES:
        config[name] = OTHER_VALUES[name]
    elif isinstance(value, bool):
        config[name] = not value
    elif isinstance(value, int):
        config[name] = 2 * value
    elif isinstance(value, float):
        config[name] = value + 0.5
    elif isinstance(value, str):
        config[name] = f"{value}x"
    elif isinstance(value, list):
        config[name] = [value[0] * 2, *value[1:]]
    else:
        config[name] = dict(list(value.items())[1:])


@pytest.mark.parametrize("base", BASES)
def test_no_field_is_overlooked(base: str, tmp_path: Path) -> None:
    """Every field with another value: an error that names it or a tensor, or other outputs, or of no effect."""
    source = DATA / "hf" / base
    directory = copy_of(source, tmp_path / base)
    kept = (directory / "config.json").read_text()
    arrays = {name: array for name, array in reference(source).items() if name in ("pixels", "ids")}
    before = outputs(loaded(source), arrays)
    overlooked = []
    for field in fields(json.loads(kept)):
        (directory / "config.json").write_text(kept)
        configured(directory, lambda config, field=field: alter(config, field))
        name = field.rpartition(".")[2]
        try:
            model = load(directory)
        except UserError as error:
            named = f" {name} = " in str(error) or f"{directory / 'model.safetensors'}: " in str(error)
            if not named or "\n" in str(error):
                overlooked.append(f"{field}: {error}")
            continue
        if name in WITHOUT_EFFECT or field in WITHOUT_EFFECT_HERE.get(base, ()):
            continue
        after = outputs(model, arrays)
        if all(np.allclose(after[key], before[key], rtol=1e-4, atol=1e-6) for key in before):
            overlooked.append(field)
    assert overlooked == []
