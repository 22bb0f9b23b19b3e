"""The main benchmark's runs: classification of emoji, digits or garments, with WiSE-FT's interpolations of each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from robust import rows
from robust.experiments import Experiment
from robust.finetune import Run, Start, run, scores, start
from robust.methods import METHODS, RATE, Method
from robust.study import Settings, Study, points
from robust.training import Knobs, OnStep

__all__ = ["ALPHAS", "FEW_ALPHAS", "Classification", "fine_tuned", "known", "origin_of", "recorded"]

ALPHAS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""

FEW_ALPHAS = (0.5, 0.7)
"""What all other methods are interpolated with."""

_RECORDED = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Classification(Study[Start, Run[Start]]):
    """The protocol on one experiment.

    Attributes:
        experiment: What.
    """

    experiment: Experiment

    methods: ClassVar = METHODS

    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        return known(self.experiment, name, knobs, seed)

    def start(self, seed: int, on_step: OnStep) -> Start:
        return origin_of(self.experiment, seed, on_step)

    def train(self, origin: Start, name: str, knobs: Settings, seed: int, on_step: OnStep) -> Run[Start]:
        return fine_tuned(self.experiment, METHODS[name], knobs, seed, on_step, origin)

    def judged(self, origin: Start, run: Run[Start]) -> rows.Row:
        return {"validation_accuracy": run.validation, **run.cost()}

    def measured(self, origin: Start, run: Run[Start], name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        for label, settings, alpha in points(name, knobs, self.alphas(name)):
            yield self.known(label, settings, seed) | run.cost(alpha) | scores(origin, run.at(alpha)).columns()

    def alphas(self, name: str) -> tuple[float, ...]:
        """What a method is interpolated with."""
        return ALPHAS if name == "vanilla" else FEW_ALPHAS


def recorded(experiment: Experiment) -> Classification:
    """The runs that are recorded, whose settings other benchmarks take."""
    return Classification(
        experiment=experiment,
        results=rows.File(_RECORDED / "robustness.csv"),
        trials=rows.File(_RECORDED / "robustness_trials.csv"),
    )


def known(experiment: Experiment, name: str, knobs: Settings, seed: int) -> rows.Row:
    """What a run's row holds before it is measured."""
    same = {"experiment": experiment.name, "backbone": experiment.backbone, "id_domain": experiment.id_domain}
    return {**same, "method": name, "hyperparameters": knobs, "seed": seed}


def origin_of(experiment: Experiment, seed: int, on_step: OnStep | None = None) -> Start:
    """The task and the foundation model of a seed."""
    where = (experiment.name, experiment.id_domain, seed)
    return start(*where, smallest=experiment.smallest, backbone=experiment.backbone, on_step=on_step)


def fine_tuned(
    experiment: Experiment, method: Method, knobs: Settings, seed: int, on_step: OnStep, origin: Start
) -> Run[Start]:
    """Fine-tunes with one method at one setting."""

    def from_here(method: Method, epochs: int, origin: Start) -> Run[Start]:
        return run(
            origin,
            method.build,
            Knobs(knobs[RATE], knobs.get(method.knob, 0.0)),
            seed,
            epochs=epochs,
            batch_size=experiment.batch_size,
            held_out=method.held_out,
            on_step=on_step,
        )

    if not method.probe_first:
        return from_here(method, experiment.epochs, origin)
    # As many passes over the images as the others, halved between the probe and fine-tuning.
    half = max(1, experiment.epochs // 2)
    probe = from_here(METHODS["linear_probe"], half, origin)
    tuned = from_here(method, half, replace(origin, params=probe.trained.params))
    took = probe.trained.seconds + tuned.trained.seconds
    return replace(tuned, start=origin, trained=replace(tuned.trained, seconds=took))
