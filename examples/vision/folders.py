"""The user's own images: one folder per domain, in it one sub-folder per class."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vision.class_folders import SUFFIXES, Images, check_same_classes, class_images, training_classes
from vision.class_map import FOLDER_NAMES, ClassMap
from vision.data import Example, Task
from vision.errors import UserError

__all__ = ["SUFFIXES", "FolderDomain", "OnChecked", "Prepare", "checked_task", "folder_task", "read_image"]

OnChecked = Callable[[int, int], None]
"""Called with the number of images checked, and of all, every now and then."""

_IMAGES_BETWEEN_CALLS = 256

Prepare = Callable[[Image.Image], Image.Image]
"""Resizes and crops an RGB image."""

# Refuse what Pillow only warns of, as its manual recommends: an image that may be a decompression bomb.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


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
    paths: tuple[Path, ...]
    labels: np.ndarray
    image_size: int
    prepare: Prepare | None = None

    @classmethod
    def of(cls, name: str, images: Images, classes: Sequence[str], image_size: int) -> "FolderDomain":
        """The domain of image files by class; it may lack classes."""
        files = [(path, label) for label, class_name in enumerate(classes) for path in images.get(class_name, ())]
        return cls(
            name, tuple(path for path, _ in files), np.array([label for _, label in files], np.int32), image_size
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        prepare = self.prepare or self.image_size
        return {"image": read_image(self.paths[index], prepare), "label": self.labels[index]}


def folder_task(
    train: Path,
    val: Path,
    ood: Mapping[str, Path],
    image_size: int,
    *,
    class_map: ClassMap = FOLDER_NAMES,
    ood_subset: bool = False,
    on_checked: OnChecked = lambda done, total: None,
) -> Task:
    """A task made of the user's own folders.

    Every folder has one sub-folder per class with the images of that class directly in it; all have the same classes.
    Files whose suffix is in `SUFFIXES` are images; others, and everything hidden, are ignored. Links are followed.

    Args:
        train: The folder to fine-tune on.
        val: Held-out images of the same domain; both `validation` and `id_test` of the task.
        ood: Folders of other domains, by the name that tables and figures give them.
        image_size: Height and width to which images are brought (see `read_image`).
        class_map: Names of classes where they are not the names of the sub-folders.
        ood_subset: Folders of other domains may lack classes, and are then scored among those that they have.
        on_checked: Progress.

    Returns:
        The task; its classes are the sorted names of the classes in `train`.

    Raises:
        UserError: If a folder is missing, empty or laid out otherwise, classes differ between folders, or an image
            cannot be read. It names the first offender and says what to do.
    """
    found = {folder: class_images(folder, class_map) for folder in (train, val, *ood.values())}
    classes = training_classes(train, set(found[train]), class_map)
    check_same_classes(train, set(classes), val, set(found[val]))
    for folder in ood.values():
        check_same_classes(train, set(classes), folder, set(found[folder]), ood=True, subset=ood_subset)

    def domain(name: str, folder: Path) -> FolderDomain:
        return FolderDomain.of(name, found[folder], classes, image_size)

    validation = domain("val", val)
    return checked_task(
        classes,
        domain("train", train),
        validation,
        id_test=validation,
        ood={name: domain(name, folder) for name, folder in ood.items()},
        ood_classes={name: set(found[folder]) for name, folder in ood.items()},
        notes=class_map.notes,
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
    on_checked: OnChecked,
) -> Task:
    """A task of image files that can all be read.

    Every image is decoded once, here. A header alone does not show that a file is truncated, and a truncated image
    found now costs nothing, found in the third epoch it costs the run. JPEG is decoded at an eighth of its size, which
    still reads every byte.

    Args:
        classes: Names of the classes.
        train: See `Task`, also for the following.
        validation: Of the training images' domain.
        id_test: As `validation`, or that itself.
        ood: Other domains.
        ood_classes: The classes that each of them has; it is scored among those.
        notes: What the user should know of how the task was made.
        on_checked: Progress.

    Raises:
        UserError: An image cannot be read.
    """
    _check_images((path for part in (train, validation, id_test, *ood.values()) for path in part.paths), on_checked)
    subsets = {name: tuple(i for i, c in enumerate(classes) if c in ood_classes[name]) for name in ood}
    return Task(
        name="folders",
        classes=classes,
        image_size=train.image_size,
        train=train,
        validation=validation,
        id_test=id_test,
        ood=ood,
        ood_groups={"all": tuple(ood)} if ood else {},
        ood_labels={name: labels for name, labels in subsets.items() if len(labels) < len(classes)},
        notes=notes,
    )


def read_image(path: Path, prepare: int | Prepare) -> np.ndarray:
    """One image as a model wants it.

    Turned upright by its EXIF orientation, transparent parts over white. Of an animation, the first frame.

    Args:
        path: The image file.
        prepare: How it is resized and cropped; for a number, the shorter side is resized to it, and the middle cut out.

    Returns:
        uint8, `(height, width, 3)`.

    Raises:
        UserError: If the file cannot be read, is not an image, is truncated, or is so large that it may be an attack.
    """
    try:
        with Image.open(path) as image:
            if isinstance(prepare, int):
                # JPEG can be decoded at a fraction of its size: faster, and twice the final size keeps the quality.
                image.draft(None, (2 * prepare, 2 * prepare))
            upright = _to_rgb(ImageOps.exif_transpose(image))
            if isinstance(prepare, int):
                return np.asarray(ImageOps.fit(upright, (prepare, prepare), Image.Resampling.BILINEAR))
            return np.asarray(prepare(upright))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist (or is a link to a file that is gone): check the path.") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read: remove it or save it as PNG or JPEG.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"{path} has more than {limit} million pixels: shrink it or remove it.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file.
        raise UserError(f"{path} cannot be read ({error}): replace it or remove it.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255, which leaves white.
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its 32-bit grey values have no fixed white; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _check_images(paths: Iterable[Path], on_checked: OnChecked) -> None:
    """Decodes every image once, in threads (Pillow's decoders release the interpreter lock)."""
    unique = list(dict.fromkeys(paths))

    def check(start: int) -> int:
        part = unique[start : start + _IMAGES_BETWEEN_CALLS]
        for path in part:
            read_image(path, 1)
        return start + len(part)

    with ThreadPoolExecutor() as pool:
        # Not an image at a time: a million tasks in the queue take gigabytes.
        for done in pool.map(check, range(0, len(unique), _IMAGES_BETWEEN_CALLS)):
            on_checked(done, len(unique))
