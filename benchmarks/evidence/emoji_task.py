"""The emoji task: the same objects in every style, split by object."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from evidence.emoji import HELD_OUT, SEEN, load_style, on_white
from evidence.emoji_table import CLASSES, emoji_table
from vision.data import ArrayDomain, Task

SPLITS = {"pretrain": 0.45, "train": 0.20, "validation": 0.07, "test": 0.28}
"""Share of the emoji in each split. Every style shows the same ones."""

_MOST_IN_A_CLASS = 120  # people come in so many professions that they would be a fifth of all emoji


@cache
def identities(seed: int) -> dict[str, np.ndarray]:
    """For each split the positions of its emoji in `emoji_table()`; variants of one emoji stay together."""
    table = emoji_table()
    families: dict[tuple[str, ...], list[int]] = {}
    for position, one in enumerate(table):
        families.setdefault(one.family, []).append(position)
    rng, room = np.random.default_rng(0), [_MOST_IN_A_CLASS] * len(CLASSES)
    kept = []
    for members in (list(families.values())[i] for i in rng.permutation(len(families))):
        kind = table[members[0]].label
        if room[kind] >= len(members):
            room[kind] -= len(members)
            kept.append(members)
    order = np.random.default_rng(seed).permutation(len(kept))
    bounds = np.round(np.cumsum(list(SPLITS.values()))[:-1] * len(kept)).astype(int)
    parts = (np.concatenate([kept[i] for i in part]) for part in np.split(order, bounds))
    return {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}


def emoji_task(seed: int, id_style: str = "fluent-high-contrast", size: int = 64) -> Task:
    """Fine-tune on one style, test on all."""
    kinds = np.array([one.label for one in emoji_table()], np.int32)
    split = identities(seed)

    def domain(style: str, part: str) -> ArrayDomain:
        rgba, emoji = load_style(style, size)
        chosen = np.isin(emoji, split[part])
        return ArrayDomain(style, on_white(rgba[chosen]), kinds[emoji[chosen]])

    styles = {"seen": SEEN, "held out": HELD_OUT}
    groups = {name: tuple(style for style in own if style != id_style) for name, own in styles.items()}
    return Task(
        name="emoji",
        classes=CLASSES,
        image_size=size,
        train=domain(id_style, "train"),
        validation=domain(id_style, "validation"),
        id_test=domain(id_style, "test"),
        ood={style: domain(style, "test") for own in groups.values() for style in own},
        ood_groups=groups,
        pretrain=joined("seen", [domain(style, "pretrain") for style in SEEN]),
    )


def joined(name: str, parts: Sequence[ArrayDomain]) -> ArrayDomain:
    """The images of several domains as one."""
    images, labels = ([getattr(part, column) for part in parts] for column in ("images", "labels"))
    return ArrayDomain(name, np.concatenate(images), np.concatenate(labels))
