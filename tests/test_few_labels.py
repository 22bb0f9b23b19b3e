"""Few labels: how many of each class, which, and for how many steps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from image_trees import make_domain

from vision.config import Config
from vision.data import ArrayDomain, Task
from vision.digits import digits_task
from vision.errors import UserError
from vision.few_labels import check_labels, few_labels
from vision.folders import folder_task
from vision.history import Plan
from vision.training import num_steps

FULL = digits_task(0, smallest=True)


def counts(task: Task) -> list[int]:
    return np.bincount(task.train.labels, minlength=len(task.classes)).tolist()


def pictures(task: Task) -> set[bytes]:
    return {task.train[index]["image"].tobytes() for index in range(len(task.train))}


def uneven(*sizes: int) -> Task:
    """Classes with so many images, each with a grey of its own."""
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    greys = np.broadcast_to(np.arange(len(labels), dtype=np.uint8)[:, None, None, None], (len(labels), 2, 2, 3))
    train = ArrayDomain("train", greys, labels)
    return dataclasses.replace(FULL, classes=tuple(map(str, range(len(sizes)))), train=train)


@pytest.mark.parametrize("count", [10, 20, 30])
def test_every_class_has_as_many(count: int) -> None:
    assert counts(few_labels(digits_task(0), count, 0)) == [count // 10] * 10


def test_what_does_not_come_out_even_differs_by_one() -> None:
    assert sorted(counts(few_labels(uneven(9, 9, 9), 8, 0))) == [2, 3, 3]


def test_a_class_with_too_few_gives_all_and_the_others_more() -> None:
    assert counts(few_labels(uneven(1, 9, 9), 7, 0)) == [1, 3, 3]


def test_images_keep_their_labels_and_few_are_among_more() -> None:
    task = uneven(9, 9, 9)
    greys = [
        {int(few.train[i]["image"][0, 0, 0]) for i in range(n)} for n in (6, 12) for few in [few_labels(task, n, 1)]
    ]
    assert greys[0] < greys[1]
    few = few_labels(task, 12, 1)
    assert [int(few.train[i]["image"][0, 0, 0]) // 9 for i in range(12)] == few.train.labels.tolist()


def test_another_seed_draws_others_and_the_same_one_the_same() -> None:
    drawn = [pictures(few_labels(FULL, 20, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_training_takes_as_many_steps_and_everything_else_stays() -> None:
    few, config = few_labels(FULL, 10, 0), Config(epochs=3, batch_size=16)
    assert len(few.train) == 10
    assert num_steps(few, config) == num_steps(FULL, config) == 12
    assert Plan.of(config, few, 12) == Plan.of(config, FULL, 12)
    assert few.validation is FULL.validation
    assert few.id_test is FULL.id_test
    assert few_labels(FULL, None, 0) is FULL


def test_image_files_are_drawn_too(tmp_path: Path) -> None:
    root = make_domain(tmp_path, ("cat", "dog"))
    few = few_labels(folder_task(root, root, {}, 8), 2, 0)
    assert counts(few) == [1, 1]
    assert [path.parent.name for path in few.train.paths] == ["cat", "dog"]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((30, None, 65), "--labels 65: there are 64 training images; give at most 64, or all"),
        ((9, 30), "--labels 9: every class needs an image; give 10 or more"),
    ],
)
def test_a_number_that_the_task_cannot_have_is_refused(given: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        check_labels(FULL, given)


def test_the_numbers_that_the_task_can_have_are_not() -> None:
    check_labels(FULL, (10, 64, None))
