"""The runs: one training gives the last weights and their averages, and each of them a path back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from choice.grid import KINDS, METHODS, Setting, weights
from choice.problems import Problem, Scores
from choice.rows import START, Points, Row
from robust.finetune import Start, between, distance
from robust.training import Knobs, Recipe, train
from vision.data import steps_in

__all__ = ["SHARES", "Wanted", "run", "start_row"]

SHARES = (0.3, 0.5, 0.7, 0.9, 1.0)
"""Where on the way from the foundation model to a run's weights they are measured."""

Wanted = Callable[[Row], Mapping[str, Iterable[float]]]
"""From a run's validation scores to the shares, by kind of weights, that test images score."""


def run(name: str, problem: Problem, start: Start, setting: Setting, seed: int, wanted: Wanted) -> Row:
    """Trains once and measures.

    Args:
        name: Of the task.
        problem: The task.
        start: Its images and foundation model.
        setting: What to run.
        seed: Of the order of the images.
        wanted: Says what to measure on test images.
    """
    method, task = METHODS[setting.method], start.task
    trained = train(
        start.network,
        start.params,
        Recipe(method.build, steps_in(len(task.train), problem.batch_size, problem.epochs)),
        Knobs(setting.rate, setting.knob, setting.decay),
        task.train,
        batch_size=problem.batch_size,
        seed=seed,
        augment=problem.augment,
        held_out=task.validation if method.held_out else None,
    )
    ends = weights(trained)
    at = lambda kind, share: between(ends[kind], start.params, share)
    validation: Points = {
        kind: {share: problem.score(start, at(kind, share), task.validation) for share in SHARES} for kind in KINDS
    }
    learned = [rows[len(rows) // 2 :].mean() for rows in trained.scalars.values()]
    row = Row(
        task=name,
        seed=seed,
        setting=setting,
        images=len(task.validation),
        drift={kind: distance(params, start.params) for kind, params in ends.items()},
        validation=validation,
        strength=float(np.mean(learned)) if learned else None,
        seconds=round(trained.seconds, 1),
    )
    test: dict[str, dict[float, Scores]] = {
        kind: {share: problem.test_scores(start, at(kind, share)) for share in sorted(shares)}
        for kind, shares in wanted(row).items()
    }
    return replace(row, test=test)


def start_row(name: str, problem: Problem, start: Start, seed: int, *, tested: bool) -> Row:
    """The foundation model's own row; with scores on test images where those are looked at."""
    validation = {"last": {0.0: problem.score(start, start.params, start.task.validation)}}
    test = {"last": {0.0: problem.test_scores(start, start.params)}} if tested else {}
    return Row(name, seed, START, len(start.task.validation), {"last": 0.0}, validation, test)
