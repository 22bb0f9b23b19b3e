"""The artists' packages: npm fetches them once into the cache, and their drawings are found by emoji."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust.styles import Style
from robust.table import Emoji, squeezed
from vision.cache import cache_dir
from vision.errors import UserError

__all__ = ["drawings", "install"]

_WAY_OUT = "or run --experiment digits, which needs no download"


def install(style: Style) -> Path:
    """The directory of a style's package, which npm fetches if it is not in the cache.

    Raises:
        UserError: npm is missing, or cannot fetch the package.
    """
    target = cache_dir() / "emoji" / f"{style.icons}-{style.version}"
    if not target.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(f"{style.package}: npm is needed to fetch it; install Node.js with npm, {_WAY_OUT}")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole, so that a killed run or a second one at the same time leaves nothing half done.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".npm-") as scratch:
            _run_npm(npm, style, scratch)
            package = Path(scratch) / "node_modules" / "@iconify-json" / style.icons
            try:
                package.rename(target)
            except OSError:
                if not target.exists():
                    raise
    return target


def _run_npm(npm: str, style: Style, directory: str) -> None:
    flags = ("--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", directory)
    done = subprocess.run([npm, "install", *flags, style.package], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{style.package}: npm could not fetch it ({reason}); check the network, {_WAY_OUT}")


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
        name = _by_codes(one, codes) or next((names[n] for n in sorted(one.names) if n in names), None)
        icon = _original(name, icons) if name is not None else None
        if icon is not None and icon not in taken:
            taken.add(icon)
            found[index] = _document(icons["icons"][icon], icons)
    return found


def _by_codes(emoji: Emoji, codes: Mapping[str, str]) -> str | None:
    exact = "-".join(emoji.codes).lower()
    return codes.get(exact) or codes.get(exact.replace("-fe0f", ""))


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
