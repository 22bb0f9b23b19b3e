"""Tasks that are learned one after the other: the same objects in one appearance or style after another."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from robust.finetune import Start, start
from robust.splits import emoji_task
from robust.styles import SEEN as COLOUR_STYLES
from robust.training import OnStep
from vision.data import ArrayDomain, Domain
from vision.digits import SEEN, digits_task
from vision.foundation import pretrained_digits_model
from vision.networks import split_model

__all__ = ["SEQUENCES", "TaskSequence", "digits_sequence", "emoji_sequence"]

SEQUENCES = {
    "digits": ("clean", "inverted", "rotated", "coloured", "photo"),
    "emoji": ("six colour styles", "fluent-high-contrast", "openmoji", "emojione-monotone"),
}
"""The tasks in turn; the first one is what the foundation model knows."""

_IMAGES = 100  # of each later task of the digits


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """A foundation model and what is to be learned after it.

    Attributes:
        start: The foundation model.
        train: The images of each later task, in turn. No task sees another one's.
        validation: Images of every task, the foundation model's first, to choose hyper-parameters by.
        test: Images of every task, for the report.
    """

    start: Start
    train: Mapping[str, Domain]
    validation: Mapping[str, Domain]
    test: Mapping[str, Domain]


def digits_sequence(seed: int, smallest: bool = False, on_step: OnStep | None = None) -> TaskSequence:
    """A small network that knows clean digits, then a hundred images each of four other appearances."""
    task = digits_task(seed, smallest=smallest)
    photo = task.train
    assert isinstance(task.pretrain, ArrayDomain)
    assert isinstance(photo, ArrayDomain)
    images, labels = (np.split(part, len(SEEN)) for part in (task.pretrain.images, task.pretrain.labels))
    domains = {name: ArrayDomain(name, *pair) for name, *pair in zip(SEEN, images, labels, strict=True)}
    kept = len(labels[0]) // 4  # the last quarter of the digits, the same ones in each appearance, is for validation
    first, *later = SEQUENCES["digits"]
    task = replace(task, pretrain=_part(domains[first], slice(None, -kept)))
    network, params = split_model(pretrained_digits_model(task, seed, on_step=on_step))
    validation = {name: _part(domain, slice(-kept, None)) for name, domain in domains.items()}
    of_photo = {"photo": task.validation}
    return TaskSequence(
        Start(task, network, params),
        train={name: _part((domains | {"photo": photo})[name], slice(_IMAGES)) for name in later},
        validation={name: (validation | of_photo)[name] for name in (first, *later)},
        test={name: task.id_test if name == "photo" else task.ood[name] for name in (first, *later)},
    )


def emoji_sequence(seed: int, on_step: OnStep | None = None) -> TaskSequence:
    """EfficientNet-Lite0 that knows six colour styles, then three other styles.

    Raises:
        UserError: npm, a package or resvg is missing.
    """
    first, *later = SEQUENCES["emoji"]
    tasks = {name: emoji_task(seed, name) for name in (*COLOUR_STYLES, *later)}
    mixed = lambda part: _joined(first, [getattr(tasks[name], part) for name in COLOUR_STYLES])
    return TaskSequence(
        start("emoji", later[0], seed, on_step=on_step),
        train={name: tasks[name].train for name in later},
        validation={first: mixed("validation")} | {name: tasks[name].validation for name in later},
        test={first: mixed("id_test")} | {name: tasks[name].id_test for name in later},
    )


def _part(domain: ArrayDomain, which: slice) -> ArrayDomain:
    return ArrayDomain(domain.name, domain.images[which], domain.labels[which])


def _joined(name: str, domains: list[ArrayDomain]) -> ArrayDomain:
    images, labels = ([getattr(domain, part) for domain in domains] for part in ("images", "labels"))
    return ArrayDomain(name, np.concatenate(images), np.concatenate(labels))
