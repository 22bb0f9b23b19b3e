"""The experiments past the papers: every one runs at its smallest, and a row that is there is not run again."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from past import trials
from past.figures import grouped, setting
from past.grids import EXPERIMENTS, SCALE_KNOBS, scale_axes
from past.methods import METHODS
from past.runs import Trial
from past.trials import Row, read_rows, run_missing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_experiment_runs_at_its_smallest_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, BENCHMARKS / "past_the_papers.py", "--smallest", "--results", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = read_rows(tmp_path / "past_the_papers.csv")
    assert len({row.trial for row in rows}) == len(rows) > 6
    assert all(0 < row.id_accuracy <= 1 and row.drift > 0 for row in rows)
    for experiment in EXPERIMENTS:
        assert (tmp_path / f"past_{experiment}_digits.png").stat().st_size > 10_000
    again = subprocess.run([*command, "--experiments", "scale"], check=True, capture_output=True, text=True)
    assert "vanilla" in again.stdout
    assert read_rows(tmp_path / "past_the_papers.csv") == rows


def test_a_row_that_is_there_is_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(trials, "_row", lambda trial, start: ran.append(trial) or Row(**dataclasses.asdict(trial)))
    grid = [Trial("digits", "ftp", knob, seed) for knob in (0.01, 0.1) for seed in (0, 1)]
    path = tmp_path / "rows.csv"
    for wanted in (grid[:2], grid, grid + grid[:1]):
        rows = run_missing(wanted, path, lambda trial: None, lambda done, row: None)
        assert [row.trial for row in rows] == list(dict.fromkeys(wanted))
    assert ran == grid
    assert [row.trial for row in read_rows(path)] == grid


def test_rows_read_back_as_they_were_written(tmp_path, monkeypatch):
    row = Row("emoji", "ftp", 0.1, 2, rate=3e-4, judge_every=4, id_accuracy=0.61234, seconds=3.4)
    monkeypatch.setattr(trials, "_row", lambda trial, start: row)
    run_missing([row.trial], tmp_path / "rows.csv", lambda trial: None, lambda done, row: None)
    assert read_rows(tmp_path / "rows.csv") == [row]


@pytest.mark.parametrize("task", ["digits", "emoji"])
def test_grids_name_methods_that_exist_and_hold_their_own_baseline(task):
    for name, grid in EXPERIMENTS.items():
        wanted = list(grid(task, range(2)))
        assert {trial.method for trial in wanted} <= set(METHODS)
        assert {trial.seed for trial in wanted} == {0, 1}
        assert any(trial.method == "vanilla" for trial in wanted), name
    axes = scale_axes(task)
    assert {"learning rate", "steps", "batch"} <= set(axes)
    points = {Trial(task, "ftp", SCALE_KNOBS["ftp"], 0, **point) for along in axes.values() for point in along}
    assert points <= set(EXPERIMENTS["scale"](task, [0]))


def test_seeds_of_one_setting_are_grouped():
    rows = [Row("digits", "ftp", 0.1, seed) for seed in range(3)] + [Row("digits", "ftp", 0.2, 0)]
    groups = grouped(rows)
    assert [len(of) for of in groups.values()] == [3, 1]
    assert list(groups) == [setting(rows[0]), setting(rows[3])]
