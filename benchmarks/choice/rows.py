"""The rows: a line of JSON for each run, appended when it is done; what is there is not run again."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from choice.grid import Setting
from choice.problems import Scores

__all__ = ["START", "Points", "Row", "append", "by_run", "read"]

START = Setting("start", 0.0, 0.0, 0.0)
"""Stands for the foundation model, which has a row of its own in each task and seed."""

Points = dict[str, dict[float, float]]
"""Scores by kind of weights and by share of the way from the foundation model to them."""


@dataclass(frozen=True)
class Row:
    """What came of one run.

    Attributes:
        task: A key of `choice.problems.PROBLEMS`.
        seed: Of split, foundation model, subset and order.
        setting: What was run.
        images: How many validation images (of `dense`, scenes) there are.
        drift: The l2 distance of each kind of weights from the foundation model.
        validation: Scores on ID validation images.
        test: Scores on the test sets; of the seeds that choose there are none.
        strength: The mean of the learned radii or strengths over layers and the second half of the run, if any.
        seconds: Of training, compilation included.
    """

    task: str
    seed: int
    setting: Setting
    images: int
    drift: dict[str, float]
    validation: Points
    test: dict[str, dict[float, Scores]] = field(default_factory=dict)
    strength: float | None = None
    seconds: float = 0.0


def read(path: Path) -> list[Row]:
    """All rows of a file; none if there is no file. A line that a crash cut short is no row."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [_row(json.loads(line)) for line in lines if line.endswith("}")]


def by_run(rows: Iterable[Row]) -> dict[tuple[str, int, Setting], Row]:
    """The rows by what was run; a later one of the same run replaces an earlier one."""
    return {(row.task, row.seed, row.setting): row for row in rows}


def append(path: Path, row: Row) -> None:
    """Adds a row, in one write, so that two processes may fill one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {name: value for name, value in asdict(row).items() if value not in (None, {})}
    setting = dict(zip(Setting._fields, line.pop("setting"), strict=True))
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps(_rounded({**setting, **line})) + "\n")


def _row(line: Mapping[str, object]) -> Row:
    own = {name: line[name] for name in line if name not in Setting._fields}
    setting = Setting(*(line[name] for name in Setting._fields))  # pyright: ignore[reportArgumentType]
    for name in ("validation", "test"):
        own[name] = {kind: _by_share(points) for kind, points in own.get(name, {}).items()}  # pyright: ignore
    return Row(setting=setting, **own)  # pyright: ignore[reportArgumentType]


def _by_share(points: Mapping[str, object]) -> dict[float, object]:
    return {float(share): tuple(value) if isinstance(value, list) else value for share, value in points.items()}


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
