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
# Another field that is refused since it says otherwise.
CONTRADICTED_BY = {"embed_dim": "hidden_size", "num_stages": "hidden_sizes"}
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
            text = str(error)
            named_here = any(f" {one} = " in text for one in (name, CONTRADICTED_BY.get(name)))
            assert "\n" not in text
            assert named_here or text.startswith(f"{directory / 'model.safetensors'}: "), text
            continue
        if name in WITHOUT_EFFECT or field in WITHOUT_EFFECT_HERE.get(base, ()):
            continue
        other = {"text_config": "pixels", "vision_config": "ids"}.get(field.partition(".")[0])
        after = outputs(model, {key: array for key, array in arrays.items() if key != other})
        if all(np.allclose(array, before[key], rtol=1e-4, atol=1e-6) for key, array in after.items()):
            overlooked.append(field)
    assert overlooked == []


def change_tensors(directory: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Changes the tensors in a copy."""
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("vit", {"rope_theta": 100.0}, "config.json: rope_theta = 100.0 is not supported"),
        ("clip", {"text_config": {"rotary": True}}, "config.json: text_config: rotary = true is not supported"),
        ("clip", {"text_config": {"layer_norm_eps": None}}, "text_config: layer_norm_eps = null is not supported"),
        ("siglip", {"vision_config": {"vision_use_head": None}}, "vision_config: vision_use_head = null"),
        ("siglip", {"text_config": {"model_type": "clip_text_model"}}, 'model_type = "clip_text_model"'),
        ("siglip", {"text_config": []}, "text_config = [] is not supported; dict is needed"),
        ("vit", {"layer_norm_eps": float("nan")}, "layer_norm_eps = NaN is not supported; a finite number"),
        ("dinov2", {"mlp_ratio": float("inf")}, "mlp_ratio = Infinity is not supported; a finite number"),
        ("dinov2", {"mlp_ratio": -2}, "mlp_ratio = -2"),
        ("swin", {"mlp_ratio": 0}, "mlp_ratio = 0"),
        ("vit", {"hidden_size": 0}, "hidden_size = 0 is not supported"),
        ("vit", {"hidden_size": 10**12}, "hidden_size = 1000000000000 is not supported"),
        ("vit", {"hidden_size": 2 * 10**9}, "model.safetensors: "),  # and allocates nothing
        ("vit", {"hidden_size": "64"}, 'hidden_size = "64" is not supported; int is needed'),
        ("vit", {"hidden_size": True}, "hidden_size = true is not supported; int is needed"),
        ("vit", {"intermediate_size": -1}, "intermediate_size = -1 is not supported"),
        ("vit", {"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 is not supported"),
        ("resnet", {"depths": [1, 10**9, 2, 1]}, "depths = [1, 1000000000, 2, 1] is not supported"),
        ("vit", {"num_attention_heads": 7}, "num_attention_heads = 7 is not supported; it must divide hidden_size"),
        ("vit", {"patch_size": 64}, "patch_size = [64, 64] is not supported; it must not exceed image_size"),
        ("vit", {"patch_size": [8, 8, 8]}, "patch_size = [8, 8, 8] is not supported"),
        ("vit", {"num_labels": 9}, "id2label"),
        ("vit", {"num_labels": 10**12}, "num_labels = 1000000000000"),
        ("vit", {"quantization_config": {"bits": 8}}, "quantization_config = "),
        ("vit", {"is_decoder": True}, "is_decoder = true is not supported; supported: False"),
        ("vit", {"architectures": None}, "has no field 'architectures'"),
        ("vit", {"architectures": []}, "architectures = [] is not supported; one name is needed"),
        ("vit", {"architectures": ["ViTModel", "ViTModel"]}, "one name is needed"),
        ("vit", {"architectures": ["CLIPModel"]}, 'architectures = "CLIPModel" is not supported; supported for vit: '),
        ("vit", {"architectures": ["ViTModel"]}, "model.safetensors: has no tensor "),
        ("vit", {"model_type": "deit"}, 'model_type = "deit" is not supported; supported: clip, '),
        ("vit", {"model_type": ["vit"]}, 'model_type = ["vit"] is not supported'),
        ("vit", {"model_type": None}, "model_type"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_followed_is_refused_by_the_fields_name(
    base: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    directory = copy_of(DATA / "hf" / base, tmp_path / base)

    def update(config: dict[str, Any]) -> None:
        for name, value in change.items():
            if isinstance(value, dict) and name in config:
                config[name].update(value)
            else:
                config[name] = value

    configured(directory, update)
    assert words in message(directory)


def test_openai_and_laions_oldest_files_are_read(tmp_path: Path) -> None:
    """transformers 4.21 wrote fields of text generation into every part, many of them null."""
    directory = copy_of(DATA / "hf" / "clip", tmp_path / "clip")
    nulls = ("architectures", "bad_words_ids", "bos_token_id", "cross_attention_hidden_size", "decoder_start_token_id")
    more = ("eos_token_id", "pad_token_id", "prefix", "sep_token_id", "task_specific_params", "torch_dtype")
    old = {
        **dict.fromkeys((*nulls, *more)),
        **dict.fromkeys(("add_cross_attention", "is_decoder", "is_encoder_decoder", "torchscript"), False),
        "chunk_size_feed_forward": 0,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "max_length": 20,
        "pruned_heads": {},
        "transformers_version": "4.21.3",
    }

    def age(config: dict[str, Any]) -> None:
        for name in ("text_config", "vision_config"):
            config[name] = old | config[name]
            config[f"{name}_dict"] = None
        config["transformers_version"] = None

    configured(directory, age)
    assert load(directory).spec.image_size == (32, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("classifier.bias"), "has no tensor classifier.bias; download it again"),
        (lambda t: [t.pop(name) for name in list(t)[:5]], " and 2 more"),
        (lambda t: t.update({"vit.extra": np.zeros(2, np.float32)}), "has a tensor that the model of its"),
        (lambda t: t.update({"classifier.bias": np.zeros((7, 1), np.float32)}), "classifier.bias has shape (7, 1)"),
        (lambda t: t.update({"classifier.bias": np.zeros((), np.float32)}), "classifier.bias has shape ()"),
        (lambda t: t.update({"classifier.bias": np.zeros(7, np.int32)}), "classifier.bias has dtype int32"),
        (lambda t: t.update({"classifier.weight": np.zeros((64, 7), np.float32)}), "has shape (64, 7)"),
        (lambda t: t.update({"classifier.weight": np.zeros((7, 8, 8), np.float32)}), "has shape (7, 8, 8)"),
        (lambda t: t.update({"classifier.weight": np.zeros(448, np.float32)}), "has shape (448,)"),
    ],
    ids=["missing", "many missing", "extra", "shape", "scalar", "integers", "transposed", "3-D", "flat"],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(
    change: Callable[[dict[str, np.ndarray]], None], words: str, tmp_path: Path
) -> None:
    directory = copy_of(DATA / "hf" / "vit", tmp_path / "vit")
    change_tensors(directory, change)
    text = message(directory)
    assert text.startswith(f"{directory / 'model.safetensors'}: ")
    assert words in text


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda d: next(d.glob("*.safetensors")).unlink(), "does not exist"),
        (lambda d: next(d.glob("*.index.json")).write_text("{"), "not a readable JSON file"),
        (lambda d: next(d.glob("*.index.json")).write_text("[]"), "holds no JSON object"),
        (lambda d: next(d.glob("*.index.json")).write_text("{}"), "has no 'weight_map'"),
        (lambda d: next(d.glob("*.index.json")).write_text('{"weight_map": {}}'), "has no tensor"),
        (lambda d: next(d.glob("*.index.json")).write_text('{"weight_map": {"a": "../x"}}'), "has no 'weight_map'"),
        (lambda d: next(d.glob("*.index.json")).write_text('{"weight_map": {"a": ".."}}'), "not a readable"),
        (lambda d: move(d, lambda places: places.popitem()), "does not fit model.safetensors.index.json"),
        (lambda d: move(d, lambda places: places.update({next(iter(places)): places.popitem()[1]})), "does not fit"),
        (lambda d: (d / "config.json").write_bytes(b"\xff"), "not a readable JSON file"),
        (lambda d: (d / "config.json").unlink(), "config.json: does not exist"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_each_other_are_refused(
    break_it: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    directory = copy_of(DATA / "hf" / "clip-sharded", tmp_path / "sharded")
    break_it(directory)
    assert words in message(directory)


def move(directory: Path, change: Callable[[dict[str, str]], Any]) -> None:
    """Changes where the index says that tensors are."""
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("left", [0, 4, 100, 5000, -1])
def test_a_truncated_file_is_refused(left: int, tmp_path: Path) -> None:
    directory = copy_of(DATA / "hf" / "vit", tmp_path / "vit")
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert "model.safetensors: not a readable safetensors file" in message(directory)


def test_a_directory_without_safetensors_is_refused(tmp_path: Path) -> None:
    directory = copy_of(DATA / "hf" / "vit", tmp_path / "vit")
    (directory / "model.safetensors").unlink()
    assert "needs model.safetensors or model.safetensors.index.json; it has none of the two" in message(directory)
    (directory / "pytorch_model.bin").write_bytes(b"")
    assert "it has pytorch_model.bin; save it again with safe_serialization=True" in message(directory)
    for file in directory.iterdir():
        file.unlink()
    assert "config.json: does not exist" in message(directory)


def test_a_file_of_a_directory_names_the_model_too() -> None:
    path = DATA / "hf" / "vit" / "model.safetensors"
    assert load(path).spec.classes == loaded(path.parent).spec.classes
