"""Which emoji belong to which class: a table made once from Unicode's emoji-test.txt, and kept beside this file.

A class is some of its subgroups. Emoji are fully qualified and without a skin tone: the sequence with one is the same
drawing in another colour.
"""

import re
import unicodedata
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("emoji_classes.tsv")

CLASSES = (
    "animal", "plant", "food", "drink", "building", "vehicle", "clothing", "clock", "face",
    "person", "hand", "music", "sport", "sky", "office", "tool",
)  # a label is an index into them  # fmt: skip

_GENDER_SIGNS = {"2640", "2642", "200D", "FE0F"}
_ADULTS = {"1F468", "1F469"}


class Emoji(NamedTuple):
    """One emoji, whoever draws it."""

    codes: tuple[str, ...]  # its code points in upper-case hexadecimal
    label: int  # its class, an index into `CLASSES`
    name: str  # its CLDR short name

    @property
    def family(self) -> tuple[str, ...]:
        """Its code points without gender: a man, a woman and a person running are all but one drawing.

        Splits keep families together, so that no test image has a near twin among the training images.
        """
        return tuple("1F9D1" if code in _ADULTS else code for code in self.codes if code not in _GENDER_SIGNS)

    @property
    def names(self) -> set[str]:
        """What icon sets may call it: its CLDR name, and the character's Unicode name if it is one character."""
        characters = [chr(int(code, 16)) for code in self.codes if code != "FE0F"]
        single = unicodedata.name(characters[0], "") if len(characters) == 1 else ""
        return {squeezed(name) for name in (self.name, single) if name}


def squeezed(name: str) -> str:
    """A name in the letters and digits that all icon sets agree on: `Twelve o'clock` -> `twelveoclock`."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", ascii_name.lower().replace("&", "and"))


@cache
def emoji_table() -> tuple[Emoji, ...]:
    """All emoji of the sixteen classes, in Unicode's order."""
    lines = (line.split("\t") for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#"))
    return tuple(Emoji(tuple(codes.split()), CLASSES.index(kind), name) for codes, kind, name in lines)
