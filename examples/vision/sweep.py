"""The choice of knobs: every value is tried on the training images, and validation images choose."""

import itertools
import json
import os
import shutil
from collections.abc import Mapping

import numpy as np

from vision.method_run import Parts, train
from vision.methods import KNOBS
from vision.run_dir import write_json

__all__ = ["chosen_knobs"]


def chosen_knobs(parts: Parts) -> dict[str, dict[str, float]]:
    """The values that validation images choose for every method that a swept knob concerns."""
    config, path = parts.config, parts.run_dir.knobs
    if path.exists():
        return json.loads(path.read_text())
    chosen = {}
    for name in config.method_names:
        swept = {knob: values for knob, values in config.swept.items() if knob in KNOBS[name]}
        if not swept:
            continue
        trials = [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
        accuracies = [_trial(name, parts, trial) for trial in trials]
        best = int(np.argmax(accuracies))  # the first of equal ones
        chosen[name] = trials[best]
        for trial, found in zip(trials, accuracies, strict=True):
            parts.console.print(f"{shown(name, trial)}: validation accuracy {100 * found:.1f}", markup=False)
    if parts.devices.first and config.sweep:
        for name, trial in chosen.items():
            # the chosen trial is the run itself
            for place in (parts.run_dir.checkpoints, parts.run_dir.best_checkpoints, parts.run_dir.log):
                if place(shown(name, trial)).exists():
                    os.replace(place(shown(name, trial)), place(name))
        for leftover in parts.run_dir.root.glob("checkpoints/* *"):
            shutil.rmtree(leftover)
        write_json(path, chosen)
    parts.devices.wait("knobs")
    return chosen


def _trial(name: str, parts: Parts, trial: Mapping[str, float]) -> float:
    """The validation accuracy that decides: of the weights that would be reported."""
    trained = train(name, shown(name, trial), parts, trial)
    if parts.config.select == "best":
        return max(accuracy for _, accuracy, _ in trained.validations)
    return trained.validations[-1][1]


def shown(name: str, knobs: Mapping[str, float]) -> str:
    return " ".join([name, *(f"{knob.replace('_', '-')}={value:g}" for knob, value in knobs.items())])
