"""Data sets of WILDS (Koh et al. 2021) by their metadata CSV, in the official splits.

Which columns say what is as in the reference package, `wilds` 2.0, in the classes of the same names.
"""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vision.class_folders import Images
from vision.class_map import FOLDER_NAMES, ClassMap
from vision.data import Task
from vision.errors import UserError
from vision.folders import FolderDomain, OnChecked, checked_task
from vision.paths import Paths

__all__ = ["wilds_task"]

TRAIN, ID_VAL, ID_TEST, VAL, TEST = SPLITS = ("train", "id_val", "id_test", "val", "test")
"""What the reference package calls them; the last two are out of distribution."""

Row = Mapping[str, str]


class Entry(NamedTuple):
    """What a row of a CSV says.

    Attributes:
        image: The file, from the folder of the CSV.
        label: The class, or its number.
        split: One of `SPLITS`; None if the official splits leave the row out.
    """

    image: str
    label: str
    split: str | None


def wilds_task(
    table: Path,
    ood_names: Sequence[str],
    image_size: int,
    *,
    class_map: ClassMap = FOLDER_NAMES,
    ood_subset: bool = False,
    skip_bad: bool = False,
    on_checked: OnChecked = lambda done, total: None,
) -> Task:
    """A task made of a WILDS data set: `train`, validation `id_val`, ID test `id_test`, OOD `val` and `test`.

    Args:
        table: The CSV of the data set; the images lie below its folder.
        ood_names: Which of `val` and `test` to test on; both if there are none.
        image_size: Height and width to which images are brought.
        class_map: Other names of classes.
        ood_subset: Score an OOD split among the classes that it has, and not among all.
        skip_bad: Leave out images that cannot be read.
        on_checked: Progress.

    Returns:
        The task; its classes are the sorted names of the classes of all splits. Where there is no `id_test`
        (Camelyon17), `id_val` is also that.

    Raises:
        UserError: The CSV is not one that is known, or an image cannot be read.
    """
    layout, splits = _read(table, class_map)
    for name in ood_names:
        if name not in (VAL, TEST) or name not in splits:
            raise UserError(f"--ood {name}: no OOD split of {table}; choose {VAL} or {TEST}.")
    if not {TRAIN, ID_VAL} <= splits.keys():
        raise UserError(f"{table} has no rows of the splits {TRAIN} and {ID_VAL}: is it complete?")
    ood_names = list(ood_names) or [name for name in (VAL, TEST) if name in splits]
    classes = tuple(sorted({name for images in splits.values() for name in images}))
    class_map.check(classes)
    domains = {name: FolderDomain.of(name, images, classes, image_size) for name, images in splits.items()}
    id_test = ID_TEST if ID_TEST in domains else ID_VAL
    return checked_task(
        classes,
        domains[TRAIN],
        domains[ID_VAL],
        id_test=domains[id_test],
        ood={name: domains[name] for name in ood_names},
        ood_classes={name: set(splits[name] if ood_subset else classes) for name in ood_names},
        notes=(
            f"Official splits of {layout}: {TRAIN}; validation {ID_VAL}; ID test {id_test}; OOD {', '.join(ood_names)}",
            *class_map.notes,
        ),
        skip_bad=skip_bad,
        on_checked=on_checked,
    )


def _read(table: Path, class_map: ClassMap) -> tuple[str, dict[str, Images]]:
    """The name of the data set, and by split the images of every class."""
    splits: dict[str, dict[str, list[str]]] = {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            layout = _layout_of(table, set(rows.fieldnames or ()))
            names = layout.names(table)
            for number, row in enumerate(rows):
                image, label, split = _entry(table, layout, number, row)
                name = class_map.of(names.get(label, label))
                if split is not None and name is not None:
                    splits.setdefault(split, {}).setdefault(name, []).append(os.path.join(table.parent, image))
    except FileNotFoundError:
        raise UserError(f"{table} does not exist: check the path after --dataset.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read ({error}): get the file again.") from None
    return layout.name, {
        split: {name: Paths.of(files) for name, files in images.items()} for split, images in splits.items()
    }


def _entry(table: Path, layout: "_Layout", number: int, row: Row) -> Entry:
    try:
        if None in row or None in row.values():
            raise ValueError("a row that is longer or shorter than the header")
        entry = layout.entry(number, row)
        if entry.split is not None and entry.split not in SPLITS:
            raise ValueError("a split of another name")
    except (KeyError, ValueError):
        raise UserError(f"{table}: row {number + 1} is not as in {layout.name}'s file: get it again.") from None
    return entry


def _camelyon17(number: int, row: Row) -> Entry:
    """Of the five hospitals, one is for OOD validation and one for the OOD test, whatever the split column says."""
    del number
    patch = f"patient_{row['patient']}_node_{row['node']}"
    image = f"patches/{patch}/patch_{patch}_x_{row['x_coord']}_y_{row['y_coord']}.png"
    ood = {"1": VAL, "2": TEST}
    split = ood[row["center"]] if row["center"] in ood else {"0": TRAIN, "1": ID_VAL}[row["split"]]
    return Entry(image, {"0": "normal", "1": "tumor"}[row["tumor"]], split)


def _iwildcam(number: int, row: Row) -> Entry:
    """All images lie in `train`, whatever their split."""
    del number
    return Entry(f"train/{row['filename']}", row["y"], row["split"])


def _fmow(number: int, row: Row) -> Entry:
    """Images are numbered by row. The years before 2013 are ID; 2013 to 2015 are for OOD validation, the rest for test.

    What the years and the split column disagree on is left out, and so is the sequestered split.
    """
    year = int(row["timestamp"][:4])  # all times are UTC
    if year < 2013:
        official = {"train": TRAIN, "val": ID_VAL, "test": ID_TEST}
    else:
        official = {"val": VAL} if year < 2016 else {"test": TEST}
    return Entry(f"images/rgb_img_{number}.png", row["category"], official.get(row["split"]))


def _species(table: Path) -> dict[str, str]:
    """The names of iWildCam's classes by number, from the file beside the CSV; none where it is not there."""
    path = table.with_name("categories.csv")
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["y"], row["name"]) for row in csv.DictReader(file, strict=True)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): get it again, or remove it for numbers as names.") from None
    names = dict(rows)
    if None in names.values() or len(set(names.values())) < len(names):
        raise UserError(f"{path}: two classes have one name, or none; correct it, or remove it for numbers as names.")
    return names


class _Layout(NamedTuple):
    """How a data set writes its CSV.

    Attributes:
        name: The data set's.
        columns: Those by which it is known.
        entry: Reads a row, given its number.
        names: The names of classes by what is in the rows; the same where there is none.
    """

    name: str
    columns: frozenset[str]
    entry: Callable[[int, Row], Entry]
    names: Callable[[Path], Mapping[str, str]] = lambda table: {}


_LAYOUTS = (
    _Layout(
        "Camelyon17", frozenset({"patient", "node", "x_coord", "y_coord", "tumor", "center", "split"}), _camelyon17
    ),
    _Layout("FMoW", frozenset({"split", "category", "timestamp"}), _fmow),
    _Layout("iWildCam", frozenset({"split", "filename", "y"}), _iwildcam, _species),
)


def _layout_of(table: Path, columns: set[str]) -> _Layout:
    for layout in _LAYOUTS:
        if layout.columns <= columns:
            return layout
    known = "; ".join(f"{layout.name} ({', '.join(sorted(layout.columns))})" for layout in _LAYOUTS)
    raise UserError(f"{table} has the columns of no data set that is known: {known}.")
