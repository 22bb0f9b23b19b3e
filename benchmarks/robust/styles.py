"""The ten artists: which package holds each one's emoji, whose work it is, and what role it plays."""

from typing import NamedTuple

__all__ = ["HELD_OUT", "SEEN", "STYLES", "Style"]


class Style(NamedTuple):
    """One artist's set of emoji: a domain.

    Attributes:
        name: Of the domain.
        icons: The npm package is `@iconify-json/ICONS`.
        version: Of the package.
        author: Of the artwork.
        licence: Of the artwork.
    """

    name: str
    icons: str
    version: str
    author: str
    licence: str

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

STYLES = {style.name: style for style in _ALL}
"""All styles by name."""

SEEN = ("noto", "noto-v1", "twemoji", "fluent-flat", "fxemoji", "emojione")
"""The colour styles that the foundation model is trained on."""

HELD_OUT = ("openmoji", "fluent-3d", "emojione-monotone")
"""Styles that neither the foundation model nor fine-tuning has seen."""
