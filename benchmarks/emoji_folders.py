"""Writes the emoji as a data set of ten domains, laid out like DomainNet, for examples/finetune.py --dataset.

    python benchmarks/emoji_folders.py --out emoji
    python examples/finetune.py --model efficientnet-lite0 --dataset emoji --id fluent-high-contrast

A style is a domain, `noto/animal/1F415.png`. Lists beside it keep the benchmark's splits by emoji: `noto_test.txt` has
the test images, which show the same emoji in every style, `noto_train.txt` those of training and validation. The emoji
that the benchmark's own foundation models are trained on are left out.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from evidence.command import told_in_one_line
from evidence.emoji import STYLES, drawings, install, on_white, render
from evidence.emoji_table import CLASSES, emoji_table
from evidence.emoji_task import identities
from vision.files import new_directory
from vision.progress import Update, make_console, track

SIZE = 256  # pixels; models of 224 crop the middle of it
LISTS = {"train": ("train", "validation"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the emoji, which npm fetches, as folders of images with lists of them."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]  # Directory to make.
    seed: int = 0  # Of the split.


def main() -> None:
    """Writes all styles."""
    options, console = tyro.cli(Options), make_console()
    with told_in_one_line():
        packages = {name: install(style) for name, style in STYLES.items()}
        with new_directory(options.out) as root:
            for name, package in packages.items():
                with track(console, name, unit="images") as update:
                    write_style(root / name, drawings(package, emoji_table()), options.seed, update)


def write_style(domain: Path, documents: Mapping[int, str], seed: int, on_image: Update) -> None:
    """Draws one style, and lists its images."""
    splits = identities(seed)
    lists = {name: [i for part in parts for i in splits[part] if i in documents] for name, parts in LISTS.items()}
    total, done = sum(map(len, lists.values())), 0
    for name, positions in lists.items():
        lines = []
        for position in positions:
            one = emoji_table()[position]
            file = domain / CLASSES[one.label] / f"{'-'.join(one.codes)}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(on_white(render(documents[position], SIZE))).save(file)
            lines.append(f"{file.relative_to(domain.parent).as_posix()} {one.label}\n")
            on_image(done := done + 1, total=total)
        domain.with_name(f"{domain.name}_{name}.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
