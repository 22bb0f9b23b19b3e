"""Few labels: subsets that are nested and stratified, trained on for as long; tables that say what the rows say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded import numbers_beyond_the_tables

from breadth import low_label_report, tables
from breadth.low_label_report import COLUMNS, FILE
from breadth.shares import few_labels, images_kept, stratified_order
from robust import rows
from robust.finetune import start
from vision.data import steps_in

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_beginning_of_the_order_has_the_classes_in_their_shares(seed):
    labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(100))
    for count in (1, 7, 20, 50, 100):
        shares = np.bincount(labels[order[:count]], minlength=4)
        assert np.abs(shares - count * np.array([0.5, 0.3, 0.15, 0.05])).max() <= 1
    assert not (order == stratified_order(labels, seed + 1)).all()


def test_a_share_is_part_of_the_larger_one_and_is_trained_on_for_as_long():
    whole = start("digits", "photo", 0, smallest=True)
    train = whole.task.train
    before = set()
    for share, expected in ((0.001, 1), (0.1, 6), (0.5, 32), (1.0, 64)):
        origin = few_labels(whole, share, seed=0)
        few = origin.task.train
        assert images_kept(len(train), share) == expected
        assert steps_in(len(few), 64, 4) == steps_in(len(train), 64, 4)
        drawn = {image.tobytes() for image in few.images}
        assert len(drawn) == expected
        assert before <= drawn <= {image.tobytes() for image in train.images}
        before = drawn
        known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
        assert all(known[i.tobytes()] == label for i, label in zip(few.images, few.labels, strict=True))
        assert origin.task.validation is whole.task.validation


def test_bold_is_a_paired_interval_without_zero_over_three_seeds():
    values = {
        "vanilla": {"1 %": {0: 0.50, 1: 0.60, 2: 0.70}},
        "better": {"1 %": {0: 0.52, 1: 0.621, 2: 0.72}},
        "noisy": {"1 %": {0: 0.60, 1: 0.50, 2: 0.80}},
        "two seeds": {"1 %": {0: 0.60, 1: 0.70}},
    }
    cells = {line[0]: line[1] for line in tables.table(values, "vanilla")}
    assert cells["better"] == "**62.0 ± 24.8**"
    assert not any("**" in cells[name] for name in ("vanilla", "noisy", "two seeds"))


def test_the_command_at_its_smallest_fills_what_is_missing_and_nothing_else(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "low_label.py", "--smallest", "--results", tmp_path]
    command += ["--methods", "vanilla", "ftp"]
    subprocess.run(command, check=True, capture_output=True)
    found = rows.read(tmp_path / FILE, COLUMNS)
    points = ["zero_shot", "wise_ft", "wise_ft", "vanilla", "ftp"]
    assert [(row["method"], row["share"], row["images"]) for row in found] == [
        (name, share, images) for share, images in ((0.1, 6), (1.0, 64)) for name in points
    ]
    by_run = {(row["method"], row["share"]): row for row in found}
    assert by_run["zero_shot", 0.1]["id_accuracy"] == by_run["zero_shot", 1.0]["id_accuracy"]
    assert by_run["vanilla", 0.1]["domains"] != by_run["vanilla", 1.0]["domains"]
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:-1]))
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "100 % of the labels, ftp, seed 0" in again
    assert "10 % of the labels" not in again
    assert "vanilla" not in again.split("ID accuracy")[0]
    assert len((tmp_path / FILE).read_bytes().splitlines()) == len(lines)


def test_with_all_labels_the_rows_are_the_main_benchmarks():
    results = ROOT / "benchmarks" / "results"
    main = {rows.key_of(row): row for row in rows.read(results / "robustness.csv")}
    found = [row for row in rows.read(results / FILE, COLUMNS) if row["share"] == 1]
    assert found
    for row in found:
        assert row["images"] > 0
        assert {name: row[name] for name in rows.COLUMNS} == main[rows.key_of(row)]


def test_the_recorded_tables_are_the_recorded_rows(tmp_path):
    alphas = {"0.5", "0.7"}
    assert numbers_beyond_the_tables("low_label", FILE, low_label_report.write, tmp_path) <= alphas
