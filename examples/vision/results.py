"""What a run has found out, and what of it is shown: the sets of images, the weights to evaluate, the table's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftp_optax import smallest_share
from vision.config import Config
from vision.data import Domain, Task
from vision.evaluation import Candidate, Predictions
from vision.metrics import accuracy
from vision.networks import Params
from vision.start import Head

if TYPE_CHECKING:
    from vision.training import Trained

__all__ = [
    "ID",
    "OOD",
    "PRETRAINED",
    "START",
    "VALIDATION",
    "Results",
    "allowed_classes",
    "candidates",
    "result_rows",
    "test_sets",
    "wise_alpha",
]

# Names of the sets of images. OOD domains have names of the user's choice; the prefix keeps them from meeting these.
ID = "id"
VALIDATION = "validation"
OOD = "ood/"

PRETRAINED = "pre-trained"
# Evaluated as weights of their own and not as the start of a method's path: 0 times a weight that diverged is no 0.
START = Candidate(PRETRAINED, 1.0)

WISE_PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where on the line from the pre-trained to the fine-tuned weights the figure has its points."""

AUTO = {"auto": 1.0, "best": 0.0}
"""What `--wise-alpha` may be besides a number: how many standard errors below the best score are allowed."""

AUTO_PATH = tuple(tenths / 10 for tenths in range(11))
"""Where they look."""


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that a run has found out.

    Attributes:
        config: What was asked for.
        task: The images.
        pretrained: Parameters that all methods started from.
        head: Where the head that they started with is from.
        order: Paths of the parameters from the input to the output.
        trained: What each method ended with.
        predictions: What is predicted for every test image.
    """

    config: Config
    task: Task
    pretrained: Params
    head: Head
    order: Sequence[str]
    trained: Mapping[str, "Trained"]
    predictions: Predictions


def test_sets(task: Task) -> dict[str, Domain]:
    """Everything to evaluate on: the ID test set, every OOD domain, and validation where it is a set of its own."""
    sets = {ID: task.id_test, **{OOD + name: domain for name, domain in task.ood.items()}}
    if task.validation is not task.id_test:
        sets[VALIDATION] = task.validation
    return sets


def allowed_classes(task: Task) -> dict[str, np.ndarray]:
    """The classes to choose from, bool `(classes,)`, in every test set that has only a subset of them."""
    labels = np.arange(len(task.classes))
    return {OOD + name: np.isin(labels, subset) for name, subset in task.ood_labels.items()}


def candidates(config: Config, head: Head) -> list[Candidate]:
    """The weights to evaluate: the start's if it has a head for the task, and of every method what the report shows."""
    path = WISE_PATH if config.wise_path else ()
    wise = AUTO_PATH if isinstance(config.wise_alpha, str) else (config.wise_alpha,)
    alphas = sorted({*path, *wise, 1.0})
    start = [] if head == "new" else [START]
    return start + [Candidate(method, alpha) for method in config.method_names for alpha in alphas]


def result_rows(results: Results) -> list[tuple[str, Candidate]]:
    """The rows of the table: the start if it has a head for the task, each method, each interpolated."""
    names, asked = results.config.method_names, results.config.wise_alpha
    shown = asked if isinstance(asked, str) else f"{asked:g}"  # the same for every seed
    return [
        *([] if results.head == "new" else [(results.head, START)]),
        *((name, Candidate(name, 1.0)) for name in names),
        *((f"{name} + WiSE {shown}", Candidate(name, wise_alpha(results, name))) for name in names),
    ]


def wise_alpha(results: Results, method: str) -> float:
    """The point of a method's path that is reported: the one asked for, or the one that validation images choose.

    Where there is no validation set of its own they are the ID test images, as for all that is chosen.
    """
    asked = results.config.wise_alpha
    if not isinstance(asked, str):
        return asked
    images = VALIDATION if VALIDATION in test_sets(results.task) else ID
    labels, predictions = test_sets(results.task)[images].labels, results.predictions
    counted = next(iter(predictions.values()))[images].counted
    predicted = [predictions[Candidate(method, alpha)][images].labels[counted] for alpha in AUTO_PATH]
    scores = [accuracy(one, labels[counted]) for one in predicted]
    return smallest_share(AUTO_PATH, scores, int(counted.sum()), errors=AUTO[asked])
