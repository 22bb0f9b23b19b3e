"""The protocol: three trials a method on validation images of one seed, then every seed with the setting chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robust import rows
from robust.experiments import Experiment
from robust.finetune import Run, Scores, Start, run, scores, start
from robust.methods import METHODS, RATE, Method
from robust.training import OnStep

__all__ = [
    "DEFAULT_RATE",
    "Settings",
    "blank_row",
    "chosen",
    "default",
    "fine_tuned",
    "measured",
    "origin_of",
    "run_missing",
]

ALPHAS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""

FEW_ALPHAS = (0.5, 0.7)
"""What all other methods are interpolated with."""

DEFAULT_RATE = 1e-3
"""The learning rate where none was tried."""

Stage = Callable[[str], AbstractContextManager[OnStep]]


@dataclass(frozen=True)
class Settings:
    """Which runs are wanted, and where their rows are.

    Attributes:
        methods: Names in `METHODS`.
        seeds: Seeds.
        results: File of the final rows.
        trials: File of the trials' rows; None to run every method with its default, whatever was tried.
        tried: How many settings of each method's knob are tried.
    """

    methods: Sequence[str]
    seeds: Sequence[int]
    results: Path
    trials: Path | None
    tried: int = 3


OnDone = Callable[[Experiment, str, int, Run], None]
"""Called with the method, the seed and the run."""


def run_missing(
    experiment: Experiment,
    settings: Settings,
    stage: Stage,
    on_done: OnDone = lambda experiment, name, seed, run: None,
) -> None:
    """Runs what has no row yet: trials on the first seed, then all seeds.

    Args:
        experiment: What.
        settings: Which runs.
        stage: The context of each training run; takes its name and gives the callback for its steps.
        on_done: Called with every finished run.
    """
    for seed in settings.seeds:
        with stage(f"{experiment.name}, foundation model {seed}") as on_step:
            origin_of(experiment, seed, on_step)
        for name in settings.methods:
            trials = _tried(experiment, settings, name, stage) if seed == settings.seeds[0] else {}
            if not _is_done(experiment, settings, name, seed):
                finished = _final(experiment, settings, name, seed, stage, trials)
                on_done(experiment, name, seed, finished)


def chosen(experiment: Experiment, trials: Path | None, name: str) -> dict[str, float]:
    """The hyper-parameters of a method: those of the trial with the best validation accuracy, the first of equals.

    The learning rate is vanilla fine-tuning's, unless it is the method's own knob. Without trials both are the default.
    """
    method = METHODS[name]
    if method.knob == RATE:
        return {RATE: _best(experiment, trials, name) or method.values[0]}
    rate = _best(experiment, trials, "vanilla") or DEFAULT_RATE
    return {RATE: rate, method.knob: _best(experiment, trials, name) or method.values[0]}


def default(name: str) -> dict[str, float] | None:
    """The hyper-parameters of a method where nothing was tried; None for a name that is no method's."""
    method = METHODS.get(name)
    return None if method is None else {RATE: DEFAULT_RATE, method.knob: method.values[0]}


def _best(experiment: Experiment, trials: Path | None, name: str) -> float | None:
    """The knob's value, or None before any trial."""
    if trials is None:
        return None
    method, own = METHODS[name], (experiment.name, experiment.backbone, experiment.id_domain, name)
    found = {
        row["hyperparameters"][method.knob]: row["validation_accuracy"]
        for row in rows.read(trials)
        if rows.key_of(row)[:4] == own
    }
    tried = [value for value in method.values if value in found]
    return max(tried, key=lambda value: found[value]) if tried else None  # max takes the first of equals


def _tried(experiment: Experiment, settings: Settings, name: str, stage: Stage) -> dict[float, Run]:
    """Appends the trials that are missing; gives back their runs, by setting: one of them is the first seed's run."""
    if settings.trials is None:
        return {}
    method, seed, runs = METHODS[name], settings.seeds[0], {}
    present = {rows.key_of(row) for row in rows.read(settings.trials)}
    for value in method.values[: settings.tried]:
        knobs = {**chosen(experiment, settings.trials, name), method.knob: value}
        row = blank_row(experiment, name, knobs, seed)
        if rows.key_of(row) not in present:
            with stage(f"{experiment.name}, {name}, trial of {method.knob} {value:g}") as on_step:
                done = fine_tuned(experiment, method, knobs, seed, on_step)
            row |= {"validation_accuracy": done.validation, "drift": done.drift, "seconds": done.trained.seconds}
            rows.append(settings.trials, row)
            runs[value] = done
    return runs


def _final(
    experiment: Experiment, settings: Settings, name: str, seed: int, stage: Stage, trials: Mapping[float, Run]
) -> Run:
    knobs = chosen(experiment, settings.trials, name)
    done = trials.get(knobs[METHODS[name].knob])
    if done is None:
        with stage(f"{experiment.name}, {name}, seed {seed}") as on_step:
            done = fine_tuned(experiment, METHODS[name], knobs, seed, on_step)
    if name == "vanilla":
        first = blank_row(experiment, "zero_shot", {}, seed) | measured(scores(done.start, done.start.params), 0.0, 0.0)
        rows.append(settings.results, first)
    for alpha, label in _points(name):
        found = done.interpolated(alpha)
        row = blank_row(experiment, label, {**knobs, "alpha": alpha}, seed)
        rows.append(settings.results, row | measured(found, alpha * done.drift, done.trained.seconds))
    # The run's own row comes last: where it is, all the others of the run are too.
    own = measured(done.scores, done.drift, done.trained.seconds)
    rows.append(settings.results, blank_row(experiment, name, knobs, seed) | own)
    return done


def _points(name: str) -> Iterator[tuple[float, str]]:
    for alpha in ALPHAS if name == "vanilla" else FEW_ALPHAS:
        yield alpha, "wise_ft" if name == "vanilla" else f"{name}+wise_ft"


def _is_done(experiment: Experiment, settings: Settings, name: str, seed: int) -> bool:
    key = rows.key_of(blank_row(experiment, name, chosen(experiment, settings.trials, name), seed))
    return key in {rows.key_of(row) for row in rows.read(settings.results)}


def origin_of(experiment: Experiment, seed: int, on_step: OnStep | None = None) -> Start:
    """The task and the foundation model of a seed."""
    where = (experiment.name, experiment.id_domain, seed)
    return start(*where, smallest=experiment.smallest, backbone=experiment.backbone, on_step=on_step)


def fine_tuned(
    experiment: Experiment,
    method: Method,
    knobs: dict[str, float],
    seed: int,
    on_step: OnStep,
    origin: Start | None = None,
) -> Run:
    """Fine-tunes the foundation model of a seed, or what else is given as `origin`, with one method at one setting."""
    origin = origin or origin_of(experiment, seed)

    def from_here(method: Method, epochs: int, origin: Start) -> Run:
        return run(
            method.build,
            experiment.id_domain,
            seed,
            experiment=experiment.name,
            value=knobs.get(method.knob, 0.0),
            lr=knobs[RATE],
            epochs=epochs,
            batch_size=experiment.batch_size,
            held_out=method.held_out,
            origin=origin,
            on_step=on_step,
        )

    if not method.probe_first:
        return from_here(method, experiment.epochs, origin)
    # As many passes over the images as the others, halved between the probe and fine-tuning.
    half = max(1, experiment.epochs // 2)
    probe = from_here(METHODS["linear_probe"], half, origin)
    tuned = from_here(method, half, replace(origin, params=probe.trained.params))
    return replace(tuned, start=origin)


def blank_row(experiment: Experiment, method: str, hyperparameters: dict[str, float], seed: int) -> rows.Row:
    """What a run's row holds before it is measured."""
    same = {"experiment": experiment.name, "backbone": experiment.backbone, "id_domain": experiment.id_domain}
    return {
        **dict.fromkeys(rows.COLUMNS),
        **same,
        "method": method,
        "hyperparameters": hyperparameters,
        "seed": seed,
        "domains": {},
    }


def measured(found: Scores, drift: float, seconds: float) -> dict[str, Any]:
    """What a run adds to its row."""
    return {
        "validation_accuracy": found.validation,
        "id_accuracy": found.id,
        "ood_seen_accuracy": found.seen,
        "ood_held_accuracy": found.held_out,
        "drift": drift,
        "seconds": seconds,
        "domains": dict(found.domains),
    }
