"""Paths in little memory, and the files of a task kept with a run."""

import dataclasses
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_trees import make_domain

from vision.errors import UserError
from vision.folders import FolderDomain, folder_task
from vision.listing import load_listing, store_listing
from vision.paths import Paths

CLASSES = ("cat", "dog", "émeu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def task(tmp_path):
    for name in ("train", "val"):
        make_domain(tmp_path / name, CLASSES)
    make_domain(tmp_path / "sketch", CLASSES[1:])
    ood = {"sketch": tmp_path / "sketch"}
    return folder_task(tmp_path / "train", tmp_path / "val", ood, 8, ood_subset=True)


# Paths


def test_paths_are_a_sequence():
    names = ["a/1.png", "a/two words.png", "b/é.png", "a/3.png", os.fsdecode(b"b/\xff.png"), "alone.png", "/root.png"]
    paths, expected = Paths.of(names), [Path(name) for name in names]
    assert list(paths) == expected
    assert (paths[-1], paths[np.int64(2)]) == (expected[-1], expected[2])
    assert list(paths[1:4]) == expected[1:4]
    places = np.array([5, 0, 0, 4])
    assert list(paths[places]) == [expected[i] for i in places]
    assert list(paths[np.zeros(0, int)]) == list(Paths.of(())) == list(Paths.joined([])) == []
    assert list(Paths.joined([paths[places], paths, Paths.of(["b/new.png"])])) == (
        [expected[i] for i in places] + expected + [Path("b/new.png")]
    )
    assert list(pickle.loads(pickle.dumps(paths))) == expected
    with pytest.raises(IndexError):
        paths[len(names)]


def test_a_listing_takes_few_bytes_for_a_file():
    """A `Path` and its strings take 300, and every process has a copy."""
    images = {
        f"n{label:08}": Paths.of(f"/data/imagenet/train/n{label:08}/n{label:08}_{i}.JPEG" for i in range(1000))
        for label in range(100)
    }
    domain = FolderDomain.of("train", images, tuple(images), 224)
    assert len(domain) == 100_000
    assert domain.paths.nbytes + domain.labels.nbytes < 36 * len(domain)
    assert len(pickle.dumps(domain)) < 37 * len(domain)


# The listing of a run


def assert_same(task, expected) -> None:
    for key in ("name", "classes", "image_size", "ood_groups", "ood_labels", "notes", "pretrain"):
        assert getattr(task, key) == getattr(expected, key)
    assert list(task.ood) == list(expected.ood)
    for role in ("train", "validation", "id_test"):
        assert_same_domain(getattr(task, role), getattr(expected, role))
    for name, domain in task.ood.items():
        assert_same_domain(domain, expected.ood[name])
    assert (task.id_test is task.validation) == (expected.id_test is expected.validation)


def assert_same_domain(domain, expected) -> None:
    assert (domain.name, list(domain.paths), domain.image_size) == (
        expected.name,
        list(expected.paths),
        expected.image_size,
    )
    np.testing.assert_array_equal(domain.labels, expected.labels, strict=True)


@pytest.mark.parametrize("apart", [False, True])
def test_a_task_comes_back_without_its_folders(task, tmp_path, apart):
    if apart:
        task = dataclasses.replace(task, id_test=task.ood["sketch"], notes=("one", "two"))
    store_listing(tmp_path / "run" / "files", task)
    for name in ("train", "val", "sketch"):
        shutil.rmtree(tmp_path / name)
    assert_same(load_listing(tmp_path / "run" / "files"), task)


def test_a_run_goes_on_from_another_directory(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    relative = folder_task(Path("train"), Path("val"), {}, 8)
    store_listing(Path("files"), relative)
    monkeypatch.chdir("/")
    assert load_listing(tmp_path / "files").train.paths[0] == tmp_path / "train" / "cat" / "0.png"


def test_a_listing_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"files does not exist: the run cannot go on"):
        load_listing(tmp_path / "files")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_listing(task, tmp_path, kept):
    path = tmp_path / "files"
    store_listing(path, task)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="is damaged"):
        load_listing(path)


def test_a_listing_with_a_changed_byte(task, tmp_path):
    path = tmp_path / "files"
    store_listing(path, task)
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with pytest.raises(UserError, match="files is damaged"):
            load_listing(path)
