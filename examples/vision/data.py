"""Domains, tasks and batches: everything training and evaluation know about data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import grain
import numpy as np

__all__ = ["ArrayDomain", "Domain", "Example", "Task", "eval_batches", "steps_in", "train_batches"]

Example = dict[str, Any]


class Domain(Protocol):
    """Labelled images from one distribution, with random access (the protocol that `grain` sources follow).

    `domain[i]` is `{"image": uint8 (height, width, 3), "label": int32}`. `labels` is known without reading an image.
    """

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True, eq=False)
class ArrayDomain:
    """A domain held in memory.

    Attributes:
        name: What tables and figures call it.
        images: uint8, `(n, height, width, 3)`.
        labels: int32, `(n,)`.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": self.labels[index]}


@dataclass(frozen=True, eq=False)
class Task:
    """One fine-tuning problem: a domain to train on (ID) and others to stay good at (OOD).

    Attributes:
        name: `"digits"` or `"folders"`.
        classes: Class names; a label is an index into them.
        image_size: Height and width of every image.
        train: The fine-tuning images.
        validation: ID images for choosing hyper-parameters.
        id_test: ID images for the final report; `validation` itself where there is only one held-out set.
        ood: Test domains other than the ID one, in the order in which they are shown.
        ood_groups: Names of `ood` domains that are averaged together, by the group's name.
        ood_labels: The labels that an `ood` domain is scored among, where that is a subset of the classes.
        notes: What the user should know of how the task was made, a line each.
        pretrain: What the foundation model is trained on; None where the user brings one.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Domain
    validation: Domain
    id_test: Domain
    ood: Mapping[str, Domain]
    ood_groups: Mapping[str, tuple[str, ...]]
    ood_labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pretrain: Domain | None = None


def steps_in(num_examples: int, batch_size: int, epochs: int) -> int:
    """Number of batches that show every example at least `epochs` times.

    Batches run on across epoch boundaries (see `train_batches`), so only the last epoch is rounded up.
    """
    return -(-num_examples * epochs // batch_size)


def train_batches(
    domain: Domain, batch_size: int, *, seed: int, first_step: int = 0, num_steps: int
) -> Iterator[Example]:
    """Shuffled training batches `first_step, ..., num_steps - 1`, each a pure function of `(seed, step)`.

    The examples are reshuffled every epoch and the epochs are joined before they are cut into batches: every run of
    `len(domain)` consecutive examples that starts at an epoch boundary holds each example once, no ragged tail is
    dropped, and a data set smaller than one batch works.

    Args:
        domain: Where the examples come from; at least one.
        batch_size: Examples in each batch.
        seed: Of the order of the examples.
        first_step: The first batch wanted. A resumed run passes the number of steps it has done, and gets exactly the
            batches that the uninterrupted run would have got; nothing before them is read.
        num_steps: Number of steps of the whole run, counted from 0, not from `first_step`.

    Returns:
        An iterator over `{"image": uint8 (batch, height, width, 3), "label": int32 (batch,)}`.

    Raises:
        ValueError: For an empty domain, which would otherwise never yield.
    """
    if len(domain) == 0:
        raise ValueError(f"domain {domain.name!r} has no examples to train on.")
    # As many epochs as the run needs and not endlessly many: grain cannot batch an endless data set by ones.
    epochs = max(1, -(-num_steps * batch_size // len(domain)))
    examples = grain.MapDataset.source(domain).seed(seed).shuffle().repeat(epochs)
    steps = examples.batch(batch_size).slice(slice(first_step, num_steps))
    return iter(steps.to_iter_dataset(_read_options(domain)))


def eval_batches(domain: Domain, batch_size: int) -> Iterator[Example]:
    """All examples of a domain in order, in batches of one shape, so that a jitted evaluation compiles once.

    The last batch is filled up with zeros. The extra column `"weight"` (float32) is 1 for an example and 0 for filling:
    accuracies are weighted means.

    Args:
        domain: Where the examples come from.
        batch_size: Rows in each batch.

    Returns:
        An iterator over `{"image", "label", "weight"}`.
    """
    batches = grain.MapDataset.source(domain).batch(batch_size).map(lambda batch: _pad(batch, batch_size))
    return iter(batches.to_iter_dataset(_read_options(domain)))


def _read_options(domain: Domain) -> grain.ReadOptions:
    # Rows of an array are pure Python work, which a second thread only slows down; image files decode in parallel. The
    # queue is short because batches of photographs are large.
    return grain.ReadOptions(num_threads=1 if isinstance(domain, ArrayDomain) else 4, prefetch_buffer_size=4)


def _pad(batch: Example, batch_size: int) -> Example:
    weight = np.ones(len(batch["label"]), np.float32)
    missing = batch_size - len(weight)
    return {
        key: np.concatenate([column, np.zeros((missing, *column.shape[1:]), column.dtype)]) if missing else column
        for key, column in {**batch, "weight": weight}.items()
    }
