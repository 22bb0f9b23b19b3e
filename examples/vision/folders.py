"""The user's own images: one folder per domain, in it one sub-folder per class."""

import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vision.data import Example, Task
from vision.errors import UserError

__all__ = ["SUFFIXES", "FolderDomain", "folder_task", "read_image"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as an image, in upper or lower case. Other files, and everything hidden, are ignored."""


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
    """

    name: str
    paths: tuple[Path, ...]
    labels: np.ndarray
    image_size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        return {"image": read_image(self.paths[index], self.image_size), "label": self.labels[index]}


def folder_task(train: Path, val: Path, ood: Mapping[str, Path], image_size: int) -> Task:
    """A task made of the user's own folders.

    Every folder has one sub-folder per class with the images of that class directly in it; all have the same classes.
    Files whose suffix is in `SUFFIXES` are images; others, and everything hidden, are ignored. Links are followed.

    Every image is decoded once, here. A header alone does not show that a file is truncated, and a truncated image
    found now costs nothing, found in the third epoch it costs the run. JPEG is decoded at an eighth of its size, which
    still reads every byte.

    Args:
        train: The folder to fine-tune on.
        val: Held-out images of the same domain; both `validation` and `id_test` of the task.
        ood: Folders of other domains, by the name that tables and figures give them.
        image_size: Height and width to which images are brought (see `read_image`).

    Returns:
        The task; its classes are the sorted names of the sub-folders.

    Raises:
        UserError: If a folder is missing, empty or laid out otherwise, classes differ between folders, or an image
            cannot be read. It names the first offender and says what to do.
    """
    found = {folder: _class_folders(folder) for folder in (train, val, *ood.values())}
    classes = tuple(sorted(found[train]))
    if len(classes) < 2:
        raise UserError(f"{train} has only one class folder ({', '.join(classes)}): a classifier needs at least two.")
    for folder in found:
        _check_same_classes(train, set(classes), folder, set(found[folder]))

    def domain(name: str, folder: Path) -> FolderDomain:
        files = [(path, label) for label, name in enumerate(classes) for path in _images(found[folder][name])]
        paths, labels = zip(*files, strict=True)
        return FolderDomain(name, paths, np.asarray(labels, np.int32), image_size)

    training, validation = domain("train", train), domain("val", val)
    others = {name: domain(name, folder) for name, folder in ood.items()}
    _check_images(path for part in (training, validation, *others.values()) for path in part.paths)
    return Task(
        name="folders",
        classes=classes,
        image_size=image_size,
        train=training,
        validation=validation,
        id_test=validation,
        ood=others,
        ood_groups={"all": tuple(others)} if others else {},
    )


def read_image(path: Path, image_size: int) -> np.ndarray:
    """One image as the models want it.

    Turned upright by its EXIF orientation, transparent parts over white, the shorter side resized to `image_size` and
    the middle cut out. Of an animation, the first frame.

    Args:
        path: The image file.
        image_size: Height and width of the result.

    Returns:
        uint8, `(image_size, image_size, 3)`.

    Raises:
        UserError: If the file cannot be read, is not an image, is truncated, or is so large that it may be an attack.
    """
    try:
        with Image.open(path) as image:
            # JPEG can be decoded at a fraction of its size: faster, and twice the final size keeps the quality.
            image.draft(None, (2 * image_size, 2 * image_size))
            upright = _to_rgb(ImageOps.exif_transpose(image))
            return np.asarray(ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BILINEAR))
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


def _check_images(paths: Iterable[Path]) -> None:
    """Decodes every image once, in threads (Pillow's decoders release the interpreter lock)."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda path: read_image(path, 1), dict.fromkeys(paths)):
            pass


def _class_folders(root: Path) -> dict[str, Path]:
    """The class folders in `root` by class name."""
    entries = _visible(root)
    if stray := [path for path, is_folder in entries if not is_folder and _is_image(path)]:
        raise UserError(f"{stray[0]} is in no class folder: put it into a sub-folder of {root} named after its class.")
    folders = [path for path, is_folder in entries if is_folder]
    if not folders:
        raise UserError(f"{root} has no class folders: give it one sub-folder of images for each class.")
    # Some systems store accents composed, others decomposed: the same class must have the same name in all folders.
    by_name = {unicodedata.normalize("NFC", path.name): path for path in folders}
    if len(by_name) < len(folders):
        twin = next(path for path in folders if path not in by_name.values())
        raise UserError(f"{twin} has the same name as another class folder but for its encoding: merge the two.")
    return by_name


def _images(folder: Path) -> list[Path]:
    """The images of one class, by name."""
    entries = _visible(folder)
    if nested := [path for path, is_folder in entries if is_folder]:
        # Silently reading deeper would make classes "train" and "val" of a folder given one level too high.
        raise UserError(f"{nested[0]} is a folder inside a class folder: move its images up, or give a folder below.")
    images = [path for path, _ in entries if _is_image(path)]
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))}): add some or remove the class folder.")
    return images


def _visible(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, by name and without hidden entries, and whether each is itself a folder."""
    try:
        return [(path, path.is_dir()) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    except FileNotFoundError:
        raise UserError(f"{folder} does not exist: check the path.") from None
    except NotADirectoryError:
        raise UserError(f"{folder} is not a folder: give a folder with one sub-folder of images per class.") from None
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _check_same_classes(train: Path, expected: set[str], folder: Path, found: set[str]) -> None:
    differences = [
        f"{word} {', '.join(map(repr, sorted(names)[:5]))}{' and others' if len(names) > 5 else ''}"
        for word, names in (("lacks", expected - found), ("has the extra", found - expected))
        if names
    ]
    if differences:
        raise UserError(
            f"{folder} does not have the class folders of {train}: it {' and '.join(differences)}; "
            "rename, add or remove folders until they are the same."
        )
