"""The classification benchmark's protocol on scenes: trials are judged by mean IoU, WiSE-FT has fewer points."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from robust.experiments import standard
from robust.finetune import Run, Start
from robust.methods import METHODS
from robust.protocol import recorded
from robust.study import Settings, Study, points
from robust.training import OnStep
from segment import rows
from segment.finetune import BACKBONES, fine_tuned, measured, start
from segment.worlds import WORLDS

__all__ = ["ALPHAS", "FEW_ALPHAS", "Segmentation"]

ALPHAS = (0.3, 0.5, 0.7, 0.9)
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""

FEW_ALPHAS = (0.7,)
"""What all other methods are interpolated with."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(Study[Start, Run[Start]]):
    """The protocol on the scenes of one world.

    Attributes:
        world: A key of `WORLDS`.
    """

    world: str

    methods: ClassVar = {name: method for name, method in METHODS.items() if not method.probe_first}
    validation: ClassVar = "validation_miou"

    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        same = {"experiment": self.world, "backbone": BACKBONES[self.world], "id_domain": WORLDS[self.world].id_style}
        return {**same, "method": name, "hyperparameters": knobs, "seed": seed}

    def default(self, name: str) -> Settings:
        """What the classification benchmark chose on its own validation images."""
        return recorded(standard(self.world)).chosen(name)

    def start(self, seed: int, on_step: OnStep) -> Start:
        return start(self.world, seed, on_step)

    def train(self, origin: Start, name: str, knobs: Settings, seed: int, on_step: OnStep) -> Run[Start]:
        return fine_tuned(origin, METHODS[name], knobs, seed, on_step)

    def judged(self, origin: Start, run: Run[Start]) -> rows.Row:
        return {"validation_miou": run.validation, **run.cost()}

    def measured(self, origin: Start, run: Run[Start], name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        for label, settings, alpha in points(name, knobs, ALPHAS if name == "vanilla" else FEW_ALPHAS):
            yield self.known(label, settings, seed) | run.cost(alpha) | measured(origin, run.at(alpha))
