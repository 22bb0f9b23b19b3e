"""What is known of image files from earlier runs, and what of it reaches a task."""

import multiprocessing
import os
from pathlib import Path

import pytest
from image_trees import make_domain

from vision import checks, verdicts
from vision.data import eval_batches
from vision.errors import UserError
from vision.folders import folder_task
from vision.images import read_image

CLASSES = ("cat", "dog")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))
    return tmp_path / ".cache" / "images.sqlite"


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that are decoded before the first step."""
    paths = []

    def read(path, prepare):
        paths.append(path)
        return read_image(path, prepare)

    monkeypatch.setattr(checks, "read_image", read)
    return paths


@pytest.fixture
def root(tmp_path) -> Path:
    return make_domain(tmp_path / "images", CLASSES)


def build(root: Path, **options):
    return folder_task(root, root, {"same": root}, 8, **options)


def test_a_file_is_decoded_once_in_one_run_and_not_in_the_next(root, decoded):
    build(root)
    assert sorted(decoded) == sorted(root.glob("*/*"))
    build(root)
    assert len(decoded) == 4


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_changed_file_is_looked_at_again(root, decoded, change):
    build(root)
    path = root / "dog" / "1.png"
    stat = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b" ")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    build(root)
    assert decoded[4:] == [path]


def test_a_known_bad_image_is_the_same_error_at_once(root, decoded):
    (root / "dog" / "1.png").write_bytes(b"bad")
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            build(root)
        messages.append(str(caught.value))
    assert len(decoded) == 4
    assert messages[0] == messages[1]


def test_bad_images_are_left_out_with_a_note(root):
    for name in ("dog/1.png", "cat/0.png"):
        (root / name).write_bytes(b"bad")
    for _ in range(2):
        task = build(root, skip_bad=True)
        assert [str(path.relative_to(root)) for path in task.train.paths] == ["cat/1.png", "dog/0.png"]
        assert task.train.labels.tolist() == [0, 1]
        assert len(task.ood["same"]) == len(task.validation) == 2
        assert task.id_test is task.validation
        named = ", ".join(str(root / name) for name in ("cat/0.png", "dog/1.png"))
        assert task.notes == (f"Left out 2 images that cannot be read: {named}",)


def test_no_image_of_a_domain_can_be_read(root):
    for path in root.glob("*/*"):
        path.write_bytes(b"bad")
    with pytest.raises(UserError, match="train: none of its images can be read"):
        build(root, skip_bad=True)


def test_a_large_set_is_not_read_before_the_first_step(root, decoded, monkeypatch):
    monkeypatch.setattr(checks, "_MOST_NEW", 3)
    bad = root / "dog" / "1.png"
    bad.write_bytes(b"bad")
    task = build(root)
    assert (decoded, len(task.train)) == ([], 4)
    assert task.notes == ("More than 3 images are new: they are not read first, damaged ones are met as they come",)
    with pytest.raises(UserError) as met:
        list(eval_batches(task.train, 2))
    with pytest.raises(UserError) as known:
        build(root)
    assert str(met.value) == str(known.value), "what was met is remembered"
    assert decoded == []


def test_what_may_be_a_fault_of_the_disk_is_not_remembered(root, monkeypatch):
    def fails(path, *args):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("PIL.Image.open", fails)
        with pytest.raises(UserError, match="Input/output error"):
            build(root)
    build(root)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_store_is_as_if_absent(root, cache, decoded, content):
    build(root)
    cache.write_bytes(content)
    build(root)
    build(root)
    assert len(decoded) == 8


def test_a_store_that_cannot_be_written_is_a_warning(root, cache):
    cache.parent.parent.joinpath(".cache").write_bytes(b"a file")
    with pytest.warns(UserWarning, match="set FTP_OPTAX_CACHE to a writable directory"):
        assert len(build(root).train) == 4


def _write(start: int) -> None:
    for i in range(start, start + 50):
        verdicts.remember([(i.to_bytes(16, "big"), None)])


def test_several_processes_write(cache):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(start,)) for start in (0, 1000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    keys = [i.to_bytes(16, "big") for start in (0, 1000) for i in range(start, start + 50)]
    assert verdicts.known(keys) == dict.fromkeys(keys)
