"""Domains, tasks and batches: everything training and evaluation know about data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import grain
import numpy as np
from PIL import Image

from vision.errors import UserError
from vision.reading import read

__all__ = [
    "ArrayDomain",
    "Augment",
    "Domain",
    "Example",
    "Reading",
    "Task",
    "eval_batches",
    "steps_in",
    "train_batches",
]

_FEW = 1000

Example = dict[str, Any]

Augment = Callable[[Image.Image, np.random.Generator], np.ndarray]
"""Makes a training image of the final size, uint8 (height, width, 3), out of a decoded picture, at random."""


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

    def picture(self, index: int) -> Image.Image:
        """The image in RGB and upright, before it is resized."""
        ...

    def at(self, places: np.ndarray) -> "Domain":
        """The images at these places."""
        ...


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

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def at(self, places: np.ndarray) -> "ArrayDomain":
        return replace(self, images=self.images[places], labels=self.labels[places])


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
        interpolation: Pillow's number of the filter that resizes random crops.
        available: How many training images there are, where `train` has only some of them.
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
    interpolation: int = Image.Resampling.BICUBIC
    available: int | None = None

    @property
    def epoch(self) -> int:
        """Images in an epoch: as many as there are, so that training on few of them takes as many steps."""
        return self.available or len(self.train)


@dataclass(frozen=True)
class Reading:
    """How batches are read; but for `skip_bad`, this changes no bit of them.

    Attributes:
        workers: Processes that decode images; 0 for threads of this one.
        part: Which share of every batch this process reads, where several hosts read one each.
        parts: How many shares there are; the batch size is a multiple.
        skip_bad: Pass over images that cannot be read.
    """

    workers: int = 0
    part: int = 0
    parts: int = 1
    skip_bad: bool = False


def steps_in(num_examples: int, batch_size: int, epochs: int) -> int:
    """Number of batches that show every example at least `epochs` times.

    Batches run on across epoch boundaries (see `train_batches`), so only the last epoch is rounded up.
    """
    return -(-num_examples * epochs // batch_size)


def train_batches(
    domain: Domain,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    num_steps: int,
    epoch: int | None = None,
    augment: Augment | None = None,
    reading: Reading = Reading(),
) -> Iterator[Example]:
    """Shuffled training batches `first_step, ..., num_steps - 1`, each a pure function of `(seed, step)`.

    The examples are reshuffled every epoch and the epochs are joined before they are cut into batches: every run of
    `len(domain)` consecutive examples that starts at an epoch boundary holds each example once, no ragged tail is
    dropped, and a data set smaller than one batch works.

    Args:
        domain: Where the examples come from; at least one.
        batch_size: Examples in each batch, over all parts.
        seed: Of the order of the examples, and of augmentation.
        first_step: The first batch wanted. A resumed run passes the number of steps it has done, and gets exactly the
            batches that the uninterrupted run would have got; nothing before them is read.
        num_steps: Number of steps of the whole run, counted from 0, not from `first_step`.
        epoch: Examples in an epoch, those of the domain in turn; as many as it has if not given.
        augment: What is done to images at random, by the place of the example in the whole run.
        reading: How they are read. Of an image that is passed over, the next one takes the place.

    Returns:
        An iterator over `{"image": uint8 (rows, height, width, 3), "label": int32 (rows,), "bad": bool (rows,)}`, where
        `"bad"` says that an image was passed over, and there are `batch_size // reading.parts` rows.

    Raises:
        ValueError: For an empty domain, which would otherwise never yield.
        UserError: While reading: an image cannot be read, or with `skip_bad` no image can.
    """
    if len(domain) == 0:
        raise ValueError(f"domain {domain.name!r} has no examples to train on.")
    size = epoch or len(domain)
    # As many epochs as the run needs and not endlessly many: grain cannot batch an endless data set by ones.
    epochs = max(1, -(-num_steps * batch_size // size))
    examples = _Examples(domain, reading.skip_bad, augment)
    if augment is not None:
        rows = _shuffled(size, seed, epochs).random_map(examples)
    elif size > _FEW:
        rows = _shuffled(size, seed, epochs).map(examples)
    else:
        order = grain.MapDataset.range(size * epochs).map(lambda i: _order(size, seed, i // size)[i % size])
        rows = order.map(examples)
    parts = slice(first_step * reading.parts + reading.part, num_steps * reading.parts, reading.parts)
    batches = rows.batch(batch_size // reading.parts).slice(parts)
    return read(batches, threads=_threads(domain), workers=reading.workers)


def _shuffled(size: int, seed: int, epochs: int) -> grain.MapDataset:
    """Indices, shuffled by a formula: nothing of the size of the data set is made."""
    return grain.MapDataset.range(size).seed(seed).shuffle().repeat(epochs)


@lru_cache(maxsize=1024)
def _order(size: int, seed: int, epoch: int) -> tuple[Any, ...]:
    """The same of one epoch, kept for the other methods: for few indices the formula takes long, 0.1 ms each of 300."""
    shuffled = _shuffled(size, seed, epoch + 1)
    return tuple(shuffled[index] for index in range(epoch * size, (epoch + 1) * size))


def eval_batches(domain: Domain, batch_size: int, *, reading: Reading = Reading()) -> Iterator[Example]:
    """All examples of a domain in order, in batches of one shape, so that a jitted evaluation compiles once.

    The last batch is filled up with zeros. The extra column `"weight"` (float32) is 1 for an example and 0 for filling,
    and for an image that was passed over: accuracies are weighted means.

    Args:
        domain: Where the examples come from.
        batch_size: Rows in each batch, over all parts.
        reading: How they are read. Every part has the same number of batches.

    Returns:
        An iterator over `{"image", "label", "bad", "weight"}`.

    Raises:
        UserError: While reading: an image cannot be read, or with `skip_bad` no image can.
    """
    examples = grain.MapDataset.range(len(domain)).map(_Examples(domain, reading.skip_bad))
    batches = examples.batch(batch_size // reading.parts)
    steps = grain.MapDataset.range(reading.part, steps_in(len(domain), batch_size, 1) * reading.parts, reading.parts)
    padded = steps.map(_Padded(batches, batch_size // reading.parts))
    return read(padded, threads=_threads(domain), workers=reading.workers)


@dataclass(frozen=True)
class _Examples:
    """Examples of a domain by their indices."""

    domain: Domain
    skip_bad: bool
    augment: Augment | None = None

    def __call__(self, index: int, generator: np.random.Generator | None = None) -> Example:
        size = len(self.domain)
        for skipped in range(size):
            place = (index + skipped) % size
            try:
                example, picture = self._read(place)
            except UserError:
                if not self.skip_bad:
                    raise
                continue
            if picture is not None:
                assert self.augment is not None
                assert generator is not None
                example["image"] = self.augment(picture, generator)
            return {**example, "bad": np.bool_(skipped > 0)}
        raise UserError(f"{self.domain.name}: none of its images can be read; replace them.")

    def _read(self, index: int) -> tuple[Example, Image.Image | None]:
        if self.augment is None:
            return self.domain[index], None
        return {"label": self.domain.labels[index]}, self.domain.picture(index)


@dataclass(frozen=True)
class _Padded:
    """Batches of one shape: filled up, also where all batches have ended and other parts have one more."""

    batches: grain.MapDataset
    rows: int

    def __call__(self, step: int) -> Example:
        ended = step >= len(self.batches)
        batch = self.batches[0 if ended else step]  # for the shapes
        assert batch is not None, "no element is filtered out"
        count = 0 if ended else len(batch["label"])
        weight = np.ones(count, np.float32) * ~batch["bad"][:count]
        return {key: self._filled(column[:count]) for key, column in {**batch, "weight": weight}.items()}

    def _filled(self, column: np.ndarray) -> np.ndarray:
        missing = self.rows - len(column)
        return np.concatenate([column, np.zeros((missing, *column.shape[1:]), column.dtype)]) if missing else column


def _threads(domain: Domain) -> int:
    # Rows of an array are pure Python work, which a second thread only slows down; image files decode in parallel.
    return 1 if isinstance(domain, ArrayDomain) else 4
