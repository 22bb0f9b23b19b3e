"""Corruptions: of the right kind, harder with severity, the same for everyone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evidence.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from evidence.rows import File
from evidence.under_corruption import COLUMNS, FAMILIES, by_family

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def images():
    rows, columns = np.indices((32, 32))
    stripes = 96 + 64 * np.sin((rows + columns) / 2.5)
    return np.stack([np.stack([stripes, rows * 4.0, columns * 4.0], axis=-1)] * 8).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_gets_worse_and_is_the_seeds(kind, images):
    gaps = [np.abs(corrupted(images, kind, severity).astype(float) - images).mean() for severity in SEVERITIES]
    assert gaps[0] > 0
    assert gaps[-1] > 1.3 * gaps[0]
    assert np.diff(gaps).min() > -0.1 * gaps[-1]
    first = corrupted(images, kind, 3)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    assert (first == corrupted(images, kind, 3)).all()


def test_fifteen_kinds_as_in_imagenet_c(images):
    assert len(CORRUPTIONS) == 15
    with pytest.raises(ValueError, match="severity must be 1 to 5, got 6"):
        corrupted(images, "fog", 6)


def test_noise_has_the_strength_it_says():
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    noisy = corrupted(grey, "gaussian_noise", 1).astype(float)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.02)
    impulses = corrupted(grey, "impulse_noise", 5)
    assert (impulses != 128).mean() == pytest.approx(0.27, abs=0.01)
    assert set(np.unique(impulses)) == {0, 128, 255}


def test_blurs_keep_what_is_flat():
    flat = np.full((2, 32, 32, 3), 77, np.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic", "pixelate"):
        assert np.abs(corrupted(flat, kind, 5).astype(int) - 77).max() <= 1


def test_the_command_measures_every_kind_once(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "corruptions", "--smallest", "--results", tmp_path]
    command += ["--methods", "vanilla"]
    subprocess.run(command, check=True, capture_output=True)
    found = File(tmp_path / "corruptions.csv", COLUMNS).read()
    assert [row["method"] for row in found] == ["zero_shot", "wise_ft", "vanilla"]
    for row in found:
        assert set(row["kinds"]) == set(CORRUPTIONS)
        mean = np.mean([value for values in row["kinds"].values() for value in values])
        assert row["corrupted_accuracy"] == pytest.approx(mean, abs=1e-3)


def test_families_are_means_of_their_kinds():
    kinds = {kind: [0.5] for kind in CORRUPTIONS} | {"fog": [0.1, 0.3], "snow": [0.6, 0.8]}
    row = {"method": "ftp", "seed": 3, "clean_accuracy": 0.9, "corrupted_accuracy": 0.5, "kinds": kinds}
    values = by_family([row])["ftp"]
    assert values["weather"] == {3: pytest.approx((0.2 + 0.7 + 0.5 + 0.5) / 4)}
    assert [values[name][3] for name in ("clean", "corrupted", "noise", "digital")] == [0.9, 0.5, 0.5, 0.5]


def test_every_kind_is_of_one_family():
    kinds = [kind for family in FAMILIES.values() for kind in family]
    assert sorted(kinds) == sorted(CORRUPTIONS)
