"""The protocol: settings by trials on validation pictures of the first seed, then every seed with what was chosen."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from questions.methods import METHODS, RATE
from questions.scores import Scores, by_kind, overall, predicted, scores
from questions.shift import shifts
from questions.sources import SOURCES
from questions.start import BATCH_SIZE, Start, start
from robust import rows
from robust.finetune import between, distance
from robust.training import Knobs, OnStep, Recipe, Trained, train
from vision.data import steps_in
from vision.networks import Params

__all__ = ["ALPHAS", "COLUMNS", "Plan", "chosen", "run_missing", "shifts_file"]

COLUMNS = (*rows.COLUMNS[:8], "near_accuracy", "far_accuracy", *rows.COLUMNS[10:])
"""Of both files of rows: the robustness benchmark's, but for what is out of domain. `domains` is JSON: for each test
domain the accuracy in each kind of question, in the order of `questions.wordings.KINDS`."""

ALPHAS = (0.3, 0.5, 0.7)
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""

Stage = Callable[[str], AbstractContextManager[OnStep]]


@dataclass(frozen=True)
class Plan:
    """Which runs are wanted, and where their rows are.

    Attributes:
        source: A name in `SOURCES`.
        methods: Names in `METHODS`.
        seeds: Seeds; settings are chosen on the first.
        results: Directory of `vqa.csv` and `vqa_trials.csv`.
        epochs: Passes over the fine-tuning pictures.
        tried: How many settings of each method's knob are tried; with 1 there is nothing to choose, and no trial.
        smallest: A few pictures.
    """

    source: str
    methods: Sequence[str]
    seeds: Sequence[int]
    results: Path
    epochs: int
    tried: int = 3
    smallest: bool = False

    @property
    def final(self) -> Path:
        """File of the final rows."""
        return self.results / "vqa.csv"

    @property
    def trials(self) -> Path:
        """File of the trials' rows."""
        return self.results / "vqa_trials.csv"


def run_missing(plan: Plan, stage: Stage) -> None:
    """Runs what has no row yet.

    Args:
        plan: Which runs.
        stage: The context of each training run; takes its name and gives the callback for its steps.
    """
    for seed in plan.seeds:
        with stage(f"foundation model {seed}") as on_step:
            origin = start(plan.source, seed, smallest=plan.smallest, on_step=on_step)
        _measure_shifts(plan, origin)
        for name in plan.methods:
            tried = _try(plan, name, origin, stage) if seed == plan.seeds[0] else {}
            if not _is_there(plan.final, _row(plan, name, chosen(plan, name), seed)):
                _finish(plan, name, origin, stage, tried)


def chosen(plan: Plan, name: str) -> dict[str, float]:
    """The hyper-parameters of a method: those of the trial with the best validation accuracy, the first of equals.

    The learning rate is vanilla fine-tuning's, unless it is the method's own knob.
    """
    method = METHODS[name]
    rate = {RATE: _best(plan, "vanilla")}
    return rate if method.knob == RATE else {**rate, method.knob: _best(plan, name)}


def _best(plan: Plan, name: str) -> float:
    """The knob's value with the best validation accuracy; the default before any trial."""
    method, own = METHODS[name], rows.key_of(_row(plan, name, {}, 0))[:4]
    found = {
        row["hyperparameters"][method.knob]: row["validation_accuracy"]
        for row in rows.read(plan.trials, COLUMNS)
        if rows.key_of(row)[:4] == own
    }
    return max(method.values, key=lambda value: found.get(value, 0.0))  # max takes the first of equals


def _try(plan: Plan, name: str, origin: Start, stage: Stage) -> dict[float, Trained]:
    """Runs the trials that have no row; gives what they trained, by the knob: the best need not be run again."""
    method, tried = METHODS[name], {}
    for value in method.values[: plan.tried] if plan.tried > 1 else ():
        knobs = {**chosen(plan, name), method.knob: value}
        row = _row(plan, name, knobs, origin.seed)
        if _is_there(plan.trials, row):
            continue
        with stage(f"{name}, trial of {method.knob} {value:g}") as on_step:
            done = tried[value] = _fine_tuned(plan, name, knobs, origin, on_step)
        judge = origin.validation
        row["validation_accuracy"] = overall(by_kind(predicted(origin.network, done.params, judge), judge))
        row |= {"drift": distance(done.params, origin.params), "seconds": done.seconds}
        rows.append(plan.trials, row, COLUMNS)
    return tried


def _finish(plan: Plan, name: str, origin: Start, stage: Stage, tried: Mapping[float, Trained]) -> None:
    knobs = chosen(plan, name)
    done = tried.get(knobs[METHODS[name].knob])
    if done is None:
        with stage(f"{name}, seed {origin.seed}") as on_step:
            done = _fine_tuned(plan, name, knobs, origin, on_step)
    points: list[tuple[str, dict[str, float], Params]] = []
    if name == "vanilla":
        points.append(("zero_shot", {}, origin.params))
        towards = lambda alpha: between(done.params, origin.params, alpha)
        points += [("wise_ft", {**knobs, "alpha": alpha}, towards(alpha)) for alpha in ALPHAS]
    points.append((name, knobs, done.params))  # last: where it is, all the others of the run are too
    for label, setting, params in points:
        found, seconds = scores(origin, params), 0.0 if label == "zero_shot" else done.seconds
        row = _row(plan, label, setting, origin.seed) | _measured(found, distance(params, origin.params), seconds)
        rows.append(plan.final, row, COLUMNS)


def _fine_tuned(plan: Plan, name: str, knobs: dict[str, float], origin: Start, on_step: OnStep) -> Trained:
    method = METHODS[name]
    return train(
        origin.network,
        origin.params,
        Recipe(method.build, steps_in(len(origin.train), BATCH_SIZE, plan.epochs)),
        Knobs(knobs[RATE], knobs.get(method.knob, 0.0)),
        origin.train,
        batch_size=BATCH_SIZE,
        seed=origin.seed,
        augment=False,  # what is left would be right in the mirror
        on_step=on_step,
    )


def shifts_file(results: Path) -> Path:
    """How far each test domain lies from the fine-tuning domain: by seed, domain and space."""
    return results / "vqa_shifts.json"


def _measure_shifts(plan: Plan, origin: Start) -> None:
    file, key = shifts_file(plan.results), str(origin.seed)
    present = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if key not in present:
        found = {name: {k: round(v, 5) for k, v in one.items()} for name, one in shifts(origin).items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**present, key: found}, indent=1) + "\n", "utf-8")


def _is_there(file: Path, row: rows.Row) -> bool:
    return rows.key_of(row) in {rows.key_of(one) for one in rows.read(file, COLUMNS)}


def _row(plan: Plan, method: str, hyperparameters: dict[str, float], seed: int) -> rows.Row:
    source = SOURCES[plan.source]
    backbone = "efficientnet-lite0" if plan.source == "emoji" else "small-cnn"
    same = {"experiment": f"vqa-{source.name}", "backbone": backbone, "id_domain": source.id_style}
    own = {"method": method, "hyperparameters": hyperparameters, "seed": seed, "domains": {}}
    return {**dict.fromkeys(COLUMNS), **same, **own}


def _measured(found: Scores, drift: float, seconds: float) -> dict[str, Any]:
    accuracies = {"validation_accuracy": found.validation, "id_accuracy": found.id}
    shifted = {"near_accuracy": found.near, "far_accuracy": found.far}
    return {**accuracies, **shifted, "drift": drift, "seconds": seconds, "domains": dict(found.domains)}
