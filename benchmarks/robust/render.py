"""From SVG to pixels, by resvg: the same bytes on every machine, as no fonts are used."""

import io

import numpy as np
from PIL import Image

from vision.errors import UserError

__all__ = ["on_white", "render"]


def render(svg: str, size: int) -> np.ndarray:
    """The drawing as uint8 `(size, size, 4)`: red, green, blue and opacity, centred, proportions kept.

    Raises:
        UserError: If resvg-py is not installed.
        ValueError: If the document is no SVG.
    """
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise UserError("resvg-py draws the emoji and is not installed; pip install resvg-py") from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    with Image.open(io.BytesIO(bytes(png))) as image:
        drawn = image.convert("RGBA")
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(drawn, ((size - drawn.width) // 2, (size - drawn.height) // 2))
    return np.asarray(canvas)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Drawings `(..., 4)` on white paper, uint8 `(..., 3)`."""
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
