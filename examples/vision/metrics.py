"""Scores of predictions: pure functions of arrays."""

import numpy as np

__all__ = ["accuracy", "calibration_error", "per_class_accuracy"]


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of right predictions; of at least one."""
    return float((predicted == labels).mean())


def calibration_error(predicted: np.ndarray, confidence: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """The expected calibration error (ECE): how far confidence is from accuracy, on average over the images.

    The confidences are put into bins of equal width, and the gap between mean confidence and accuracy in each bin is
    weighted by the bin's share of the images (Guo et al. 2017, eq. 3).

    Args:
        predicted: The predicted classes; at least one.
        confidence: The probability that the model gives each of them.
        labels: The true classes.
        bins: Number of bins.

    Returns:
        A share in 0..1; NaN where a confidence is NaN.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    # A bin holds its upper edge and not its lower one.
    which = np.digitize(confidence, edges, right=True)
    surplus = np.bincount(which, np.asarray(confidence, np.float64) - (predicted == labels), minlength=bins)
    return float(np.abs(surplus).sum() / len(labels))


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray, classes: int) -> list[float | None]:
    """The share of right predictions among the images of each class; None for a class without images."""
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[predicted == labels], minlength=classes)
    return [int(r) / int(n) if n else None for r, n in zip(right, total, strict=True)]
