"""Which images of a domain are for training, validation and test: by lists beside its folder, or at random."""

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from vision.class_folders import Images, class_folders, class_images
from vision.class_map import FOLDER_NAMES, ClassMap, composed
from vision.errors import UserError
from vision.paths import Paths

__all__ = ["Lists", "Split", "find_lists", "listed_images", "split_domain", "stratified"]


class Lists(NamedTuple):
    """The files that list a domain's training and test images."""

    train: Path
    test: Path


class Split(NamedTuple):
    """The images of a domain, each in one of the parts."""

    training: Images
    validation: Images
    test: Images


def find_lists(domain: Path) -> Lists | None:
    """The lists beside a domain, `real_train.txt` and `real_test.txt` of `real`, if there are any.

    Raises:
        UserError: There is only one of the two.
    """
    lists = Lists(domain.with_name(f"{domain.name}_train.txt"), domain.with_name(f"{domain.name}_test.txt"))
    missing = [path for path in lists if not path.exists()]
    if len(missing) == 1:
        found = lists.test if missing[0] == lists.train else lists.train
        raise UserError(f"{missing[0]} does not exist, but {found} does: put both there, or none for a random split.")
    return None if missing else lists


def listed_images(path: Path, domain: Path, class_map: ClassMap) -> Images:
    """The images in a list, by class: lines such as `real/dog/real_094_000001.jpg 93`, the last number unused.

    Raises:
        UserError: A line is of another form, or there are none.
    """
    folders = class_folders(domain, FOLDER_NAMES)
    images: dict[str, list[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): replace it, or remove the lists.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = PurePosixPath(line.strip().rpartition(" ")[0]).parts
        if len(parts) != 3 or composed(parts[0]) != composed(domain.name) or composed(parts[1]) not in folders:
            raise UserError(
                f"{path}: line {number} is not of the form {domain.name}/CLASS/IMAGE LABEL with a class of {domain}; "
                "correct it, or remove the lists for a random split."
            )
        folder = composed(parts[1])
        if (name := class_map.of(folder)) is not None:
            images.setdefault(name, []).append(os.path.join(folders[folder], parts[2]))
    if not images:
        raise UserError(f"{path} lists no images: replace it, or remove the lists for a random split.")
    return {name: Paths.of(files) for name, files in images.items()}


def split_domain(domain: Path, lists: Lists | None, class_map: ClassMap, fraction: float, seed: int) -> Split:
    """The split of the lists, with validation images out of the training images; without lists a random one.

    Args:
        domain: The domain's folder.
        lists: Its lists, if there are any.
        class_map: Names of classes where they are not the names of the folders.
        fraction: Of every class, for validation, and where there are no lists once more for the test.
        seed: Of what is random.

    Raises:
        UserError: The images are too few, or the folder or the lists are of another form.
    """
    if lists is None:
        test, validation, training = stratified(class_images(domain, class_map), fraction, seed, shares=2)
    else:
        test = listed_images(lists.test, domain, class_map)
        validation, training = stratified(listed_images(lists.train, domain, class_map), fraction, seed, shares=1)
    if not any(validation.values()):
        raise UserError(f"{domain} has too few images to hold any out: add some, three of a class are the least.")
    return Split(training, validation, test)


def stratified(images: Images, fraction: float, seed: int, *, shares: int) -> list[Images]:
    """Cuts the images of every class at random into shares of `fraction` and, last, the rest.

    A share has at least one image of a class. Where that would leave none for the rest, the class is not cut.

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
        cuts = [each * share for share in range(1, shares + 1)]
        for part, indices in zip(parts, np.split(generator.permutation(total), cuts), strict=True):
            part[name] = images[name][np.sort(indices)]
    return parts
