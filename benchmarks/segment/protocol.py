"""The classification benchmark's protocol, with mean IoU: trials on one seed's validation scenes, then every seed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from robust import protocol as classification
from robust.experiments import standard
from robust.finetune import Start
from robust.methods import METHODS, RATE
from robust.training import OnStep
from segment import rows
from segment.finetune import BACKBONES, Run, fine_tuned, measured, start
from segment.worlds import WORLDS

__all__ = ["ALPHAS", "Settings", "chosen", "run_missing"]

ALPHAS = (0.3, 0.5, 0.7, 0.9)
"""WiSE-FT's curve, from the foundation model (0) to vanilla fine-tuning (1)."""

FEW_ALPHAS = (0.7,)
"""What all other methods are interpolated with."""

_CLASSIFICATION = Path(__file__).parents[1] / "results" / "robustness_trials.csv"

Stage = Callable[[str], AbstractContextManager[OnStep]]


@dataclass(frozen=True)
class Settings:
    """Which runs are wanted, and where their rows are.

    Attributes:
        experiment: A key of `WORLDS`.
        methods: Names in `robust.methods.METHODS`.
        seeds: Seeds.
        results: File of the final rows.
        trials: File of the trials' rows.
        tried: How many settings of each method's knob are tried; with 1 there is no trial here (see `chosen`).
    """

    experiment: str
    methods: Sequence[str]
    seeds: Sequence[int]
    results: Path
    trials: Path
    tried: int = 3

    def row(self, method: str, hyperparameters: dict[str, float], seed: int) -> rows.Row:
        """The part of a row that is known before the run."""
        name = self.experiment
        same = {"experiment": name, "backbone": BACKBONES[name], "id_domain": WORLDS[name].id_style}
        return rows.blank(**same, method=method, hyperparameters=hyperparameters, seed=seed)


def run_missing(settings: Settings, stage: Stage, on_done: Callable[[str, int, Run], None]) -> None:
    """Runs what has no row yet.

    Args:
        settings: What.
        stage: The context of each training run; takes its name and gives the callback for its steps.
        on_done: Called with method, seed and run when a run is finished.
    """
    for seed in settings.seeds:
        if all(_is_done(settings, name, seed) for name in settings.methods):
            continue
        with stage(f"{settings.experiment}, foundation model {seed}") as on_step:
            origin = start(settings.experiment, seed, on_step)
        for name in settings.methods:
            trials = _tried(settings, name, origin, stage) if seed == settings.seeds[0] else {}
            if not _is_done(settings, name, seed):
                knobs = chosen(settings, name)
                run = trials.get(knobs.get(METHODS[name].knob))
                if run is None:
                    with stage(f"{settings.experiment}, {name}, seed {seed}") as on_step:
                        run = fine_tuned(origin, METHODS[name], knobs, seed, on_step)
                _record(settings, name, knobs, seed, run)
                on_done(name, seed, run)


def chosen(settings: Settings, name: str) -> dict[str, float]:
    """The hyper-parameters of a method: of its trials those with the best validation score, the first of equals.

    The learning rate is vanilla fine-tuning's, unless it is the method's own knob. Without trials here, the setting is
    the one that the classification benchmark chose on its own validation images.
    """
    method = METHODS[name]
    own = _best(settings, name)
    return {RATE: own} if method.knob == RATE else {RATE: _best(settings, "vanilla"), method.knob: own}


def _best(settings: Settings, name: str) -> float:
    method, known = METHODS[name], settings.row(name, {}, 0)
    same = ("experiment", "backbone", "id_domain", "method")
    found = {
        row["hyperparameters"][method.knob]: row["validation_miou"]
        for row in rows.read(settings.trials)
        if all(row[column] == known[column] for column in same)
    }
    tried = [value for value in method.values if value in found]
    if not tried:
        return classification.chosen(standard(settings.experiment), _CLASSIFICATION, name)[method.knob]
    return max(tried, key=lambda value: found[value])  # the first of equals


def _tried(settings: Settings, name: str, origin: Start, stage: Stage) -> dict[float | None, Run]:
    """Appends the trials that are missing; gives back their runs, by setting: one of them is the first seed's run."""
    method, seed, runs = METHODS[name], settings.seeds[0], {}
    present = {rows.key_of(row) for row in rows.read(settings.trials)}
    for value in method.values[: settings.tried] if settings.tried > 1 else ():
        knobs = chosen(settings, name) | {method.knob: value}
        row = settings.row(name, knobs, seed)
        if rows.key_of(row) not in present:
            with stage(f"{settings.experiment}, {name}, trial of {method.knob} {value:g}") as on_step:
                run = fine_tuned(origin, method, knobs, seed, on_step)
            row |= {"validation_miou": run.validation, "drift": run.drift, "seconds": run.trained.seconds}
            rows.append(settings.trials, row)
            runs[value] = run
    return runs


def _record(settings: Settings, name: str, knobs: dict[str, float], seed: int, run: Run) -> None:
    """Appends the rows of a run; its own comes last: where it is, all the others of the run are too."""
    origin, vanilla = run.start, name == "vanilla"
    if vanilla:
        own = {"drift": 0.0, "seconds": 0.0} | measured(origin, origin.params)
        rows.append(settings.results, settings.row("zero_shot", {}, seed) | own)
    for alpha in ALPHAS if vanilla else FEW_ALPHAS:
        row = settings.row("wise_ft" if vanilla else f"{name}+wise_ft", {**knobs, "alpha": alpha}, seed)
        own = {"drift": alpha * run.drift, "seconds": run.trained.seconds}
        rows.append(settings.results, row | own | measured(origin, run.interpolated(alpha)))
    own = {"drift": run.drift, "seconds": run.trained.seconds} | measured(origin, run.trained.params)
    rows.append(settings.results, settings.row(name, knobs, seed) | own)


def _is_done(settings: Settings, name: str, seed: int) -> bool:
    key = rows.key_of(settings.row(name, chosen(settings, name), seed))
    return key in {rows.key_of(row) for row in rows.read(settings.results)}
