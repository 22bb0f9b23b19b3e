"""The result of a run: one JSON document."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
import optax

import ftp_optax
from vision.evaluation import Candidate, Predicted
from vision.methods import KNOBS
from vision.metrics import accuracy, calibration_error, per_class_accuracy
from vision.results import ID, OOD, VALIDATION, Results, result_rows, test_sets, wise_alpha

__all__ = ["build_report"]


def build_report(
    results: Results, *, devices: Mapping[str, Any], knobs: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The run's report, as JSON types. What depends on the machine alone is under `timing` and `versions`.

    Args:
        results: What was found. Of several processes one makes the report, so arrays have to be whole in it.
        devices: Where the run was, as JSON types.
        knobs: By method, values chosen for it in place of the configuration's.
    """
    task, config = results.task, results.config
    sets, rows = test_sets(task), result_rows(results)
    skipped = {name: int((~counted).sum()) for name, counted in _counted(results).items()}
    return {
        "versions": {
            "ftp_optax": ftp_optax.__version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
            "devices": dict(devices),
        },
        "config": config.to_json(),
        "task": {
            "name": task.name,
            "classes": list(task.classes),
            "id": task.id_test.name,
            "ood_groups": {name: list(members) for name, members in task.ood_groups.items()},
            "train_images": len(task.train),
            "test_images": {name: len(domain) - skipped[name] for name, domain in sets.items()},
            "skipped_images": skipped,
            "scored_among": {name: len(task.ood_labels.get(name, task.classes)) for name in task.ood},
            "notes": list(task.notes),
        },
        "model": {
            "name": config.model,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(results.pretrained)),
            "head": results.head,
            "new_head": results.head in ("new", "linear probe"),
        },
        "rows": [
            {
                "name": name,
                **candidate._asdict(),
                **_scores(results, candidate, _accuracy),
                "calibration_error": _scores(results, candidate, _calibration_error),
            }
            for name, candidate in rows
        ],
        "per_class_accuracy": {
            name: {images: _per_class(results, candidate, images) for images in sets} for name, candidate in rows
        },
        "methods": {name: _method_report(results, name, (knobs or {}).get(name, {})) for name in config.method_names},
        "timing": {name: _timing(trained.history, config.batch_size) for name, trained in results.trained.items()},
    }


Metric = Callable[[Predicted, np.ndarray], float]


def _accuracy(predicted: Predicted, labels: np.ndarray) -> float:
    return accuracy(predicted.labels, labels)


def _calibration_error(predicted: Predicted, labels: np.ndarray) -> float:
    return calibration_error(predicted.labels, predicted.confidence, labels)


def _scores(results: Results, candidate: Candidate, metric: Metric) -> dict[str, Any]:
    """A score in every domain, and its means."""
    task = results.task

    def score(images: str) -> float | None:
        predicted, labels = _readable(results, candidate, images)
        return _number(metric(predicted, labels)) if len(labels) else None

    ood = {name: score(OOD + name) for name in task.ood}
    found = {
        "id": score(ID),
        "ood": ood,
        "ood_group_means": {name: _mean([ood[m] for m in members]) for name, members in task.ood_groups.items()},
        "ood_mean": _mean(list(ood.values())),
    }
    return found | ({VALIDATION: score(VALIDATION)} if VALIDATION in test_sets(task) else {})


def _per_class(results: Results, candidate: Candidate, images: str) -> dict[str, float]:
    """The accuracy in each class that the set has images of."""
    predicted, labels = _readable(results, candidate, images)
    found = per_class_accuracy(predicted.labels, labels, len(results.task.classes))
    return {name: share for name, share in zip(results.task.classes, found, strict=True) if share is not None}


def _readable(results: Results, candidate: Candidate, images: str) -> tuple[Predicted, np.ndarray]:
    """Predictions and labels of the images that were not passed over."""
    predicted = results.predictions[candidate][images]
    counted = predicted.counted
    return Predicted(*(column[counted] for column in predicted)), test_sets(results.task)[images].labels[counted]


def _counted(results: Results) -> dict[str, np.ndarray]:
    """Which images of each set could be read: the same for all candidates."""
    return {images: predicted.counted for images, predicted in next(iter(results.predictions.values())).items()}


def _method_report(results: Results, name: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    config, trained = results.config, results.trained[name]
    # Drift is measured from the anchor in an optimizer's state; vanilla has none, so all are given the same one.
    # Both on the host: they may lie on different devices.
    start, params = jax.tree.map(np.asarray, (results.pretrained, trained.selected(config.select).params))
    anchored = ftp_optax.add_decayed_anchor(1.0).init(start)
    path = [candidate for candidate in results.predictions if candidate.method == name]
    # the first of equal ones
    best = max(trained.validations, key=lambda look: look[1], default=None)
    return {
        "steps": len(trained.history["loss"]),
        "stopped_early": trained.stopped_early,
        "skipped_images": int(trained.history["bad_images"]),
        "knobs": {knob: chosen.get(knob, getattr(config, knob)) for knob in KNOBS[name]},
        "final_loss": _number(trained.history["loss"][-1]),
        "best": None if best is None else {"step": best[0], "validation": best[1]},
        "validations": [
            {"step": step, "accuracy": right, "loss": _number(loss)} for step, right, loss in trained.validations
        ],
        "drift": _numbers(ftp_optax.drift(anchored, params)),
        "radii": _numbers(trained.radii),
        "strengths": _numbers(trained.strengths),
        "wise_alpha": wise_alpha(results, name),
        "wise_path": [{"alpha": candidate.alpha, **_scores(results, candidate, _accuracy)} for candidate in path],
    }


def _timing(history: Mapping[str, np.ndarray], batch_size: int) -> dict[str, float | None]:
    seconds, steps = float(history["seconds"]), float(history["timed_steps"])
    rate = lambda amount, digits: round(amount / seconds, digits) if seconds > 0 else None
    return {
        "seconds": round(seconds, 3),
        "steps_per_second": rate(steps, 2),
        "images_per_second": rate(steps * batch_size, 1),
        "input_wait_share": rate(float(history["waited_seconds"]), 3),
    }


def _numbers(by_path: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values; a leaf with several layers has a list."""
    return {
        path: _number(value) if np.ndim(value) == 0 else [_number(v) for v in np.asarray(value)]
        for path, value in by_path.items()
    }


def _number(value: Any) -> float | None:
    """JSON knows neither NaN nor infinity: a run that diverged has null there."""
    return float(value) if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the domains that have a score."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
