"""The classification benchmark's protocol on questions: WiSE-FT has fewer points, and the shifts are measured too."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from questions.methods import METHODS, RATE
from questions.scores import by_kind, overall, predicted, scores
from questions.shift import shifts
from questions.sources import SOURCES
from questions.start import BATCH_SIZE, Start, start
from robust import rows
from robust.finetune import Run
from robust.study import Settings, Study, points
from robust.training import Knobs, OnStep, Recipe, train
from vision.data import steps_in

__all__ = ["ALPHAS", "COLUMNS", "Questions", "shifts_file"]

COLUMNS = (*rows.COLUMNS[:8], "near_accuracy", "far_accuracy", *rows.COLUMNS[10:])
"""Of both files of rows: the robustness benchmark's, but for what is out of domain. `domains` is JSON: for each test
domain the accuracy in each kind of question, in the order of `questions.wordings.KINDS`."""

ALPHAS = (0.3, 0.5, 0.7)
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""


@dataclass(frozen=True, kw_only=True)
class Questions(Study[Start, Run[Start]]):
    """The protocol on the pictures of one source.

    Attributes:
        source: A name in `SOURCES`.
        epochs: Passes over the fine-tuning pictures.
        shifts: Where it is written how far each test domain lies from the fine-tuning one.
        smallest: A few pictures.
    """

    source: str
    epochs: int
    shifts: Path
    smallest: bool = False

    methods: ClassVar = METHODS

    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        source, backbone = SOURCES[self.source], "efficientnet-lite0" if self.source == "emoji" else "small-cnn"
        same = {"experiment": f"vqa-{source.name}", "backbone": backbone, "id_domain": source.id_style}
        return {**same, "method": name, "hyperparameters": knobs, "seed": seed}

    def start(self, seed: int, on_step: OnStep) -> Start:
        origin = start(self.source, seed, smallest=self.smallest, on_step=on_step)
        _measure_shifts(self.shifts, origin)
        return origin

    def train(self, origin: Start, name: str, knobs: Settings, seed: int, on_step: OnStep) -> Run[Start]:
        method = METHODS[name]
        trained = train(
            origin.network,
            origin.params,
            Recipe(method.build, steps_in(len(origin.train), BATCH_SIZE, self.epochs)),
            Knobs(knobs[RATE], knobs.get(method.knob, 0.0)),
            origin.train,
            batch_size=BATCH_SIZE,
            seed=seed,
            augment=False,  # what is left would be right in the mirror
            on_step=on_step,
        )
        answered = by_kind(predicted(origin.network, trained.params, origin.validation), origin.validation)
        return Run(origin, trained, overall(answered))

    def judged(self, origin: Start, run: Run[Start]) -> rows.Row:
        return {"validation_accuracy": run.validation, **run.cost()}

    def measured(self, origin: Start, run: Run[Start], name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        for label, settings, alpha in points(name, knobs, ALPHAS if name == "vanilla" else ()):
            yield self.known(label, settings, seed) | run.cost(alpha) | scores(origin, run.at(alpha)).columns()


def shifts_file(results: Path) -> Path:
    """How far each test domain lies from the fine-tuning domain: by seed, domain and space."""
    return results / "vqa_shifts.json"


def _measure_shifts(file: Path, origin: Start) -> None:
    key = str(origin.seed)
    present = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if key not in present:
        found = {name: {k: round(v, 5) for k, v in one.items()} for name, one in shifts(origin).items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**present, key: found}, indent=1) + "\n", "utf-8")
