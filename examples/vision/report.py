"""The result of a run: one JSON document, and the table that shows it."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax
import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import ftp_optax
from vision.config import Config
from vision.data import Domain, Task
from vision.evaluation import Candidate, Predictions, accuracy
from vision.networks import Params
from vision.start import Head
from vision.training import Trained

__all__ = [
    "PRETRAINED",
    "START",
    "Results",
    "allowed_classes",
    "build_report",
    "candidates",
    "print_table",
    "result_rows",
    "test_sets",
]

# Names of the sets of images. OOD domains have names of the user's choice; the prefix keeps them from meeting these.
ID = "id"
VALIDATION = "validation"
OOD = "ood/"

PRETRAINED = "pre-trained"
# Evaluated as weights of their own and not as the start of a method's path: 0 times a weight that diverged is no 0.
START = Candidate(PRETRAINED, 1.0)
_WISE = " + WiSE "
_ENOUGH = 1000

WISE_PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where on the line from the pre-trained to the fine-tuned weights the figure has its points."""


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
        predictions: The predicted class of every test image.
    """

    config: Config
    task: Task
    pretrained: Params
    head: Head
    order: Sequence[str]
    trained: Mapping[str, Trained]
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
    """The weights to evaluate: the start's if it has a head for the task, and for every method its WiSE-FT path."""
    alphas = sorted({*WISE_PATH, config.wise_alpha})
    start = [] if head == "new" else [START]
    return start + [Candidate(method, alpha) for method in config.method_names for alpha in alphas]


def result_rows(results: Results) -> list[tuple[str, Candidate]]:
    """The rows of the table: the start if it has a head for the task, each method, each interpolated."""
    names, alpha = results.config.method_names, results.config.wise_alpha
    return [
        *([] if results.head == "new" else [(results.head, START)]),
        *((name, Candidate(name, 1.0)) for name in names),
        *((f"{name}{_WISE}{alpha:g}", Candidate(name, alpha)) for name in names),
    ]


def build_report(results: Results) -> dict[str, Any]:
    """The run's report, as JSON types. What depends on the machine alone is under `timing` and `versions`."""
    task, config = results.task, results.config
    return {
        "versions": {
            "ftp_optax": ftp_optax.__version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
            "device": jax.devices()[0].device_kind,
        },
        "config": config.to_json(),
        "task": {
            "name": task.name,
            "classes": list(task.classes),
            "id": task.id_test.name,
            "ood_groups": {name: list(members) for name, members in task.ood_groups.items()},
            "train_images": len(task.train),
            "test_images": {name: len(domain) for name, domain in test_sets(task).items()},
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
            {"name": name, **candidate._asdict(), **_accuracies(results, candidate)}
            for name, candidate in result_rows(results)
        ],
        "methods": {name: _method_report(results, name) for name in config.method_names},
        "timing": {
            name: {
                "seconds": round(float(trained.history["seconds"]), 3),
                "steps_per_second": _ratio(trained.history["timed_steps"], trained.history["seconds"]),
            }
            for name, trained in results.trained.items()
        },
    }


def _accuracies(results: Results, candidate: Candidate) -> dict[str, Any]:
    task, predicted = results.task, results.predictions[candidate]
    ood = {name: accuracy(predicted[OOD + name], domain) for name, domain in task.ood.items()}
    found = {
        "id": accuracy(predicted[ID], task.id_test),
        "ood": ood,
        "ood_group_means": {name: _mean([ood[m] for m in members]) for name, members in task.ood_groups.items()},
        "ood_mean": _mean(list(ood.values())),
    }
    if VALIDATION in predicted:
        found[VALIDATION] = accuracy(predicted[VALIDATION], task.validation)
    return found


def _method_report(results: Results, name: str) -> dict[str, Any]:
    trained = results.trained[name]
    # Drift is measured from the anchor in an optimizer's state; vanilla has none, so all are given the same one.
    anchored = ftp_optax.ftp(optax.identity()).init(results.pretrained)
    path = [candidate for candidate in results.predictions if candidate.method == name]
    return {
        "steps": len(trained.history["loss"]),
        "final_loss": _number(trained.history["loss"][-1]),
        "drift": _numbers(ftp_optax.drift(trained.params, anchored)),
        "radii": _numbers(ftp_optax.radii(trained.opt_state, trained.params)) if "radii" in trained.history else {},
        "strengths": _numbers(ftp_optax.strengths(trained.opt_state, trained.params))
        if "strengths" in trained.history
        else {},
        "wise_path": [{"alpha": candidate.alpha, **_accuracies(results, candidate)} for candidate in path],
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


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _ratio(steps: np.ndarray, seconds: np.ndarray) -> float | None:
    return round(float(steps / seconds), 2) if seconds > 0 else None


def print_table(report: Mapping[str, Any], console: Console) -> None:
    """Prints the accuracies; on a narrow terminal the means only (the report has them all)."""
    table = _table(report, by_domain=True)
    # Measured where there is room: a measure never exceeds the width that it is given.
    if console.measure(table, options=console.options.update(width=_ENOUGH)).minimum > console.width:
        table = _table(report, by_domain=False)
    console.print(table)


def _table(report: Mapping[str, Any], *, by_domain: bool) -> Table:
    task, rows = report["task"], report["rows"]
    columns: list[tuple[str, list[float | None]]] = [(f"ID {task['id']}", [row["id"] for row in rows])]
    if by_domain:
        columns += [(name, [row["ood"][name] for row in rows]) for name in rows[0]["ood"]]
    if len(task["ood_groups"]) > 1:
        columns += [
            (f"mean {name}", [row["ood_group_means"][name] for row in rows]) for name in rows[0]["ood_group_means"]
        ]
    if rows[0]["ood"]:
        columns.append(("mean OOD", [row["ood_mean"] for row in rows]))

    table = Table(caption=_caption(report), caption_justify="left", title="Accuracy in %", title_justify="left")
    table.add_column("", no_wrap=True)
    for name, _ in columns:
        # A header may wrap between words, not within one.
        table.add_column(name, justify="right", min_width=max(len(word) for word in name.split()))
    for index, row in enumerate(rows):
        last_of_section = _WISE not in row["name"] and any(
            _WISE in later["name"] for later in rows[index + 1 : index + 2]
        )
        table.add_row(row["name"], *(_percent(values[index]) for _, values in columns), end_section=last_of_section)
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _caption(report: Mapping[str, Any]) -> str:
    counts = [n for name, n in report["task"]["test_images"].items() if name != VALIDATION]
    images = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    error = 50 / math.sqrt(min(counts))
    return (
        f"One seed ({report['config']['seed']}); {images} test images a domain, standard error of one number up to "
        f"{error:.1f} points. WiSE a: weights a of the way from pre-trained to fine-tuned.{_subsets(report['task'])}"
    )


def _subsets(task: Mapping[str, Any]) -> str:
    """Which domains are scored among fewer classes than there are."""
    total = len(task["classes"])
    among = [f"{name} {count}" for name, count in task["scored_among"].items() if count < total]
    return f" Scored among the classes it has, of {total}: {', '.join(among)}." if among else ""
