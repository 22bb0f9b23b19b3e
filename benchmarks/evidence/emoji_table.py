"""Which emoji belong to which class: a table made once from Unicode's own list, and kept beside this file."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("emoji_classes.tsv")

# The subgroups of Unicode's emoji-test.txt that make each class.
_SUBGROUPS = {
    "animal": "animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug",
    "plant": "plant-flower plant-other",
    "food": "food-fruit food-vegetable food-prepared food-asian food-marine food-sweet",
    "drink": "drink",
    "building": "place-building place-religious place-other",
    "vehicle": "transport-ground transport-water transport-air",
    "clothing": "clothing",
    "clock": "time",
    "face": "face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat "
    "face-glasses face-concerned face-negative face-costume cat-face monkey-face",
    "person": "person person-gesture person-role person-fantasy person-activity person-sport person-resting",
    "hand": "hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands hand-prop",
    "music": "music musical-instrument",
    "sport": "sport",
    "sky": "sky_&_weather",
    "office": "office writing mail book-paper phone computer",
    "tool": "tool science lock",
}

CLASSES = tuple(_SUBGROUPS)  # class names; a label is an index into them

_SKIN_TONES = {f"1F3F{i:X}" for i in range(11, 16)}
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


def make_table(emoji_test: Path) -> str:
    """The text of the table, from Unicode's emoji-test.txt (Debian's package unicode-data has it).

    Fully-qualified emoji without a skin tone; the sequence with one is the same drawing in another colour.
    """
    text = emoji_test.read_text("utf-8")
    version = re.findall(r"# Version: (\S+)", text)[0]
    header = f"# From Unicode's emoji-test.txt, version {version}. Copyright Unicode, Inc.; see NOTICE.\n"
    return header + "".join(f"{' '.join(codes)}\t{kind}\t{name}\n" for codes, kind, name in _entries(text))


def _entries(text: str) -> Iterator[tuple[list[str], str, str]]:
    kinds = {sub.replace("_", " "): kind for kind, subs in _SUBGROUPS.items() for sub in subs.split()}
    subgroup = ""
    for line in text.splitlines():
        if line.startswith("# subgroup:"):
            subgroup = line.removeprefix("# subgroup:").strip()
        match = re.match(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)", line)
        if match and subgroup in kinds and not _SKIN_TONES & set(match[1].split()):
            yield match[1].split(), kinds[subgroup], match[2]
