"""The log of a run while it goes: a CSV, and on request TensorBoard and Weights & Biases."""

import csv
import importlib
import io
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from vision.errors import UserError
from vision.files import atomic_write

__all__ = ["COLUMNS", "Log", "open_log"]

COLUMNS = ("loss", "accuracy", "images_per_second", "waiting", "validation_accuracy", "validation_loss")
"""What a training run measures."""


class Log:
    """The log of one method. Opened again by a resumed run, it has no step twice.

    A run that was stopped may have logged steps that come after its last checkpoint, and does them again. So the first
    step that is written cuts off what was there from it on.
    """

    def __init__(self, path: Path, columns: Sequence[str], events: Path | None, run: Any) -> None:
        self._path, self._events, self._run = path, events, run
        self._fields = ("step", *columns)
        self._file: TextIO | None = None
        self._tensorboard: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row; it is in the file when this returns.

        Args:
            step: Number of steps done.
            values: By column; others stay empty.

        Raises:
            ValueError: For a column that was not named at the opening.
            OSError: The file cannot be written.
        """
        if self._file is None:
            self._file = self._opened(step)
        self._writer(self._file).writerow({"step": step, **values})
        self._file.flush()
        for name, value in values.items():
            if self._tensorboard is not None:
                self._tensorboard.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({"step": step, **values})

    def close(self) -> None:
        """Writes what is left."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._run is not None:
            self._run.finish()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, step: int) -> TextIO:
        """The file with the steps before this one."""
        content = io.StringIO()
        writer = self._writer(content)
        writer.writeheader()
        for row in _rows(self._path):
            if int(row["step"]) < step:
                writer.writerow({name: value for name, value in row.items() if name in self._fields})
        atomic_write(self._path, content.getvalue().encode())
        if self._events is not None:
            from tensorboardX import SummaryWriter  # here: not every run pays for it

            # Files are named by the second: one resumed within it would take the other's place.
            self._tensorboard = SummaryWriter(str(self._events), purge_step=step, filename_suffix=f".{step}")
        return open(self._path, "a", newline="", encoding="utf-8")

    def _writer(self, file: TextIO) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._fields, lineterminator="\n")


def open_log(
    root: Path,
    method: str,
    *,
    columns: Sequence[str] = COLUMNS,
    tensorboard: bool = False,
    wandb: str | None = None,
    config: Mapping[str, Any],
) -> Log:
    """The log of a method, for writing: `logs/METHOD.csv`, event files in `logs/tensorboard/METHOD`.

    Args:
        root: The run directory.
        method: The method, as the log is to be called.
        columns: What will be measured.
        tensorboard: Whether to write event files for TensorBoard.
        wandb: The project of Weights & Biases to log to; None for none.
        config: What W&B shows as the configuration.

    Raises:
        UserError: W&B is asked for and is not installed, or cannot be reached.
    """
    logs = root / "logs"
    run = None if wandb is None else _wandb_run(wandb, logs, root.name, method, config)
    return Log(logs / f"{method}.csv", columns, logs / "tensorboard" / method if tensorboard else None, run)


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a log; the last line is no whole one where the run was killed while it wrote it."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def _wandb_run(project: str, logs: Path, group: str, method: str, config: Mapping[str, Any]) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise UserError(
            f"--wandb {project}: the package is missing; install it (pip install wandb), or leave the flag out"
        ) from None
    # A resumed run goes on with what W&B knows by this name.
    known = logs / f"{method}.wandb"
    if not known.exists():
        atomic_write(known, uuid.uuid4().hex.encode())
    try:
        run = wandb.init(
            project=project, group=group, name=f"{group} {method}", id=known.read_text(), resume="allow",
            dir=str(logs), config=dict(config),
        )  # fmt: skip
    except wandb.Error as error:
        raise UserError(
            f"--wandb {project}: cannot log there ({error}); log in (wandb login), or set WANDB_MODE=offline"
        ) from None
    # W&B's own count only grows: a resumed run does some steps again.
    run.define_metric("*", step_metric="step")
    return run
