"""The log of a run: CSV, TensorBoard, and a stand-in for Weights & Biases."""

import csv
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vision.errors import UserError
from vision.logs import open_log

COLUMNS = ("loss", "validation_accuracy")


def log(root: Path, steps: Any, **options: Any) -> None:
    with open_log(root, "ftp", columns=COLUMNS, config={"lr": 0.1}, **options) as opened:
        for step in steps:
            opened.write(step, {"loss": 1 / step})


def rows(root: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((root / "logs" / "ftp.csv").read_text().splitlines()))


def test_a_row_is_in_the_file_when_it_is_written(tmp_path):
    with open_log(tmp_path, "ftp", columns=COLUMNS, config={}) as opened:
        opened.write(10, {"loss": 0.5})
        assert rows(tmp_path) == [{"step": "10", "loss": "0.5", "validation_accuracy": ""}]
        opened.write(20, {"loss": 0.25, "validation_accuracy": 0.75})
        assert rows(tmp_path)[1] == {"step": "20", "loss": "0.25", "validation_accuracy": "0.75"}
        with pytest.raises(ValueError, match="learning_rate"):
            opened.write(30, {"learning_rate": 1.0})


def test_a_resumed_run_has_no_step_twice(tmp_path):
    log(tmp_path, (1, 10, 20, 30))
    with open(tmp_path / "logs" / "ftp.csv", "a") as file:
        file.write("4")  # killed while it wrote 40
    log(tmp_path, (21, 30, 40))  # the checkpoint was of step 20
    assert [row["step"] for row in rows(tmp_path)] == ["1", "10", "20", "21", "30", "40"]


def test_a_log_that_is_opened_and_not_written_to_stays_as_it_is(tmp_path):
    log(tmp_path, (1, 10))
    before = (tmp_path / "logs" / "ftp.csv").read_bytes()
    log(tmp_path, ())
    assert (tmp_path / "logs" / "ftp.csv").read_bytes() == before


def test_columns_may_have_changed_since(tmp_path):
    with open_log(tmp_path, "ftp", columns=("old", "loss"), config={}) as opened:
        opened.write(1, {"old": 3.0, "loss": 0.5})
    log(tmp_path, (2,))
    assert rows(tmp_path)[0] == {"step": "1", "loss": "0.5", "validation_accuracy": ""}


def events(root: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of what TensorBoard shows of all event files: a new start takes back what is after it."""
    found: list[Any] = []
    for path in sorted((root / "logs" / "tensorboard" / "ftp").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the record, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == SessionLog.START:
                found = [row for row in found if row[1] < event.step]
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_the_same_and_no_step_twice(tmp_path):
    log(tmp_path, (1, 10, 20, 30), tensorboard=True)
    log(tmp_path, (21, 40), tensorboard=True)
    assert [(tag, step) for tag, step, _ in events(tmp_path)] == [("loss", step) for step in (1, 10, 20, 21, 40)]
    assert events(tmp_path)[-1][2] == pytest.approx(1 / 40)
    log(tmp_path / "other", (1,))
    assert not (tmp_path / "other" / "logs" / "tensorboard").exists()


class Run:
    def __init__(self, **options: Any) -> None:
        self.options, self.rows, self.finished, self.metrics = options, [], False, []

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.rows.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch) -> Any:
    module: Any = ModuleType("wandb")
    module.runs = []
    module.Error = type("Error", (Exception,), {})

    def init(**options: Any) -> Run:
        module.runs.append(Run(**options))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_goes_on_with_the_run_that_was_stopped(tmp_path, wandb):
    for steps in ((1, 2), (2, 3)):
        log(tmp_path / "seven", steps, wandb="robust")
    first, second = wandb.runs
    assert first.options == second.options
    assert first.options.items() >= {
        "project": "robust", "group": "seven", "name": "seven ftp", "resume": "allow", "config": {"lr": 0.1},
        "dir": str(tmp_path / "seven" / "logs"),
    }.items()  # fmt: skip
    assert first.metrics == [("*", "step")], "its own count would refuse a step that is done again"
    assert first.rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert (first.finished, second.finished) == (True, True)
    log(tmp_path / "eight", (1,), wandb="robust")
    assert wandb.runs[2].options["id"] != first.options["id"]


def test_wandb_that_cannot_be_reached_is_one_line(tmp_path, wandb):
    def init(**_: Any) -> None:
        raise wandb.Error("api_key not configured\n(no-tty)")

    wandb.init = init
    with pytest.raises(UserError, match=r"^--wandb robust: .*api_key.*WANDB_MODE=offline$"):
        log(tmp_path, (1,), wandb="robust")


def test_wandb_is_asked_for_and_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^--wandb robust: .*pip install wandb"):
        log(tmp_path, (1,), wandb="robust")
    assert not (tmp_path / "logs").exists()
    log(tmp_path, (1,))
    assert len(rows(tmp_path)) == 1
