"""Image files in batches: in processes, in parts of several hosts, augmented, and when some cannot be read."""

import collections
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_trees import make_domain, picture
from PIL import Image

from vision.data import ArrayDomain, Reading, eval_batches, train_batches
from vision.errors import UserError
from vision.folders import FolderDomain
from vision.paths import Paths

CLASSES = ("cat", "dog", "emu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def domain(tmp_path) -> FolderDomain:
    return domain_of(make_domain(tmp_path / "train", CLASSES, images=4))


def domain_of(root: Path) -> FolderDomain:
    images = {name: Paths.of(sorted((root / name).iterdir())) for name in CLASSES}
    return FolderDomain.of("train", images, CLASSES, 8)


def noisy(image: Image.Image, generator: np.random.Generator) -> np.ndarray:
    return np.asarray(image) ^ generator.integers(0, 256, (8, 8, 3), np.uint8)


def training(domain, **options):
    options = {"seed": 3, "num_steps": 7, "augment": noisy} | options
    return list(train_batches(domain, 4, **options))


def assert_same(batches, expected) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for key, column in batch.items():
            np.testing.assert_array_equal(column, other[key], strict=True)


def damage(domain: FolderDomain, *places: int) -> None:
    for place in places:
        domain.paths[place].write_bytes(b"bad")


# The same bits, whatever reads them


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_change_nothing(domain, workers):
    reading = Reading(workers=workers)
    assert_same(training(domain, reading=reading, first_step=2), training(domain)[2:])
    assert_same(list(eval_batches(domain, 5, reading=reading)), list(eval_batches(domain, 5)))


def test_more_processes_than_batches(domain):
    assert len(list(eval_batches(domain, 12, reading=Reading(workers=2)))) == 1


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_are_rows_of_the_whole(domain, parts):
    whole, size = training(domain), 4 // parts
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        mine = training(domain, reading=Reading(part=part, parts=parts), first_step=3)
        assert_same(mine, [{key: column[rows] for key, column in batch.items()} for batch in whole[3:]])


@pytest.mark.parametrize(("examples", "batch_size"), [(12, 8), (9, 8), (12, 4), (1, 8), (3, 2)])
def test_parts_of_an_evaluation_have_as_many_batches(domain, examples, batch_size):
    few = FolderDomain("few", domain.paths[:examples], domain.labels[:examples], 8)
    whole = list(eval_batches(few, batch_size))
    parts = [list(eval_batches(few, batch_size, reading=Reading(part=part, parts=2))) for part in range(2)]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)]
    assert_same(joined, whole)
    assert sum(batch["weight"].sum() for batch in whole) == examples


def test_a_resumed_run_sees_the_same_pictures(domain):
    assert_same(training(domain, first_step=5), training(domain)[5:])


def test_augmentation_changes_from_epoch_to_epoch_and_with_the_seed(domain):
    zero = lambda image, generator: generator.integers(0, 256, (8, 8, 3), np.uint8)
    images = np.concatenate([batch["image"] for batch in training(domain, augment=zero)])
    others = np.concatenate([batch["image"] for batch in training(domain, augment=zero, seed=4)])
    assert len(np.unique(np.concatenate([images, others]), axis=0)) == 2 * len(images)


def test_augmentation_does_not_change_the_order(domain):
    labels = [batch["label"].tolist() for batch in training(domain)]
    assert [batch["label"].tolist() for batch in training(domain, augment=None)] == labels


def test_a_picture_is_upright_and_not_yet_resized(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    picture((64, 40)).save(tmp_path / "0.png", exif=exif)
    Image.new("RGB", (640, 480)).save(tmp_path / "1.jpg")
    domain = FolderDomain("one", Paths.of([tmp_path / "0.png", tmp_path / "1.jpg"]), np.zeros(2, np.int32), 30)
    shown = [domain.picture(i) for i in range(2)]
    assert [image.size for image in shown] == [(40, 64), (80, 60)], "a JPEG as small as twice the final size allows"
    array = ArrayDomain("array", np.asarray(shown[0])[None], np.zeros(1, np.int32))
    np.testing.assert_array_equal(np.asarray(array.picture(0)), np.asarray(shown[0]))


# Images that cannot be read


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, noisy])
def test_a_bad_image_is_named_in_one_line(domain, workers, augment):
    damage(domain, 5)
    reading = Reading(workers=workers)
    for read in (lambda: training(domain, reading=reading, augment=augment), lambda: list(eval_batches(domain, 4))):
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value) == (
            f"{domain.paths[5]} is not an image that Pillow can read: remove it or save it as PNG or JPEG; "
            "--on-bad-image skip passes over it."
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_a_bad_one(domain, workers):
    clean = training(domain, augment=None)
    damage(domain, 11, 0, 5)
    batches = training(domain, augment=None, reading=Reading(workers=workers, skip_bad=True))
    whole = {tuple(domain[i]["image"].ravel()): i for i in range(12) if i not in (0, 5, 11)}
    seen = lambda batch: [whole.get(tuple(image.ravel()), -1) for image in batch["image"]]
    for batch, before in zip(batches, clean, strict=True):
        expected = seen(before)
        for i, place in enumerate(seen(batch)):
            assert place == expected[i] or (expected[i] == -1 and place in (6, 1) and batch["bad"][i])
            assert batch["label"][i] == domain.labels[place]
        assert batch["bad"].tolist() == [place == -1 for place in expected]
    assert sum(batch["bad"].sum() for batch in batches) >= 6, "three images, two epochs"


def test_a_bad_image_has_no_weight_in_an_evaluation(domain):
    damage(domain, 11, 0, 5)
    batches = list(eval_batches(domain, 5, reading=Reading(skip_bad=True)))
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert weight.dtype == np.float32
    assert np.flatnonzero(weight == 0).tolist() == [0, 5, 11, 12, 13, 14]
    assert np.flatnonzero(np.concatenate([batch["bad"] for batch in batches])).tolist() == [0, 5, 11]


@pytest.mark.parametrize("read", [training, lambda domain, reading: list(eval_batches(domain, 4, reading=reading))])
def test_nothing_but_bad_images(domain, read):
    damage(domain, *range(12))
    with pytest.raises(UserError, match="train: none of its images can be read"):
        read(domain, reading=Reading(skip_bad=True))


# Processes


_RUN = """
import gc, multiprocessing, signal, sys, time
gc.disable()  # JAX has a hook of the collector, in which Python would swallow a Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in the background with it ignored
sys.path[:0] = {path!r}
from test_reading import domain_of
from pathlib import Path
from vision.data import Reading, train_batches

if __name__ == "__main__":
    batches = train_batches(domain_of(Path({root!r})), 4, seed=0, num_steps=10**6, reading=Reading(workers=2))
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    {then}
"""


def started(tmp_path: Path, then: str) -> tuple[subprocess.Popen, list[int]]:
    script = tmp_path / "run.py"
    script.write_text(_RUN.format(path=sys.path, root=str(tmp_path / "train"), then=then))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    return process, workers


def assert_gone(workers: list[int]) -> None:
    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        # One that has ended, but whose parent has not asked, still has its number.
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        return bool(state.strip()) and not state.startswith("Z")

    deadline = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "processes are left over"
        time.sleep(0.1)


def without_ignored(errors: str) -> str:
    """What a run printed, less the exceptions that Python itself ignores."""
    # JAX has a hook of the garbage collector that may meet the Ctrl-C too, while Python ends. Python then prints
    # "Exception ignored in: <function _xla_gc_callback ...>" with a second traceback. It is not ours to catch.
    return re.sub(r"^Exception ignored .*\nTraceback .*\n(?:[ \t].*\n)*.*\n?", "", errors, flags=re.MULTILINE)


def test_an_ignored_exception_alone_is_left_out():
    ours = 'Traceback (most recent call last):\n  File "run.py", line 11, in <module>\nKeyboardInterrupt\n'
    ignored = f"Exception ignored in: <function _xla_gc_callback at 0x7f>\n{ours.strip()}: \n"
    for errors in (ours, ours + ignored, ignored + ours, ignored + ours + ignored):
        assert without_ignored(errors) == ours


def test_ctrl_c_is_one_error_and_leaves_no_process(domain, tmp_path):
    process, workers = started(tmp_path, "time.sleep(60)")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, errors = process.communicate(timeout=60)
    errors = without_ignored(errors)
    assert errors.count("Traceback") == 1, errors
    assert errors.strip().endswith("KeyboardInterrupt")
    assert_gone(workers)


def test_a_killed_run_leaves_no_process(domain, tmp_path):
    process, workers = started(tmp_path, "time.sleep(60)")
    process.kill()
    process.communicate(timeout=60)
    assert_gone(workers)


def test_the_end_of_a_run_is_silent_and_leaves_no_process(domain, tmp_path):
    process, workers = started(tmp_path, "batches.close()")
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    assert_gone(workers)


def test_a_process_that_is_killed_is_told_in_one_line(domain):
    batches = train_batches(domain, 4, seed=0, num_steps=10**6, reading=Reading(workers=2))
    next(batches)
    (victim, *_) = multiprocessing.active_children()
    victim.kill()
    with pytest.raises(UserError, match="a process that decodes images was ended"):
        collections.deque(batches, maxlen=0)
    assert not multiprocessing.active_children()


def test_processes_that_decode_start_no_backend(domain):
    def count(image, generator):
        from jax._src import xla_bridge

        return np.full((8, 8, 3), len(xla_bridge._backends), np.uint8)

    (batch, *_) = training(domain, augment=count, reading=Reading(workers=1))
    assert not batch["image"].any(), "a GPU would be taken from training"


def test_a_data_set_of_any_size_is_shuffled_by_formula():
    class Huge(ArrayDomain):
        def __len__(self):
            return 10**9

        def __getitem__(self, index):
            return {"image": np.zeros((1, 1, 3), np.uint8), "label": np.int32(index)}

    batches = train_batches(Huge("huge", np.zeros(0), np.zeros(0)), 4, seed=0, num_steps=10**9, first_step=10**9 - 2)
    labels = [batch["label"].tolist() for batch in batches]
    assert len(labels) == 2
    assert len(set(itertools.chain(*labels))) == 8
