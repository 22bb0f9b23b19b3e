"""Few labels: some of the training images, as many of each class, drawn anew for each seed."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vision.data import Task
from vision.errors import UserError

__all__ = ["check_labels", "few_labels"]


def check_labels(task: Task, counts: Sequence[int | None]) -> None:
    """Refuses numbers of labels that the task cannot have.

    Args:
        task: With all its training images.
        counts: Of training images; None for all.

    Raises:
        UserError: A number is below that of the classes, or above that of the images.
    """
    classes, images = len(task.classes), len(task.train)
    for count in filter(None, counts):
        if count > images:
            raise UserError(f"--labels {count}: there are {images} training images; give at most {images}, or all")
        if count < classes:
            raise UserError(f"--labels {count}: every class needs an image; give {classes} or more")


def few_labels(task: Task, count: int | None, seed: int) -> Task:
    """The task with so many of its training images; validation and test stay as they are.

    The images of every class are put in a random order, and taken in turn, one of each class in each round: classes
    differ by at most one image unless one has no more. For one seed few are among more.

    Args:
        task: With all its training images.
        count: How many to keep; None for all.
        seed: Of the draw.
    """
    if count is None:
        return task
    labels, generator = task.train.labels, np.random.default_rng(seed)
    rounds = np.empty(len(labels), int)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        rounds[generator.permutation(mine)] = np.arange(len(mine))
    kept = np.lexsort((generator.random(len(labels)), rounds))[:count]
    return replace(task, train=task.train.at(np.sort(kept)), available=len(labels))
