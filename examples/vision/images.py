"""One image file, as a model wants it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vision.errors import UserError

__all__ = ["Prepare", "is_lasting", "open_image", "read_image"]

Prepare = Callable[[Image.Image], Image.Image]
"""Resizes and crops an RGB image."""

# Refuse what Pillow only warns of, as its manual recommends: an image that may be a decompression bomb.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


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
    with _explained(path):
        if isinstance(prepare, int):
            upright = _decoded(path, prepare)
            return np.asarray(ImageOps.fit(upright, (prepare, prepare), Image.Resampling.BILINEAR))
        return np.asarray(prepare(_decoded(path, None)))


def open_image(path: Path, size: int) -> Image.Image:
    """An image in RGB and upright, before it is resized to about `size`; a JPEG may already be smaller than stored.

    Raises:
        UserError: As `read_image`.
    """
    with _explained(path):
        return _decoded(path, size)


def is_lasting(error: UserError) -> bool:
    """Whether a file that could not be read never will be, unless it changes: not so after a fault of the disk."""
    cause = error.__context__
    return not isinstance(cause, MemoryError) and getattr(cause, "errno", None) is None


def _decoded(path: Path, size: int | None) -> Image.Image:
    with Image.open(path) as image:
        if size is not None:
            # JPEG can be decoded at a fraction of its size: faster, and twice the final size keeps the quality.
            image.draft(None, (2 * size, 2 * size))
        return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
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
