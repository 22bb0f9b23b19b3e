"""The ten artists: which package holds each one's emoji, whose work it is, and what role it plays."""

from typing import NamedTuple

__all__ = ["HELD_OUT", "SEEN", "STYLES", "Style"]


class Style(NamedTuple):
    """One artist's set of emoji: a domain.

    Attributes:
        name: Of the domain, and of the npm package `@iconify-json/NAME`.
        version: Of the package.
        author: Of the artwork.
        licence: Of the artwork.
    """

    name: str
    version: str
    author: str
    licence: str

    @property
    def package(self) -> str:
        """The name and version that npm takes."""
        return f"@iconify-json/{self.name}@{self.version}"


_ALL = (
    Style("noto", "1.2.9", "Google", "Apache-2.0"),
    Style("noto-v1", "1.2.5", "Google", "Apache-2.0"),
    Style("twemoji", "1.2.5", "Twitter and contributors", "CC-BY-4.0"),
    Style("fluent-emoji-flat", "1.2.6", "Microsoft", "MIT"),
    Style("fxemoji", "1.2.2", "Mozilla", "Apache-2.0"),
    Style("emojione", "1.2.3", "EmojiTwo contributors", "CC-BY-4.0"),
    Style("fluent-emoji-high-contrast", "1.2.6", "Microsoft", "MIT"),
    Style("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0"),
    Style("fluent-emoji", "1.2.7", "Microsoft", "MIT"),
    Style("emojione-monotone", "1.2.1", "EmojiTwo contributors", "CC-BY-4.0"),
)

STYLES = {style.name: style for style in _ALL}
"""All styles by name."""

SEEN = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
"""The colour styles that the foundation model is trained on."""

HELD_OUT = ("openmoji", "fluent-emoji", "emojione-monotone")
"""Styles that neither the foundation model nor fine-tuning has seen."""
