"""The protocol that the benchmarks share, on runs that cost nothing."""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from evidence import continual, dense, low_label, recipe_choice, rows, vqa
from evidence.methods import RATE
from evidence.protocol import Study
from evidence.rows import File
from evidence.tasks import Classification, classification
from vision.errors import UserError

ROOT = Path(__file__).parents[1]


class Method(NamedTuple):
    knob: str
    values: tuple[float, ...]


class Run(NamedTuple):
    """A run is its knob's value."""

    value: float
    validation: float

    def at(self, alpha):
        return self.value

    def cost(self, alpha=1.0):
        return {"drift": alpha * self.value}


@dataclass(frozen=True, kw_only=True)
class Pretended(Classification):
    """`scores` says how good a knob's value is in validation; test scores say the opposite."""

    scores: Mapping[float, float]

    def start(self, seed, on_step=None):
        return f"foundation model {seed}"

    def tune(self, start, method, knobs, seed, on_step=None):
        assert start == f"foundation model {seed}"
        value = knobs[method.knob]
        return Run(value, self.scores[value])

    def columns(self, start, params):
        return {"id_accuracy": -params}


def told(study, *names, seeds=(0, 1)):
    """Runs what is missing; gives the names of the stages."""
    stages = []

    @contextmanager
    def stage(name):
        stages.append(name.removeprefix("digits, "))
        yield None

    study.run_missing(names, seeds, stage)
    return stages


def pretended(scores=None, **changes):
    return Pretended(**vars(classification("digits", **changes)), scores=scores or SCORES)


METHODS = {"vanilla": Method(RATE, (1e-3, 3e-4, 3e-3)), "ftp": Method("mu", (1e-2, 3e-3, 1e-1))}
SCORES = {1e-3: 0.7, 3e-4: 0.6, 3e-3: 0.8, 1e-2: 0.5}


@pytest.fixture
def study(tmp_path):
    same = {"methods": METHODS, "alphas": (0.5,), "few_alphas": (0.5,)}
    return Study(task=pretended(), results=File(tmp_path / "rows.csv"), tried=3, **same)


def runs_of(study, name):
    return [(row["hyperparameters"], row["seed"]) for row in study.results.read() if row["method"] == name]


def test_the_first_seed_tries_and_every_seed_runs_the_setting_best_in_validation(study):
    assert told(study, "vanilla") == [
        "foundation model 0",
        "vanilla, trial of lr 0.001",
        "vanilla, trial of lr 0.0003",
        "vanilla, trial of lr 0.003",  # the best: not trained again as seed 0
        "foundation model 1",
        "vanilla, seed 1",
    ]
    assert runs_of(study, "vanilla") == [({RATE: 3e-3}, 0), ({RATE: 3e-3}, 1)]
    assert all(row["id_accuracy"] is None for row in study.trials.read())


def test_of_equals_the_default_is_chosen_at_the_learning_rate_of_plain_fine_tuning(study):
    told(study, "vanilla")
    two = replace(study, tried=2, task=pretended(SCORES | {3e-3: 0.4}))
    told(two, "ftp")
    # better on test images, which must not matter
    study.trials.append(
        study.known("ftp", {RATE: 3e-3, "mu": 1e-1}, 0) | {"validation_accuracy": 0.5, "id_accuracy": 1.0}
    )
    assert study.chosen("ftp") == {RATE: 3e-3, "mu": 1e-2}
    study.trials.append(study.known("ftp", {RATE: 3e-3, "mu": 3e-3}, 0) | {"validation_accuracy": 0.6})
    assert study.chosen("ftp") == {RATE: 3e-3, "mu": 3e-3}


def test_without_trials_every_method_runs_at_its_default(study):
    untried = replace(study, tried=1)
    assert told(untried, "vanilla", "ftp", seeds=(0,)) == ["foundation model 0", "vanilla, seed 0", "ftp, seed 0"]
    assert runs_of(study, "ftp") == [({RATE: 1e-3, "mu": 1e-2}, 0)]


def test_what_is_there_is_not_run_again_and_makes_no_foundation_model(study):
    told(study, "vanilla")
    assert told(study, "vanilla") == []
    lines = study.results.path.read_text().splitlines(keepends=True)
    study.results.path.write_text("".join(lines[:-1]))  # a crash before the run's own row, which comes last
    assert told(study, "vanilla") == ["foundation model 1", "vanilla, seed 1"]
    assert runs_of(study, "vanilla") == [({RATE: 3e-3}, 0), ({RATE: 3e-3}, 1)]


def test_another_network_chooses_for_itself(study):
    told(study, "vanilla")
    other = replace(study, task=pretended(backbone="vit"))
    assert other.chosen("vanilla") == {RATE: 1e-3}
    assert len(told(other, "vanilla")) == 6


def test_an_unknown_method_is_a_users_mistake(study):
    with pytest.raises(UserError, match="no method 'magic'; choose from vanilla, ftp"):
        told(study, "vanilla", "magic")
    assert study.results.read() == []


def test_finished_runs_are_handed_over(study):
    done = []
    study.run_missing(("vanilla",), (0, 1), stage=_silent, on_done=lambda *run: done.append(run))
    assert [(name, seed, run.value) for name, seed, run in done] == [("vanilla", 0, 3e-3), ("vanilla", 1, 3e-3)]


@contextmanager
def _silent(name):
    yield None


def test_plain_fine_tuning_brings_the_foundation_model_and_every_run_comes_after_its_interpolations(study):
    study = replace(study, alphas=(0.3, 0.7))
    assert list(study.points("vanilla", {RATE: 1.0})) == [
        ("zero_shot", {}, 0.0),
        ("wise_ft", {RATE: 1.0, "alpha": 0.3}, 0.3),
        ("wise_ft", {RATE: 1.0, "alpha": 0.7}, 0.7),
        ("vanilla", {RATE: 1.0}, 1.0),
    ]
    assert [label for label, *_ in study.points("ftp", {})] == ["ftp+wise_ft", "ftp"]
    assert [label for label, *_ in replace(study, alphas=()).points("vanilla", {})] == ["vanilla"]


def test_recording_takes_as_long_as_the_rows_say():
    parts = {
        "`robustness`, with its `--backbone`s": {("robustness", "emoji", "fluent-high-contrast")},
        "`robustness --id-domain noto`": {("robustness", "emoji", "noto")},
        "`robustness --experiment digits`, `fashion`, with its `--backbone`s": {
            ("robustness", "digits", "photo"),
            ("robustness", "fashion", "photo"),
        },
        "`dense`": {("dense", "emoji", "fluent-high-contrast")},
        "`vqa`": {("vqa", "vqa-emoji", "fluent-high-contrast")},
        "`low-label`": {("low_label", "digits", "photo"), ("low_label", "emoji", "fluent-high-contrast")},
        "`continual`": {("continual", "digits", "photo"), ("continual", "emoji", "fluent-high-contrast")},
    }
    columns = {
        "robustness": rows.COLUMNS,
        "dense": dense.COLUMNS,
        "vqa": vqa.COLUMNS,
        "low_label": low_label.COLUMNS,
        "continual": continual.COLUMNS,
    }
    took = {}
    for name, own in columns.items():
        for part in ("_trials", ""):  # a run that is a trial and the first seed's is one
            file = File(ROOT / f"benchmarks/results/{name}{part}.csv", own)
            for row in file.read():
                interpolated = "alpha" in row["hyperparameters"] and name != "continual"
                if row["method"] != "zero_shot" and not interpolated and row.get("share") != 1:
                    took[name, *file.key_of(row), row.get("share")] = row["seconds"]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for title, which in parts.items():
        seconds = [value for key, value in took.items() if (key[0], key[1], key[3]) in which]
        assert f"| {title} | {len(seconds)} | {sum(seconds) / 3600:.1f} |" in text
    assert f"{len(took)} runs and {sum(took.values()) / 3600:.0f} hours" in text
    runs = [row for row in recipe_choice.read(ROOT / "benchmarks/results/recipe.jsonl") if row.setting.rate]
    hours = sum(run.seconds for run in runs) / 3600
    assert f"`recipe` has another {len(runs):,} runs and {hours:.0f} hours" in text
