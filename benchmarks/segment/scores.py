"""How good a segmentation is: mean intersection over union of the classes, and the F-score of the boundaries."""

import numpy as np
from scipy import ndimage

__all__ = ["boundaries", "boundary_f", "mean_iou"]


def mean_iou(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> float:
    r"""The mean over classes of $|P_c \cap T_c| / |P_c \cup T_c|$, pixels of all images pooled.

    Args:
        predicted: Class of every pixel, integers of any shape.
        truth: The true one.
        num_classes: Background included. A class that is neither predicted nor there does not count.
    """
    pairs = num_classes * truth.astype(np.int64).ravel() + predicted.astype(np.int64).ravel()
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))


def boundary_f(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The harmonic mean of precision and recall of boundary pixels, pixels of all images pooled.

    A pixel counts as found if one of its eight neighbours, or itself, is on the other map: one pixel of tolerance.

    Args:
        predicted: Boundary or not, `(n, height, width)`.
        truth: The true one.
    """
    predicted, truth = predicted.astype(bool), truth.astype(bool)
    near = lambda maps: ndimage.binary_dilation(maps, np.ones((1, 3, 3)))
    right = (predicted & near(truth)).sum() / max(1, predicted.sum())
    found = (truth & near(predicted)).sum() / max(1, truth.sum())
    return float(2 * right * found / max(right + found, 1e-12))


def boundaries(instances: np.ndarray) -> np.ndarray:
    """Where the pixel to the right or below belongs to something else; bool `(height, width)`."""
    edges = np.zeros(instances.shape, bool)
    edges[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    edges[:-1] |= instances[:-1] != instances[1:]
    return edges
