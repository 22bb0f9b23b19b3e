"""Class folders: the images in them, the names of their classes, and whether two sets of them fit together."""

import os
from collections.abc import Set
from pathlib import Path

from vision.class_map import ClassMap, composed, shortened
from vision.errors import UserError
from vision.paths import Paths

__all__ = [
    "SUFFIXES",
    "Images",
    "by_name",
    "check_same_classes",
    "class_folders",
    "class_images",
    "training_classes",
    "visible",
]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image, in upper or lower case. Other files, and everything hidden, are ignored."""

Images = dict[str, Paths]
"""Image files by class."""


def class_images(root: Path, class_map: ClassMap) -> Images:
    """The images in the class folders of `root`, by class and by name within a folder.

    Raises:
        UserError: The folder is missing, empty or laid out otherwise.
    """
    found: dict[str, list[Paths]] = {}
    for folder, path in class_folders(root, class_map).items():
        name = class_map.of(folder)
        assert name is not None, "class_folders leaves it out"
        found.setdefault(name, []).append(_images(path))
    return {name: Paths.joined(parts) for name, parts in found.items()}


def class_folders(root: Path, class_map: ClassMap) -> dict[str, Path]:
    """The class folders in `root` by name, without those that the class map leaves out.

    Raises:
        UserError: The folder is missing, or has images but no class folders.
    """
    entries = visible(root)
    if stray := [path for path, is_folder in entries if not is_folder and _is_image(path.name)]:
        raise UserError(f"{stray[0]} is in no class folder: put it into a sub-folder of {root} named after its class.")
    folders = by_name([path for path, is_folder in entries if is_folder])
    if not folders:
        raise UserError(f"{root} has no class folders: give it one sub-folder of images for each class.")
    kept = {name: path for name, path in folders.items() if class_map.of(name) is not None}
    if not kept:
        raise UserError(f"{root} has no classes left: {class_map.path} leaves out all its folders.")
    return kept


def training_classes(training: Path, names: Set[str], class_map: ClassMap) -> tuple[str, ...]:
    """The classes of the training images, sorted.

    Raises:
        UserError: There is only one, or the class map has others.
    """
    classes = tuple(sorted(names))
    if len(classes) < 2:
        only = ", ".join(classes)
        raise UserError(f"{training} has only one class folder ({only}): a classifier needs at least two.")
    class_map.check(classes)
    return classes


def check_same_classes(
    training: Path, expected: Set[str], folder: Path, found: Set[str], *, ood: bool = False, subset: bool = False
) -> None:
    """Refuses classes that differ from those of the training images.

    Args:
        training: Where the training images are.
        expected: Their classes.
        folder: The folder in question.
        found: Its classes.
        ood: It is one that may have a subset of the classes, if `subset`.
        subset: A subset was asked for.

    Raises:
        UserError: It says what is missing, what is too much, and the ways out.
    """
    lacking = set() if ood and subset else expected - found
    differences = [
        f"{word} {shortened(names)}"
        for word, names in (("lacks", lacking), ("has the extra", found - expected))
        if names
    ]
    if differences:
        way_out = "rename, add or remove folders until they are the same, or map their names with --class-map FILE"
        if ood and lacking:
            way_out += "; with --ood-subset it may lack some, and is scored among those it has"
        raise UserError(
            f"{folder} does not have the class folders of {training}: it {' and '.join(differences)}; {way_out}."
        )


def by_name(folders: list[Path]) -> dict[str, Path]:
    """Folders by name.

    Raises:
        UserError: Two have the same name in different encodings.
    """
    named = {composed(path.name): path for path in folders}
    if len(named) < len(folders):
        twin = next(path for path in folders if path not in named.values())
        raise UserError(f"{twin} has the same name as another folder but for its encoding: merge the two.")
    return named


def visible(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, by name and without hidden entries, and whether each is itself a folder."""
    return [(folder / name, is_folder) for name, is_folder in _entries(folder)]


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """As `visible`, by name alone: a class may have very many."""
    try:
        with os.scandir(folder) as entries:  # tells folders from files without a look at each
            return sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except FileNotFoundError:
        raise UserError(f"{folder} does not exist: check the path.") from None
    except NotADirectoryError:
        raise UserError(f"{folder} is not a folder: give a folder with one sub-folder of images per class.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from None


def _images(folder: Path) -> Paths:
    """The images of one class, by name."""
    entries = _entries(folder)
    if nested := [name for name, is_folder in entries if is_folder]:
        # Silently reading deeper would make classes "train" and "val" of a folder given one level too high.
        nested_folder = folder / nested[0]
        raise UserError(
            f"{nested_folder} is a folder inside a class folder: move its images up, or give a folder below."
        )
    images = [os.path.join(folder, name) for name, _ in entries if _is_image(name)]
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))}): add some or remove the class folder.")
    return Paths.of(images)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES
