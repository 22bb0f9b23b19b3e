"""The main job's flags of training, from the command line to the report and the weights, on real architectures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import finetune
from vision.weights import load_safetensors

DATA = Path(__file__).parent / "data"
COLOURS = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in colour, one training image damaged behind its header."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4), ("test", 4), ("dark", 3)):
        for name, colour in COLOURS.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                noisy = np.array(colour) + generator.normal(0, 60, (40, 50, 3))
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture
def job(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the main job with a reference model, and gives the run directory and its report."""
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / "cache"))

    def run(model: str, *flags: str, train: Path = photos / "train") -> tuple[Path, dict[str, Any]]:
        directory, out = tmp_path / model.replace("/", "-"), tmp_path / f"run-{model.replace('/', '-')}"
        shutil.copytree(DATA / model, directory)
        preprocessor = {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 32, "width": 32},
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        folders = ("--train", train, "--val", photos / "val", "--test", photos / "test")
        words = ("--model", directory, *folders, "--ood", f"dark={photos / 'dark'}", "--epochs", 2, "--batch-size", 8)
        assert finetune.main([str(word) for word in (*words, "--image-size", 32, "--out", out, *flags)]) == 0
        return out, json.loads((out / "report.json").read_text())

    return run


def tensors(out: Path, name: str) -> dict[str, np.ndarray]:
    return dict(load_safetensors(next((out / "weights" / name).glob("model*.safetensors"))))


def test_augmented_mixed_and_smoothed_in_worker_processes(job):
    """All that happens to images at once, and a validation set apart from the test."""
    out, report = job(
        "hf/vit", "--methods", "ftp", "--augment", "strong", "--mixup", "0.2", "--cutmix", "1.0",
        "--label-smoothing", "0.1", "--workers", "1", "--validate-every", "0", "--tensorboard",
    )  # fmt: skip
    assert report["task"]["test_images"] == {"id": 12, "ood/dark": 9, "validation": 12}
    assert all("validation" in row for row in report["rows"])
    assert all(0 <= row["calibration_error"]["id"] <= 1 for row in report["rows"])
    assert report["per_class_accuracy"]["ftp"]["id"].keys() == COLOURS.keys()
    assert [point["alpha"] for point in report["methods"]["ftp"]["wise_path"]] == [0.5, 1.0], "what the report shows"
    assert list((out / "logs/tensorboard/ftp").glob("events*"))


@pytest.mark.parametrize("skip", [True, False])
def test_a_damaged_image_is_named_or_passed_over_and_counted(job, photos, tmp_path, capfd, skip):
    train = Path(shutil.copytree(photos / "train", tmp_path / "train"))
    damaged = train / "red/3.png"
    damaged.write_bytes(damaged.read_bytes()[:400])
    if skip:
        _, report = job("hf/vit", "--methods", "vanilla", "--on-bad-image", "skip", train=train)
        assert report["task"]["train_images"] == 23
        assert any("3.png" in note for note in report["task"]["notes"])
    else:
        with pytest.raises(AssertionError):
            job("hf/vit", "--methods", "vanilla", train=train)
        assert f"{damaged} cannot be read" in capfd.readouterr().err


def test_frozen_parameters_stay_and_the_rest_is_computed_in_bfloat16(job):
    out, report = job(
        "hf/dinov2", "--methods", "ftp,linear_probe,lp_ft", "--freeze", "image/blocks/0/*", "image/patches/*",
        "--compute-dtype", "bfloat16", "--remat", "--layer-decay", "0.8", "--weight-decay", "0.1", "--accumulate", "2",
    )  # fmt: skip
    start, ftp, probe = (tensors(out, name) for name in ("pretrained", "ftp", "linear_probe"))
    same = {name for name in start if np.array_equal(start[name], ftp[name])}
    assert any("layer.0." in name for name in same)
    assert any("patch_embeddings" in name for name in same)
    assert not any("layer.1." in name and "weight" in name and "attention" in name for name in same)
    assert all(np.array_equal(start[name], probe[name]) for name in start if not name.startswith("classifier"))
    assert not any(path.startswith("image/blocks/0/") for path in report["methods"]["ftp"]["radii"])


def test_adapters_are_trained_and_written_merged(job):
    out, report = job("hf/vit", "--methods", "ftp", "--lora-rank", "2", "--optimizer", "lion", "--lr", "1e-3")
    start, tuned = tensors(out, "pretrained"), tensors(out, "ftp")
    assert start.keys() == tuned.keys()
    moved = {name for name in start if not np.array_equal(start[name], tuned[name])}
    assert any("attention" in name for name in moved)
    kernel = next(name for name in moved if "attention" in name)
    assert np.linalg.matrix_rank((tuned[kernel] - start[kernel]).astype(np.float64), tol=1e-6) <= 2
    assert not any("layernorm" in name for name in moved)
    assert any("lora" in path for path in report["methods"]["ftp"]["radii"])


def test_live_statistics_follow_the_images_and_frozen_ones_do_not(job):
    out, _ = job("hf/resnet", "--methods", "vanilla,linear_probe", "--batch-norm", "live")
    start, tuned, probe = (tensors(out, name) for name in ("pretrained", "vanilla", "linear_probe"))
    means = [name for name in start if name.endswith("running_mean")]
    assert means
    assert not any(np.array_equal(start[name], tuned[name]) for name in means)
    assert all(np.array_equal(start[name], probe[name]) for name in means)


def test_averaged_weights_and_the_chosen_point_of_their_path_are_reported(job):
    """With a model whose statistics of batch normalisation are frozen: they are those of any weights."""
    flags = ("--average", "uniform", "--wise-alpha", "auto", "--select", "best")
    out, report = job("hf/resnet", "--methods", "ftp", *flags)
    method = report["methods"]["ftp"]
    assert method["knobs"]["average"] == "uniform"
    (row,) = (row for row in report["rows"] if row["name"] == "ftp + WiSE auto")
    assert row["alpha"] == method["wise_alpha"]
    (point,) = (point for point in method["wise_path"] if point["alpha"] == row["alpha"])
    assert (point["id"], point["validation"]) == (row["id"], row["validation"])
    assert len(method["wise_path"]) == 11
    start, tuned = tensors(out, "pretrained"), tensors(out, "ftp")
    statistics = [name for name in start if "running_" in name]
    assert all(np.array_equal(start[name], tuned[name]) for name in statistics)
