"""The emoji as arrays: the drawings of ten artists, which npm fetches, rendered once and then kept in the cache."""

import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import resvg_py
from PIL import Image

from evidence.emoji_table import TABLE, Emoji, emoji_table, squeezed
from vision.cache import cache_dir, digest, load_arrays, store_arrays
from vision.errors import UserError


class Style(NamedTuple):
    """One artist's set of emoji: a domain."""

    name: str  # of the domain
    icons: str  # the npm package is `@iconify-json/ICONS`
    version: str  # of the package
    author: str  # of the artwork
    licence: str  # of the artwork

    @property
    def package(self) -> str:
        """The name and version that npm takes."""
        return f"@iconify-json/{self.icons}@{self.version}"


_ALL = (
    Style("noto", "noto", "1.2.9", "Google", "Apache-2.0"),
    Style("noto-v1", "noto-v1", "1.2.5", "Google", "Apache-2.0"),
    Style("twemoji", "twemoji", "1.2.5", "Twitter and contributors", "CC-BY-4.0"),
    Style("fluent-flat", "fluent-emoji-flat", "1.2.6", "Microsoft", "MIT"),
    Style("fxemoji", "fxemoji", "1.2.2", "Mozilla", "Apache-2.0"),
    Style("emojione", "emojione", "1.2.3", "EmojiTwo contributors", "CC-BY-4.0"),
    Style("fluent-high-contrast", "fluent-emoji-high-contrast", "1.2.6", "Microsoft", "MIT"),
    Style("openmoji", "openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0"),
    Style("fluent-3d", "fluent-emoji", "1.2.7", "Microsoft", "MIT"),
    Style("emojione-monotone", "emojione-monotone", "1.2.1", "EmojiTwo contributors", "CC-BY-4.0"),
)

STYLES = {style.name: style for style in _ALL}  # all styles by name

SEEN = ("noto", "noto-v1", "twemoji", "fluent-flat", "fxemoji", "emojione")
"""The colour styles that the foundation model is trained on."""

HELD_OUT = ("openmoji", "fluent-3d", "emojione-monotone")
"""Styles that neither the foundation model nor fine-tuning has seen."""


_WAY_OUT = "or run --experiment digits, which needs no download"


def install(style: Style) -> Path:
    """The directory of a style's package, which npm fetches if it is not in the cache."""
    target = cache_dir() / "emoji" / f"{style.icons}-{style.version}"
    if not target.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(f"{style.package}: npm is needed to fetch it; install Node.js with npm, {_WAY_OUT}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole, so that a killed run or a second one at the same time leaves nothing half done.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".npm-") as scratch:
            flags = ("--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", scratch)
            done = subprocess.run([npm, "install", *flags, style.package], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"{style.package}: npm could not fetch it ({reason}); check the network, {_WAY_OUT}")
            package = Path(scratch) / "node_modules" / "@iconify-json" / style.icons
            try:
                package.rename(target)
            except OSError:
                if not target.exists():
                    raise
    return target


def drawings(package: Path, emoji: tuple[Emoji, ...]) -> dict[int, str]:
    """The SVG documents of a package, by position in `emoji`; those that the artist did not draw are absent.

    Packages with a table of code points (chars.json) are matched by it, the others by name. A drawing that serves
    several emoji is given to the first of them only.
    """
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    codes = json.loads((package / "chars.json").read_text("utf-8"))
    names = {squeezed(name): name for name in (*icons.get("aliases", {}), *icons["icons"])}
    found: dict[int, str] = {}
    taken: set[str] = set()
    for index, one in enumerate(emoji):
        exact = "-".join(one.codes).lower()
        name = codes.get(exact) or codes.get(exact.replace("-fe0f", ""))
        name = name or next((names[n] for n in sorted(one.names) if n in names), None)
        icon = _original(name, icons) if name is not None else None
        if icon is not None and icon not in taken:
            taken.add(icon)
            found[index] = _document(icons["icons"][icon], icons)
    return found


def _original(name: str, icons: Mapping[str, Any]) -> str | None:
    """The icon behind an alias; None for one that turns or mirrors it."""
    while name not in icons["icons"]:
        alias = icons["aliases"].get(name)
        if alias is None or set(alias) - {"parent", "hidden"}:
            return None
        name = alias["parent"]
    return name


def _document(icon: Mapping[str, Any], icons: Mapping[str, Any]) -> str:
    def number(key: str, default: int) -> float:
        return icon.get(key, icons.get(key, default))

    box = f"{number('left', 0)} {number('top', 0)} {number('width', 16)} {number('height', 16)}"
    # Icons of one colour leave it to the page: black, as the artists publish them.
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'color="black" viewBox="{box}">{icon["body"]}</svg>'
    )


def render(svg: str, size: int) -> np.ndarray:
    """The drawing as uint8 `(size, size, 4)`: red, green, blue and opacity, centred, proportions kept."""
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


# To be raised when a change of the code makes old cache entries stale.
_VERSION = 1


class Drawings(NamedTuple):
    """One style's drawings."""

    rgba: np.ndarray  # uint8 `(n, size, size, 4)`
    emoji: np.ndarray  # for each drawing, the position of its emoji in `emoji_table()`; int32, increasing


def load_style(name: str, size: int = 64) -> Drawings:
    """All drawings of a style."""
    style = STYLES[name]
    config = json.dumps({"version": _VERSION, "package": style.package, "size": size})
    key = f"emoji-{style.icons}-{size}-{digest({'table': np.frombuffer(TABLE.read_bytes(), np.uint8)}, config)[:32]}"
    arrays = load_arrays(key)
    if arrays is None:
        documents = drawings(install(style), emoji_table())
        images = [render(svg, size) for svg in documents.values()]
        arrays = {"rgba": np.stack(images), "emoji": np.array(list(documents), np.int32)}
        store_arrays(key, arrays)
    return Drawings(arrays["rgba"], arrays["emoji"])
