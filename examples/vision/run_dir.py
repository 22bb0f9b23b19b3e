"""The run directory: what lies where, created whole, every file in it written whole."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.config import CONFIG_FILE, Config
from vision.errors import UserError
from vision.files import atomic_write, new_directory

__all__ = ["PRETRAINED", "RunDir", "write_json"]

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class RunDir:
    """Paths within a run directory.

    Attributes:
        root: The directory itself.
    """

    root: Path

    @classmethod
    def create(cls, config: Config) -> "RunDir":
        """Creates the directory of a new run, with its configuration in it.

        It appears under its name only when it is complete, so a run that is killed at any moment leaves either
        nothing or something that `--resume` can go on with.

        Raises:
            UserError: It exists already, or cannot be written.
        """
        root = config.out
        assert root is not None, "parse_config fills it in"
        if os.path.lexists(root):
            raise UserError(f"{root}: exists already; choose another --out, or go on with that run with --resume")
        with new_directory(root) as unfinished:
            write_json(unfinished / CONFIG_FILE, config.to_json())
        return cls(root)

    @property
    def report(self) -> Path:
        return self.root / "report.json"

    def weights(self, method: str) -> Path:
        """A method's weights: a directory in the format of the model's own files, or a single file, with a suffix then.

        `PRETRAINED` are those that all methods start from: with them a run can be resumed whatever became of their
        source.
        """
        return self.root / "weights" / method

    def checkpoints(self, method: str) -> Path:
        return self.root / "checkpoints" / method

    def best_checkpoints(self, method: str) -> Path:
        """Where a method's best weights are while it trains."""
        return self.root / "checkpoints" / f"{method}.best"

    def log(self, method: str) -> Path:
        """What a method measured while it trained."""
        return self.root / "logs" / f"{method}.csv"

    @property
    def listing(self) -> Path:
        """The image files and their labels, as the run found them."""
        return self.root / "images.listing"

    @property
    def knobs(self) -> Path:
        """What the sweep chose, by method."""
        return self.root / "knobs.json"

    def part(self, config: Config, count: int | None, seed: int) -> "RunDir":
        """The run of one number of labels and one seed, of those that the configuration names."""
        labels = [f"labels-{count or 'all'}"] if len(config.label_counts) > 1 else []
        seeds = [f"seed-{seed}"] if len(config.seed_list) > 1 else []
        return RunDir(self.root.joinpath(*labels, *seeds))

    def tidy(self, method: str, *, keep_best: bool) -> None:
        """Leaves of a finished method's checkpoints the last one, and that of the best weights if they are reported."""
        checkpoints = self.checkpoints(method)
        steps = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
        for step in steps[:-1]:
            shutil.rmtree(checkpoints / str(step))
        if not keep_best:
            shutil.rmtree(self.best_checkpoints(method), ignore_errors=True)

    def figure(self, name: str) -> Path:
        return self.root / f"{name}.png"


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, all of it or nothing."""
    atomic_write(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
