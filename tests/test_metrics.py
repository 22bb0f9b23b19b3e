"""Scores of predictions against plain loops."""

import math

import numpy as np
import pytest

from vision.metrics import accuracy, calibration_error, per_class_accuracy


def ece_by_loops(predicted, confidence, labels, bins):
    """Guo et al. 2017, eqs. 2 and 3, image by image."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / bins < p <= m / bins]
        if inside:
            right = sum(predicted[i] == labels[i] for i in inside) / len(inside)
            sure = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(right - sure)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_is_the_papers(bins):
    rng = np.random.default_rng(bins)
    labels, predicted = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    predicted[:200] = labels[:200]
    confidence = rng.uniform(0.2, 1, 400).astype(np.float32)
    confidence[:8] = [1, 0.25, 0.5, 0.75, 0.25, 0.5, 0.75, 1]  # edges of bins
    expected = ece_by_loops(predicted, confidence, labels, bins)
    assert calibration_error(predicted, confidence, labels, bins=bins) == pytest.approx(expected)
    assert expected > 1e-3


def test_calibration_error_by_hand():
    labels = np.array([0, 0, 1, 1])
    sure_and_right = calibration_error(labels, np.ones(4, np.float32), labels)
    assert sure_and_right == 0
    # one bin with confidence 0.9 and half of it right, one with 0.6 and all right
    found = calibration_error(np.array([0, 1, 1, 1]), np.array([0.9, 0.9, 0.6, 0.6], np.float32), labels)
    assert found == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert math.isnan(calibration_error(labels, np.array([1, np.nan, 1, 1], np.float32), labels))


def test_accuracy_of_all_and_of_each_class():
    predicted, labels = np.array([0, 1, 1, 3, 3]), np.array([0, 0, 1, 1, 3])
    assert accuracy(predicted, labels) == 0.6
    assert per_class_accuracy(predicted, labels, 5) == [0.5, 0.5, None, 1.0, None]
