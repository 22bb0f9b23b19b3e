"""A data set of many domains as it lies on disk: a root with one folder a domain, in it one sub-folder per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vision.class_folders import (
    Images,
    by_name,
    check_same_classes,
    class_folders,
    class_images,
    training_classes,
    visible,
)
from vision.class_map import FOLDER_NAMES, ClassMap, same_name, shortened
from vision.data import Task
from vision.errors import UserError
from vision.folders import FolderDomain, checked_task

__all__ = ["dataset_task"]


def dataset_task(
    root: Path,
    id_name: str | None,
    ood_names: Sequence[str],
    image_size: int,
    *,
    val_fraction: float,
    seed: int,
    class_map: ClassMap = FOLDER_NAMES,
    ood_subset: bool = False,
) -> Task:
    """A task made of the domains of one data set.

    A domain that has lists of its training and test images beside it, as DomainNet has them, keeps that split. The
    images of another domain are all for testing where it is OOD, and split at random where it is ID. The validation
    images are a share of the ID domain's training images.

    Args:
        root: The folder with one sub-folder per domain.
        id_name: The domain to fine-tune on.
        ood_names: The domains to test on; all others if there are none.
        image_size: Height and width to which images are brought.
        val_fraction: Share of the images of every class to hold out for validation, and once more for testing where
            there is no list.
        seed: Of the random split.
        class_map: Names of classes where they are not the names of the folders.
        ood_subset: OOD domains may lack classes, and are then scored among those that they have.

    Returns:
        The task; its classes are the sorted names of the classes of the ID domain.

    Raises:
        UserError: The folders are laid out otherwise, a domain is not there, classes differ, or an image cannot be
            read. It names the first offender and says what to do.
    """
    domains, no_domains = _domains(root)
    id_name = _chosen(root, domains, "--id", id_name)
    ood_names = [_chosen(root, domains, "--ood", name) for name in ood_names] or [n for n in domains if n != id_name]
    if id_name in ood_names:
        raise UserError(f"--ood {id_name}: is the domain to fine-tune on, --id; name others.")

    named = {name: _class_names(domains[name], class_map) for name in (id_name, *ood_names)}
    classes = training_classes(domains[id_name], named[id_name], class_map)
    for name in ood_names:
        check_same_classes(domains[id_name], set(classes), domains[name], named[name], ood=True, subset=ood_subset)

    lists = {name: lists for name in (id_name, *ood_names) if (lists := _lists(root, name))}
    parts = _id_parts(domains[id_name], lists.get(id_name), class_map, val_fraction, seed)
    ood = {
        name: _listed(lists[name].test, domains[name], class_map)
        if name in lists
        else class_images(domains[name], class_map)
        for name in ood_names
    }
    domain = lambda name, images: FolderDomain.of(name, images, classes, image_size)
    return checked_task(
        classes,
        domain(id_name, parts.train),
        domain(id_name, parts.validation),
        id_test=domain(id_name, parts.test),
        ood={name: domain(name, images) for name, images in ood.items()},
        ood_classes={name: named[name] for name in ood_names},
        notes=(
            _id_note(id_name, lists.get(id_name), val_fraction, seed),
            *_ood_notes(ood_names, lists),
            *_scarce_notes(classes, parts),
            *class_map.notes,
            *([f"No domain, for there are no folders in it: {shortened(no_domains)}"] if no_domains else []),
        ),
    )


def stratified(images: Images, fraction: float, seed: int, *, shares: int) -> list[Images]:
    """Cuts the images of every class at random into shares of `fraction` and, last, the rest.

    A share has at least one image of a class, unless the rest would be left with none: then the class is not cut.

    Args:
        images: By class, in an order that does not depend on the machine.
        fraction: Of a class, in each share.
        seed: Of the choice.
        shares: How many besides the rest.
    """
    generator = np.random.default_rng(seed)
    parts: list[Images] = [{} for _ in range(shares + 1)]
    for name in sorted(images):
        total = len(images[name])
        each = max(1, round(fraction * total))
        if shares * each >= total:
            each = 0
        cuts = [each * (share + 1) for share in range(shares)]
        for part, indices in zip(parts, np.split(generator.permutation(total), cuts), strict=True):
            part[name] = [images[name][index] for index in sorted(indices)]
    return parts


class _Lists(NamedTuple):
    """The files that list a domain's training and test images."""

    train: Path
    test: Path


class _Parts(NamedTuple):
    """The images of the ID domain."""

    train: Images
    validation: Images
    test: Images


def _domains(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The domains in `root` by name, and the names of its folders that are none."""
    folders = by_name([path for path, is_folder in visible(root) if is_folder])
    domains = {name: path for name, path in folders.items() if any(is_folder for _, is_folder in visible(path))}
    if not domains:
        tables = sorted(root.glob("*metadata.csv"))
        raise UserError(
            f"{root} has no domains: give a folder with one sub-folder a domain, in each one sub-folder a class"
            + (f", or --dataset {tables[0]} if this is a data set of WILDS." if tables else ".")
        )
    return domains, [name for name in folders if name not in domains]


def _chosen(root: Path, domains: Mapping[str, Path], flag: str, name: str | None) -> str:
    if name is None:
        raise UserError(
            f"--dataset {root}: say which domain to fine-tune on, {flag} NAME; it has {', '.join(domains)}."
        )
    if same_name(name) not in domains:
        raise UserError(f"{flag} {name}: {root} has no such domain; it has {', '.join(domains)}.")
    return same_name(name)


def _class_names(domain: Path, class_map: ClassMap) -> set[str]:
    return {name for folder in class_folders(domain, class_map) if (name := class_map.of(folder)) is not None}


def _lists(root: Path, name: str) -> _Lists | None:
    """The lists of a domain, if there are any."""
    lists = _Lists(root / f"{name}_train.txt", root / f"{name}_test.txt")
    missing = [path for path in lists if not path.exists()]
    if len(missing) == 1:
        (found,) = set(lists) - set(missing)
        raise UserError(f"{missing[0]} does not exist, but {found} does: put both there, or none for a random split.")
    return None if missing else lists


def _listed(path: Path, domain: Path, class_map: ClassMap) -> Images:
    """The images in a list, by class: lines such as `real/dog/real_094_000001.jpg 93`."""
    folders = class_folders(domain, FOLDER_NAMES)
    images: Images = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it or remove it.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = PurePosixPath(line.strip().rpartition(" ")[0]).parts
        if len(parts) != 3 or same_name(parts[0]) != same_name(domain.name) or same_name(parts[1]) not in folders:
            raise UserError(
                f"{path}: line {number} is not of the form {domain.name}/CLASS/IMAGE LABEL with a class of {domain}; "
                "correct it, or remove the lists for a random split."
            )
        folder = same_name(parts[1])
        if (name := class_map.of(folder)) is not None:
            images.setdefault(name, []).append(folders[folder] / parts[2])
    if not images:
        raise UserError(f"{path} lists no images: replace it, or remove the lists for a random split.")
    return images


def _id_parts(domain: Path, lists: _Lists | None, class_map: ClassMap, val_fraction: float, seed: int) -> _Parts:
    if lists is None:
        test, validation, train = stratified(class_images(domain, class_map), val_fraction, seed, shares=2)
    else:
        test = _listed(lists.test, domain, class_map)
        validation, train = stratified(_listed(lists.train, domain, class_map), val_fraction, seed, shares=1)
    if not any(validation.values()):
        raise UserError(f"{domain} has too few images to hold any out: three of a class are the least.")
    return _Parts(train, validation, test)


def _id_note(name: str, lists: _Lists | None, val_fraction: float, seed: int) -> str:
    share = f"{100 * val_fraction:g} % of"
    if lists is None:
        return f"ID {name}: {share} every class for validation and as many for the test, at random, seed {seed}"
    return (
        f"ID {name}: split of {lists.train.name} and {lists.test.name}; {share} the former for validation, seed {seed}"
    )


def _ood_notes(names: Sequence[str], lists: Mapping[str, _Lists]) -> list[str]:
    whole = [name for name in names if name not in lists]
    listed = [lists[name].test.name for name in names if name in lists]
    return [f"OOD: the images of {', '.join(listed)}"] * bool(listed) + [f"OOD: all of {', '.join(whole)}"] * bool(
        whole
    )


def _scarce_notes(classes: Sequence[str], parts: _Parts) -> list[str]:
    """Which classes the parts of the ID domain do not have."""
    lacking = {part: [name for name in classes if not images.get(name)] for part, images in parts._asdict().items()}
    return [f"No {part} images of {shortened(names)}" for part, names in lacking.items() if names]
