"""The twelve tasks in their five families, and the one that is left of them where all is to be small."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from breadth.shares import few_labels
from robust.corruptions import corrupted
from robust.experiments import ID_DOMAINS
from robust.finetune import Start
from robust.finetune import start as classification
from robust.styles import STYLES
from robust.training import predictions
from segment.finetune import BATCH_SIZE as SCENES_IN_A_BATCH
from segment.finetune import EPOCHS as DENSE_EPOCHS
from segment.finetune import start as segmentation
from segment.scores import mean_iou
from vision.data import ArrayDomain, Domain
from vision.metrics import accuracy
from vision.networks import Params

__all__ = ["PROBLEMS", "SMALLEST", "Problem", "Scores", "drawn_style", "family_weights"]

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast", "jpeg")
SEVERITY = 3

Scores = tuple[float, float, float]
"""ID, mean over the OOD domains that the foundation model has seen, and over those held out from it."""


@dataclass(frozen=True)
class Problem:
    """A task of the study.

    Attributes:
        family: What it counts with in a mean over tasks.
        start: From a seed to the task and its foundation model.
        epochs: Of fine-tuning.
        batch_size: Of fine-tuning.
        augment: Whether training images are shifted and mirrored.
        dense: Whether the score is the mean IoU of a segmentation; else it is accuracy.
    """

    family: str
    start: Callable[[int], Start]
    epochs: int = 15
    batch_size: int = 64
    augment: bool = False
    dense: bool = False

    def score(self, start: Start, params: Params, domain: Domain) -> float:
        """Of some weights on one domain, in 0..1."""
        if not self.dense:
            return accuracy(predictions(start.network, params, domain), domain.labels)
        predicted = predictions(start.network, params, domain, batch_size=min(96, len(domain)))
        return mean_iou(predicted[..., 0], domain.labels[..., 0], len(start.task.classes) + 1)

    def test_scores(self, start: Start, params: Params) -> Scores:
        """Of some weights on the test sets."""
        task = start.task
        found = {name: self.score(start, params, domain) for name, domain in task.ood.items()}
        seen, held_out = (fmean(found[name] for name in task.ood_groups[group]) for group in ("seen", "held out"))
        return self.score(start, params, task.id_test), seen, held_out


def drawn_style(seed: int) -> str:
    """The third style of the emoji: drawn for each seed from those that no table of this project was made on."""
    styles = [name for name in STYLES if name not in (ID_DOMAINS["emoji"], "noto")]
    return styles[int(hashlib.sha256(f"recipe {seed}".encode()).hexdigest(), 16) % len(styles)]


def family_weights(problems: Mapping[str, Problem]) -> dict[str, float]:
    """What each task counts in a mean over tasks: the mean over families of the means within them."""
    families = [problem.family for problem in problems.values()]
    return {name: 1 / (len(set(families)) * families.count(one.family)) for name, one in problems.items()}


def _digits(seed: int, *, share: float = 1.0, backbone: str | None = None, smallest: bool = False) -> Start:
    return few_labels(classification("digits", "photo", seed, backbone=backbone, smallest=smallest), share, seed)


def _emoji(seed: int, *, style: str | None = ID_DOMAINS["emoji"], share: float = 1.0) -> Start:
    return few_labels(classification("emoji", style or drawn_style(seed), seed), share, seed)


def _fashion(seed: int) -> Start:
    """With corrupted ID test images among what is held out."""
    start = classification("fashion", "photo", seed)
    test = start.task.id_test
    assert isinstance(test, ArrayDomain)
    worse = {
        kind: replace(test, name=kind, images=corrupted(test.images, kind, SEVERITY, seed)) for kind in CORRUPTIONS
    }
    groups = {**start.task.ood_groups, "held out": (*start.task.ood_groups["held out"], *worse)}
    return replace(start, task=replace(start.task, ood={**start.task.ood, **worse}, ood_groups=groups))


def _on_emoji(family: str, **settings: Any) -> Problem:
    return Problem(family, partial(_emoji, **settings), epochs=10, batch_size=32, augment=True)


PROBLEMS: dict[str, Problem] = {
    "digits": Problem("digits", _digits),
    "digits-long": Problem("digits", _digits, epochs=120, batch_size=8),
    "digits-vit": Problem("digits", partial(_digits, backbone="vit")),
    "digits-1": Problem("few labels", partial(_digits, share=0.01)),
    "digits-5": Problem("few labels", partial(_digits, share=0.05)),
    "digits-20": Problem("few labels", partial(_digits, share=0.2)),
    "emoji-5": _on_emoji("few labels", share=0.05),
    "fashion": Problem("fashion", _fashion),
    "emoji": _on_emoji("emoji"),
    "emoji-noto": _on_emoji("emoji", style="noto"),
    "emoji-drawn": _on_emoji("emoji", style=None),
    "dense": Problem("dense", lambda seed: segmentation("emoji", seed), DENSE_EPOCHS, SCENES_IN_A_BATCH, dense=True),
}
"""By name."""

SMALLEST = {"digits": Problem("digits", partial(_digits, smallest=True), epochs=4)}
