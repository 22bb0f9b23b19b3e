"""The user's own images: one folder per domain, in it one sub-folder per class."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from vision.checks import OnChecked, examined, way_out
from vision.class_folders import SUFFIXES, Images, check_same_classes, class_images, training_classes
from vision.class_map import FOLDER_NAMES, ClassMap
from vision.data import Example, Task
from vision.errors import UserError
from vision.images import Prepare, is_lasting, open_image, read_image
from vision.paths import Paths
from vision.verdicts import key_of, remember

__all__ = ["SUFFIXES", "FolderDomain", "OnChecked", "Prepare", "checked_task", "folder_task", "read_image"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class FolderDomain:
    """A domain of image files, read when they are asked for.

    Attributes:
        name: What tables and figures call it.
        paths: The image files, class by class and by name within a class.
        labels: int32, `(n,)`.
        image_size: Height and width to which images are brought.
        prepare: How they are, where a model has its own way.
    """

    name: str
    paths: Paths
    labels: np.ndarray
    image_size: int
    prepare: Prepare | None = None

    @classmethod
    def of(cls, name: str, images: Images, classes: Sequence[str], image_size: int) -> "FolderDomain":
        """The domain of image files by class; it may lack classes."""
        parts = [images.get(class_name, Paths.of(())) for class_name in classes]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(part) for part in parts])
        return cls(name, Paths.joined(parts), labels, image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path, prepare = self.paths[index], self.prepare or self.image_size
        return {"image": _noted(path, lambda: read_image(path, prepare)), "label": self.labels[index]}

    def picture(self, index: int) -> Image.Image:
        path = self.paths[index]
        return _noted(path, lambda: open_image(path, self.image_size))

    def at(self, places: np.ndarray) -> "FolderDomain":
        return replace(self, paths=self.paths[places], labels=self.labels[places])


def _noted(path: Path, read: Callable[[], T]) -> T:
    """What is read. If it cannot be, that is remembered for the next run."""
    try:
        return read()
    except UserError as error:
        if is_lasting(error) and (key := key_of(path)):
            remember([(key, str(error))])
        raise UserError(way_out(str(error))) from None


def folder_task(
    train: Path,
    val: Path,
    ood: Mapping[str, Path],
    image_size: int,
    *,
    test: Path | None = None,
    class_map: ClassMap = FOLDER_NAMES,
    ood_subset: bool = False,
    skip_bad: bool = False,
    on_checked: OnChecked = lambda done, total: None,
) -> Task:
    """A task made of the user's own folders.

    Every folder has one sub-folder per class with the images of that class directly in it; all have the same classes.
    Files whose suffix is in `SUFFIXES` are images; others, and everything hidden, are ignored. Links are followed.

    Args:
        train: The folder to fine-tune on.
        val: Held-out images of the same domain.
        ood: Folders of other domains, by the name that tables and figures give them.
        image_size: Height and width to which images are brought (see `read_image`).
        test: Test images of the same domain, `id_test` of the task; `val` is also that if there are none.
        class_map: Names of classes where they are not the names of the sub-folders.
        ood_subset: Folders of other domains may lack classes, and are then scored among those that they have.
        skip_bad: Leave out images that cannot be read.
        on_checked: Progress.

    Returns:
        The task; its classes are the sorted names of the classes in `train`.

    Raises:
        UserError: If a folder is missing, empty or laid out otherwise, classes differ between folders, or an image
            cannot be read. It names the first offender and says what to do.
    """
    held_out = (val,) if test is None else (val, test)
    found = {folder: class_images(folder, class_map) for folder in dict.fromkeys((train, *held_out, *ood.values()))}
    classes = training_classes(train, set(found[train]), class_map)
    for folder in held_out:
        check_same_classes(train, set(classes), folder, set(found[folder]))
    for folder in ood.values():
        check_same_classes(train, set(classes), folder, set(found[folder]), ood=True, subset=ood_subset)

    def domain(name: str, folder: Path) -> FolderDomain:
        return FolderDomain.of(name, found[folder], classes, image_size)

    validation = domain("val", val)
    return checked_task(
        classes,
        domain("train", train),
        validation,
        id_test=validation if test is None else domain("test", test),
        ood={name: domain(name, folder) for name, folder in ood.items()},
        ood_classes={name: set(found[folder]) for name, folder in ood.items()},
        notes=class_map.notes,
        skip_bad=skip_bad,
        on_checked=on_checked,
    )


def checked_task(
    classes: tuple[str, ...],
    train: FolderDomain,
    validation: FolderDomain,
    *,
    id_test: FolderDomain,
    ood: Mapping[str, FolderDomain],
    ood_classes: Mapping[str, Set[str]],
    notes: tuple[str, ...],
    skip_bad: bool = False,
    on_checked: OnChecked,
) -> Task:
    """A task of image files, of which those that are not known are looked at as `examined` says.

    Args:
        classes: Names of the classes.
        train: See `Task`, also for the following.
        validation: Of the training images' domain.
        id_test: As `validation`, or that itself.
        ood: Other domains.
        ood_classes: The classes that each of them has; it is scored among those.
        notes: What the user should know of how the task was made.
        skip_bad: Leave out images that cannot be read.
        on_checked: Progress.

    Raises:
        UserError: An image cannot be read, or with `skip_bad` none of a domain.
    """
    domains = {id(domain): domain for domain in (train, validation, id_test, *ood.values())}
    found = examined([domain.paths for domain in domains.values()], skip_bad=skip_bad, on_checked=on_checked)
    kept = {key: _without(domain, bad) for (key, domain), bad in zip(domains.items(), found.bad, strict=True)}
    subsets = {name: tuple(i for i, c in enumerate(classes) if c in ood_classes[name]) for name in ood}
    return Task(
        name="folders",
        classes=classes,
        image_size=train.image_size,
        train=kept[id(train)],
        validation=kept[id(validation)],
        id_test=kept[id(id_test)],
        ood={name: kept[id(domain)] for name, domain in ood.items()},
        ood_groups={"all": tuple(ood)} if ood else {},
        ood_labels={name: labels for name, labels in subsets.items() if len(labels) < len(classes)},
        notes=(*notes, *found.notes),
    )


def _without(domain: FolderDomain, bad: Sequence[int]) -> FolderDomain:
    if not bad:
        return domain
    kept = np.delete(np.arange(len(domain)), bad)
    if not len(kept):
        raise UserError(f"{domain.name}: none of its images can be read ({domain.paths[0]} and on); replace them.")
    return domain.at(kept)
