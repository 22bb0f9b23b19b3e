"""Few labels: subsets that are nested and stratified, trained on for as long; tables that say what the rows say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evidence import rows, tables
from evidence.few_labels import few_labels, images_kept, stratified_order
from evidence.low_label import COLUMNS
from evidence.rows import File
from evidence.tasks import classification
from vision.data import steps_in

ROOT = Path(__file__).parents[1]
FILE = "low_label.csv"


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
    whole = classification("digits", smallest=True).start(0).data
    train = whole.train
    before = set()
    for share, expected in ((0.001, 1), (0.1, 6), (0.5, 32), (1.0, 64)):
        data = few_labels(whole, share, seed=0)
        few = data.train
        assert images_kept(len(train), share) == expected
        assert steps_in(len(few), 64, 4) == steps_in(len(train), 64, 4)
        drawn = {image.tobytes() for image in few.images}
        assert len(drawn) == expected
        assert before <= drawn <= {image.tobytes() for image in train.images}
        before = drawn
        known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
        assert all(known[i.tobytes()] == label for i, label in zip(few.images, few.labels, strict=True))
        assert data.validation is whole.validation


def test_bold_is_a_paired_interval_without_zero_over_three_seeds():
    values = {
        "vanilla": {"1 %": {0: 0.50, 1: 0.60, 2: 0.70}},
        "better": {"1 %": {0: 0.52, 1: 0.621, 2: 0.72}},
        "noisy": {"1 %": {0: 0.60, 1: 0.50, 2: 0.80}},
        "two seeds": {"1 %": {0: 0.60, 1: 0.70}},
    }
    lines = tables.by_condition(values).splitlines()
    assert "| `better` | **62.0 ± 24.8** |" in lines
    assert [line.count("**") for line in lines] == [0, 0, 0, 2, 0, 0]


def test_the_command_at_its_smallest_trains_on_every_share(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "low-label", "--smallest", "--results", tmp_path]
    command += ["--methods", "vanilla", "ftp"]
    subprocess.run(command, check=True, capture_output=True)
    found = File(tmp_path / FILE, COLUMNS).read()
    points = ["zero_shot", "wise_ft", "wise_ft", "vanilla", "ftp"]
    assert [(row["method"], row["share"], row["images"]) for row in found] == [
        (name, share, images) for share, images in ((0.1, 6), (1.0, 64)) for name in points
    ]
    by_run = {(row["method"], row["share"]): row for row in found}
    assert by_run["zero_shot", 0.1]["id_accuracy"] == by_run["zero_shot", 1.0]["id_accuracy"]
    assert by_run["vanilla", 0.1]["domains"] != by_run["vanilla", 1.0]["domains"]


def test_with_all_labels_the_rows_are_the_main_benchmarks():
    results = ROOT / "benchmarks" / "results"
    file = File(results / "robustness.csv")
    main = {file.key_of(row): row for row in file.read()}
    found = [row for row in File(results / FILE, COLUMNS).read() if row["share"] == 1]
    assert found
    for row in found:
        assert row["images"] > 0
        assert {name: row[name] for name in rows.COLUMNS} == main[file.key_of(row)]
