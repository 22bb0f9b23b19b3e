"""A share of the fine-tuning labels: nested subsets, as stratified as their size allows, trained on for as long."""

from dataclasses import replace

import numpy as np

from vision.data import Task


def few_labels(task: Task, share: float, seed: int) -> Task:
    """The same task with a share of its fine-tuning images.

    The images that are kept take the places of the others, so that an epoch has as many steps as with all of them: with
    as many epochs instead of steps, 1 % of the digits would be one step, and any method would stay at the foundation
    model. Validation and test images stay as they are.
    """
    if share == 1:
        return task
    kept = stratified_order(task.train.labels, seed)[: images_kept(len(task.train), share)]
    return replace(task, train=task.train.at(np.resize(kept, len(task.train))))


def images_kept(images: int, share: float) -> int:
    """How many images a share of some is: at least one."""
    return max(1, round(share * images))


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order of the images of which every beginning has the classes in their shares, as nearly as its length allows.

    The k-th image of a class, in random order, stands where (k - 1/2) / (images of the class) puts it among all. A
    beginning shorter than the number of classes has some of them only: the most frequent.
    """
    rng = np.random.default_rng((seed, len(labels)))
    places = np.empty(len(labels))
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        places[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return np.lexsort((rng.random(len(labels)), places))  # classes of one size in random order
