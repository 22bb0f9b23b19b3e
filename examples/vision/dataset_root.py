"""A data set of many domains as it lies on disk: a root with one folder a domain, in it one sub-folder per class."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vision.class_folders import by_name, check_same_classes, class_folders, class_images, training_classes, visible
from vision.class_map import FOLDER_NAMES, ClassMap, composed, shortened
from vision.data import Task
from vision.errors import UserError
from vision.folders import FolderDomain, OnChecked, checked_task
from vision.splits import Lists, Split, find_lists, listed_images, split_domain

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
    skip_bad: bool = False,
    on_checked: OnChecked = lambda done, total: None,
) -> Task:
    """A task made of the domains of one data set.

    The ID domain is split as `split_domain` says. Another domain is tested on whole, or where lists lie beside it, on
    the test images that they name.

    Args:
        root: The folder with one sub-folder per domain.
        id_name: The domain to fine-tune on.
        ood_names: The domains to test on; all others if there are none.
        image_size: Height and width to which images are brought.
        val_fraction: Share of every class to hold out for validation, and for the test where no list says which.
        seed: Of the random split.
        class_map: Names of classes where they are not the names of the folders.
        ood_subset: OOD domains may lack classes, and are then scored among those that they have.
        skip_bad: Leave out images that cannot be read.
        on_checked: Progress.

    Returns:
        The task; its classes are the sorted names of the classes of the ID domain.

    Raises:
        UserError: The folders are laid out otherwise, a domain is not there, classes differ, or an image cannot be
            read. It names the first offender and says what to do.
    """
    domains, others = _domains(root)
    id_name = _chosen(root, domains, "--id", id_name)
    ood_names = [_chosen(root, domains, "--ood", name) for name in ood_names] or [n for n in domains if n != id_name]
    if id_name in ood_names:
        raise UserError(f"--ood {id_name}: is the domain to fine-tune on, --id; name others.")

    # By the folders and not by the images: a list may have none of a class that the model is to know all the same.
    has = {name: _class_names(domains[name], class_map) for name in (id_name, *ood_names)}
    classes = training_classes(domains[id_name], has[id_name], class_map)
    for name in ood_names:
        check_same_classes(domains[id_name], has[id_name], domains[name], has[name], ood=True, subset=ood_subset)

    lists = {name: find_lists(domains[name]) for name in has}
    split = split_domain(domains[id_name], lists[id_name], class_map, val_fraction, seed)

    def ood_domain(name: str) -> FolderDomain:
        found, folder = lists[name], domains[name]
        images = listed_images(found.test, folder, class_map) if found else class_images(folder, class_map)
        return FolderDomain.of(name, images, classes, image_size)

    return checked_task(
        classes,
        FolderDomain.of(id_name, split.training, classes, image_size),
        FolderDomain.of(id_name, split.validation, classes, image_size),
        id_test=FolderDomain.of(id_name, split.test, classes, image_size),
        ood={name: ood_domain(name) for name in ood_names},
        ood_classes={name: has[name] for name in ood_names},
        notes=(
            _id_note(id_name, lists[id_name], val_fraction, seed),
            *_ood_notes({name: lists[name] for name in ood_names}),
            *_scarce_notes(classes, split),
            *class_map.notes,
            *([f"No domain, for there are no folders in it: {shortened(others)}"] if others else []),
        ),
        skip_bad=skip_bad,
        on_checked=on_checked,
    )


def _domains(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The domains in `root` by name, and the names of its folders that are none."""
    folders = by_name([path for path, is_folder in visible(root) if is_folder])
    domains = {name: path for name, path in folders.items() if any(is_folder for _, is_folder in visible(path))}
    if not domains:
        layout = "a folder with one sub-folder a domain, in each one sub-folder a class"
        raise UserError(f"{root} has no domains: give {layout}{_table_in(root)}.")
    return domains, [name for name in folders if name not in domains]


def _chosen(root: Path, domains: Mapping[str, Path], flag: str, name: str | None) -> str:
    known = f"it has {', '.join(domains)}"
    if name is None:
        raise UserError(f"{root}: name the domain to fine-tune on, {flag} NAME; {known}{_table_in(root)}.")
    if composed(name) not in domains:
        raise UserError(f"{flag} {name}: {root} has no such domain; {known}.")
    return composed(name)


def _table_in(root: Path) -> str:
    """What else may have been meant."""
    tables = sorted(root.glob("*metadata.csv"))
    return f", or --dataset {tables[0]} if this is a data set of WILDS" if tables else ""


def _class_names(domain: Path, class_map: ClassMap) -> set[str]:
    return {name for folder in class_folders(domain, class_map) if (name := class_map.of(folder)) is not None}


def _id_note(name: str, lists: Lists | None, val_fraction: float, seed: int) -> str:
    share = f"{100 * val_fraction:g} % of"
    if lists is None:
        return f"ID {name}: {share} every class for validation and as many for the test, at random, seed {seed}"
    by = f"{lists.train.name} and {lists.test.name}"
    return f"ID {name}: split by {by}; {share} the former for validation, at random, seed {seed}"


def _ood_notes(lists: Mapping[str, Lists | None]) -> Iterator[str]:
    if listed := [found.test.name for found in lists.values() if found]:
        yield f"OOD: the images of {', '.join(listed)}"
    if whole := [name for name, found in lists.items() if not found]:
        yield f"OOD: all images of {', '.join(whole)}"


def _scarce_notes(classes: Sequence[str], split: Split) -> Iterator[str]:
    for part, images in split._asdict().items():
        if lacking := [name for name in classes if not images.get(name)]:
            yield f"No {part} images of {shortened(lacking)}"
