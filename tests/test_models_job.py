"""The main job, embed.py and predict.py with models from files: what a user types, in its smallest size."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import embed
import finetune
import predict
from pretrained.load import load
from pretrained.texts import class_embeddings, tokenize
from vision.errors import UserError

DATA = Path(__file__).parent / "data"
COLOURS = {"blue_sky": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}
VOCABULARY = "a of the photo itap bad origami large small video game in art red green blue sky ."
WORDS = VOCABULARY.split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in colour, in two domains."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for domain, light in (("train", 1.0), ("val", 1.0), ("dark", 0.4)):
        for name, colour in COLOURS.items():
            (root / domain / name).mkdir(parents=True)
            for i in range(4):
                noisy = np.array(colour) * light + generator.normal(0, 30, (40, 50, 3))
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / domain / name / f"{i}.png")
    return root


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Copies a reference model, and gives it the preprocessing and the tokenizer that a real one has beside it."""

    def copied(name: str) -> Path:
        directory = Path(shutil.copytree(DATA / "hf" / name, tmp_path / name))
        config = json.loads((directory / "config.json").read_text())
        side = config.get("vision_config", config)["image_size"]
        preprocessor = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "resample": 3,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.25, 0.25, 0.25],
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        if "text_config" in config:
            end = config["text_config"]["eos_token_id"]
            _tokenizer(end).save(str(directory / "tokenizer.json"))
            (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<end>"}))
        return directory

    return copied


def _tokenizer(end: int) -> Tokenizer:
    vocabulary = {word: i + 2 for i, word in enumerate(WORDS)} | {"<unknown>": 0, "<end>": end}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()  # pyright: ignore
    made.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])  # pyright: ignore
    return made


def job(photos: Path, directory: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Runs the main job, and gives its report."""
    folders = ("--train", photos / "train", "--val", photos / "val", "--ood", f"dark={photos / 'dark'}")
    words = ("--model", directory, *folders, "--epochs", 2, "--batch-size", 8, "--methods", "ftp", "--out", out, *flags)
    assert finetune.main([str(word) for word in words]) == 0
    return json.loads((out / "report.json").read_text())


def test_clip_starts_from_its_texts_and_goes_on_without_its_source(photos, model, tmp_path, capsys):
    directory, out = model("clip"), tmp_path / "run"
    report = job(photos, directory, out)
    assert report["rows"][0]["name"] == report["model"]["head"] == "zero-shot"
    shutil.rmtree(directory)
    shutil.rmtree(out / "weights/ftp")
    (out / "report.json").unlink()
    assert finetune.main(["--out", str(out), "--resume"]) == 0
    again = json.loads((out / "report.json").read_text())
    assert {**again, "timing": {}} == {**report, "timing": {}}
    assert predict.main([str(out), str(photos / "dark/red/0.png")]) == 0
    told = capsys.readouterr().out
    assert any(f"│ {name} " in told for name in COLOURS)
    kept = {file.name for file in (out / "weights/ftp").iterdir()}
    assert kept >= {"config.json", "model.safetensors", "head.safetensors", "tokenizer.json", "finetuned.json"}


def test_zero_shot_by_flags(photos, model, tmp_path):
    """A head ready made is that of the texts it was made of; a frozen one stays as it is."""
    directory = model("clip")
    names, prompts, head = (tmp_path / file for file in ("names.txt", "prompts.txt", "head.npy"))
    names.write_text("blue\ngreen\nred\n")
    prompts.write_text("a photo of the {}.\nart of the {}.\n")
    made = class_embeddings(load(directory), directory, ["blue", "green", "red"], prompts.read_text().split("\n")[:2])
    np.save(head, made)
    by_texts = job(photos, directory, tmp_path / "texts", "--classes", str(names), "--prompts", str(prompts))
    ready = job(photos, directory, tmp_path / "ready", "--head-from", str(head), "--freeze-head")
    assert ready["rows"][0]["id"] == by_texts["rows"][0]["id"]
    start, tuned = (np.asarray(_head(tmp_path / "ready", name)) for name in ("pretrained", "ftp"))
    np.testing.assert_array_equal(start, tuned)
    np.testing.assert_allclose(start, _head(tmp_path / "texts", "pretrained"), rtol=1e-5)


def _head(run: Path, method: str) -> np.ndarray:
    from vision.weights import load_safetensors

    return load_safetensors(run / "weights" / method / "head.safetensors")["weight"]


def test_other_models_start_from_a_probe(photos, model, tmp_path):
    directory, out = model("dinov2"), tmp_path / "run"
    report = job(photos, directory, out, "--image-size", "40")
    assert report["rows"][0]["name"] == report["model"]["head"] == "linear probe"
    assert report["rows"][0]["id"] == 1.0  # colours are easily told
    assert not any(path.startswith("head/") for path in report["methods"]["ftp"]["radii"])
    assert json.loads((out / "weights/ftp/finetuned.json").read_text())["preprocessing"]["crop"] == [40, 40]
    plain = job(photos, directory, tmp_path / "plain", "--probe-epochs", "0")
    assert plain["model"]["head"] == "new"
    assert [row["name"] for row in plain["rows"]] == ["ftp", "ftp + WiSE 0.5"]


def test_features_of_images_and_arrays_agree(photos, model, tmp_path):
    directory, image = model("clip"), photos / "val/red/0.png"
    assert embed.main([str(directory), "--images", str(image), "--out", str(tmp_path / "a.npz")]) == 0
    small = Image.open(image).resize((40, 32), Image.Resampling.BICUBIC).crop((4, 0, 36, 32))
    pixels = (np.asarray(small, np.float32) / 255 - 0.5) / 0.25
    np.savez(tmp_path / "in.npz", pixels=pixels.transpose(2, 0, 1)[None])
    assert embed.main([str(directory), "--inputs", str(tmp_path / "in.npz"), "--out", str(tmp_path / "b.npz")]) == 0
    with np.load(tmp_path / "a.npz") as by_image, np.load(tmp_path / "b.npz") as by_array:
        assert set(by_image.files) == set(by_array.files) == {"tokens", "pooled", "image_embeds"}
        for name in by_image.files:
            np.testing.assert_allclose(by_image[name], by_array[name], rtol=1e-4, atol=1e-5)


def test_texts_fill_the_tower(model):
    directory = model("clip")
    loaded = load(directory)
    ids = tokenize(loaded, directory, ["a photo of the red sky .", "a " * 40, "Red"])
    assert ids.shape == (3, loaded.model.text.config.length)
    assert (ids == loaded.model.text.config.end).any(1).all()  # a long text is cut before its end
    assert ids[2, 0] == WORDS.index("red") + 2
    _tokenizer(150).save(str(directory / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: ends no text with the id 199"):
        tokenize(loaded, directory, ["red"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "nowhere"), "--model .*nowhere: no such directory or file"),
        (("--model", "{vit}", "--prompts", "{prompts}"), "has no text tower; leave the flag out"),
        (("--model", "{clip}", "--prompts", "{prompts}"), "must have {} once"),
        (("--model", "{clip}", "--classes", "{prompts}"), "has 1 lines for 3 classes"),
        (("--model", "{clip}", "--head-from", "{prompts}"), r"not a readable \.npy file"),
        (("--model", "{clip}", "--head-from", "{zeros}"), r"zeros\.npy: holds float64 \(3, 32\); .* a row not zero"),
        (
            ("--model", "{clip}", "--head-from", "{narrow}"),
            r"embeds images in 32 features; the head has shape \(3, 31\)",
        ),
        (("--model", "{vit}", "--head-from", "{narrow}"), "has no logit_scale, so no zero-shot head"),
        (("--model", "{clip}", "--pretrained", "x"), "--pretrained: the weights come with --model"),
        (("--model", "{bare}"), r"preprocessor_config\.json: does not exist"),
        (("--prompts", "x"), "--prompts .*x: goes with a model from files"),
    ],
)
def test_wrong_input_is_one_line(flags, message, photos, model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("no braces\n")
    places = {"clip": model("clip"), "vit": model("vit"), "bare": model("swin"), "prompts": tmp_path / "prompts.txt"}
    for name, array in (("zeros", np.zeros((3, 32))), ("narrow", np.ones((3, 31)))):
        places[name] = tmp_path / f"{name}.npy"
        np.save(places[name], array)
    (places["bare"] / "preprocessor_config.json").unlink()
    words = [flag.format_map(places) if flag != "{}" else flag for flag in flags]
    folders = ["--train", str(photos / "train"), "--val", str(photos / "val")]
    assert finetune.main([*words, *folders, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


PIXELS = np.zeros((2, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("clip", {}, "in.npz: has neither an array 'pixels' nor 'ids'; it has none"),
        ("clip", {"images": PIXELS}, "has neither an array 'pixels' nor 'ids'; it has images"),
        ("clip", {"pixels": PIXELS[0]}, r"in.npz: pixels is float32 \(3, 32, 32\); normalised floats \(n, 3, height"),
        ("clip", {"pixels": PIXELS.transpose(0, 2, 3, 1)}, r"pixels is float32 \(2, 32, 32, 3\)"),
        ("clip", {"pixels": PIXELS.astype(np.uint8)}, "pixels is uint8 .*; normalised floats"),
        ("clip", {"pixels": PIXELS[:0]}, "pixels: holds no row"),
        ("clip", {"pixels": PIXELS[..., :4]}, r"images of \(32, 4\) pixels: less than a patch of \(8, 8\)"),
        ("clip", {"ids": np.zeros((2, 12))}, "ids is float64 .*; integers"),
        ("clip", {"ids": np.full((2, 12), 200)}, "ids: 200 to 200; the vocabulary of .* is 0 to 199"),
        ("clip", {"ids": np.full((2, 12), -1)}, "ids: -1 to -1; the vocabulary of .* is 0 to 199"),
        ("clip", {"ids": np.zeros((2, 13), int)}, "ids: 13 tokens; .* takes texts of 12 at most"),
        ("clip", {"ids": np.zeros((2, 0), int)}, "ids: holds texts of no token"),
        ("vit", {"ids": np.zeros((2, 4), int)}, "has no text tower for 'ids'; leave them out"),
        ("clip-text", {"pixels": PIXELS}, "has no image tower for 'pixels'; leave them out"),
        ("clip", {"pixels": np.array([{"a": 1}])}, "not a readable .npz file"),
    ],
)
def test_arrays_that_a_model_does_not_take_are_one_line(name, arrays, message, tmp_path, capsys):
    inputs, out = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, **arrays)
    assert embed.main([str(DATA / "hf" / name), "--inputs", str(inputs), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--inputs FILE.npz or --images FILE...: give one of the two"),
        (("--inputs", "a.npz", "--images", "b.png"), "give one of the two"),
        (("--inputs", "a.npz"), r"a\.npz: does not exist"),
        (("--images", "b.png"), r"preprocessor_config\.json: does not exist"),
        (("--images", "b.png", "--preprocessor", "{preprocessor}"), r"b\.png does not exist"),
        (
            ("--images", "{image}", "--preprocessor", "{preprocessor}", "--image-size", "4"),
            r"images of \(4, 4\) pixels",
        ),
        (
            ("--images", "{image}", "--preprocessor", "{preprocessor}", "--image-size", "-1"),
            "--image-size -1: choose 1",
        ),
        (
            ("--images", "{image}", "--preprocessor", "{preprocessor}", "--batch-size", "0"),
            "--batch-size 0: at least 1",
        ),
    ],
)
def test_wrong_flags_of_embed_are_one_line(flags, message, photos, model, tmp_path, capsys):
    places = {"preprocessor": model("clip") / "preprocessor_config.json", "image": photos / "val/red/0.png"}
    words = [flag.format_map(places) for flag in flags]
    assert embed.main([str(DATA / "hf/vit"), *words, "--out", str(tmp_path / "out.npz")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out.npz").exists()
