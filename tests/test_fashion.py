"""Fashion-MNIST: its file format, what is said when it is missing or damaged, the task made of it."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from evidence import fashion
from vision.digits import HELD_OUT, SEEN
from vision.errors import UserError

ROOT = Path(__file__).parents[1]
IMAGES = 4000


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The package's four files, with handwritten digits of the same size in place of clothes."""
    digits, labels = load_digits(return_X_y=True)
    repeated = np.resize(np.arange(len(labels)), IMAGES)
    images = np.pad(np.kron(digits.reshape(-1, 8, 8)[repeated], np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    kinds = {"images-idx3": (images * 255 / 16).astype(np.uint8), "labels-idx1": labels[repeated].astype(np.uint8)}
    for kind, array in kinds.items():
        for part, which in (("train", slice(3000)), ("t10k", slice(3000, None))):
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array[which]), 1))
    monkeypatch.setenv(fashion.VARIABLE, str(tmp_path))
    return tmp_path


def test_the_task_has_the_digits_domains_on_other_drawings(folder):
    task = fashion.fashion_task(0)
    assert [len(part) for part in (task.train, task.validation, task.id_test)] == [600, 300, 1000]
    assert tuple(task.ood) == SEEN + HELD_OUT
    assert task.image_size == 28
    assert len(task.pretrain) == 1500 * len(SEEN)
    assert task.train.images.shape == (600, 28, 28, 3)
    known = {digit.tobytes(): label for digit, label in zip(*load_digits(return_X_y=True), strict=True)}
    clean = task.ood["clean"]
    for image, label in zip(clean.images[:50], clean.labels[:50], strict=True):
        assert known[np.round(image[3:-2:3, 3:-2:3, 0] * (16 / 255)).tobytes()] == label
    assert (fashion.fashion_task(0).train.images == task.train.images).all()
    assert not (fashion.fashion_task(1).train.images == task.train.images).all()


def test_the_missing_package_is_named_in_one_line(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "evidence.py",
        "corruptions",
        "--experiment",
        "fashion",
        "--results",
        tmp_path,
    ]
    environment = {**os.environ, fashion.VARIABLE: str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "train-images-idx3-ubyte.gz: no such file; install Debian's package dataset-fashion-mnist" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"")[:-6], "cannot be read"),
        (gzip.compress(b""), "cannot be read"),
        (gzip.compress(idx(np.zeros((3, 28, 27), np.uint8))), "cannot be read"),
        (gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))[:-1]), "cannot be read"),
        (gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))), r"1003 images and 4000 labels are not Fashion-MNIST's"),
    ],
    # named, since gzip's header has the time: two processes that collect the tests would not agree
    ids=["no gzip", "cut short", "empty", "narrow images", "an image cut short", "fewer images than labels"],
)
def test_a_damaged_file_is_named(folder, content, message):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        fashion.fashion_task(0)
