"""The experiments past the papers: every one runs at its smallest, and a row that is there is not run again."""

import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import style
from evidence.past import ACCURACIES, AXES, METHODS, QUESTIONS, Options, Trial, along, by_setting, read, results_file
from evidence.training import Knobs, Recipe
from ftp_optax import digrap

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_question_runs_at_its_smallest_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, BENCHMARKS / "evidence.py", "past", "--smallest", "--results", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = read(tmp_path)
    assert len(rows) > 6
    assert all(0 < row["id_accuracy"] <= 1 and row["drift"] > 0 for row in rows.values())
    assert any(trial.judge_every for trial in rows)
    for question in QUESTIONS:
        assert (tmp_path / f"past_{question}_digits.png").stat().st_size > 10_000
    path = tmp_path / "past_the_papers.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    again = subprocess.run([*command], check=True, capture_output=True, text=True).stdout
    assert list(read(tmp_path)) == list(rows)
    last = list(rows)[-1]
    assert {line.split(",")[1] for line in again.splitlines() if "loss" in line} == {f" {last.label} {last.knob:g}"}
    path.write_text("".join(lines[:-1]))
    lacking = subprocess.run([*command, "--report"], check=False, capture_output=True, text=True)
    assert lacking.returncode == 2
    assert "past_the_papers.csv lacks 1 of " in lacking.stdout


def test_rows_read_back_as_they_were_written(tmp_path):
    trial = Trial("emoji", "ftp", 0.1, 2, rate=3e-4, judge_every=4)
    scores = {"id_accuracy": 0.61234, "ood_seen_accuracy": 0.5, "ood_held_accuracy": 0.25, "seconds": 3.4}
    results_file(tmp_path).append(trial._asdict() | scores)
    (read_back,) = read(tmp_path).items()
    assert read_back[0] == trial
    assert scores.items() <= read_back[1].items()
    assert read_back[1]["ood"] == 0.375
    assert trial._asdict() in results_file(tmp_path)
    assert trial._replace(seed=3)._asdict() not in results_file(tmp_path)


def test_after_adam_a_method_sees_what_adam_makes_of_the_gradient():
    method = METHODS["digrap after adam fixed"]
    tx = Recipe(method.build, 4, method.after_adam).optimizer(Knobs(0.1, 1.0, 0.0))
    held = digrap(hyper_optimizer=optax.set_to_zero(), initial_strength=1.0)
    rate = optax.warmup_constant_schedule(0.0, 0.1, 1)
    expected = optax.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), held, optax.scale_by_learning_rate(rate)
    )
    params = {"kernel": jnp.ones((3, 2))}
    moved, states = (
        dict.fromkeys(("own", "other"), params),
        {"own": tx.init(params), "other": expected.init(params)},
    )
    for step in range(4):
        for name, optimizer in (("own", tx), ("other", expected)):
            grads = {"kernel": jnp.cos(moved[name]["kernel"] + step)}
            updates, states[name] = optimizer.update(grads, states[name], moved[name])
            moved[name] = optax.apply_updates(moved[name], updates)
    np.testing.assert_allclose(moved["own"]["kernel"], moved["other"]["kernel"], rtol=1e-6)
    assert float(jnp.abs(moved["own"]["kernel"] - 1).max()) > 1e-3


@pytest.mark.parametrize("task", ["digits", "emoji"])
def test_grids_name_methods_that_exist_and_hold_their_own_baseline(task):
    asked = Options(experiment=task, seeds=2).trials()
    assert set(asked) == (set(QUESTIONS) if task == "digits" else {"scale"})
    for name, wanted in asked.items():
        assert {trial.method for trial in wanted} <= set(METHODS)
        assert {trial.seed for trial in wanted} == {0, 1}
        assert any(trial.method == "vanilla" for trial in wanted), name
    assert {"rate", "epochs", "batch"} <= set(AXES[task])
    points = {trial for field in AXES[task] for trial in along(task, field, "ftp")}
    assert points <= set(asked["scale"])
    assert len(points) == sum(map(len, AXES[task].values())) - len(AXES[task]) + 1  # the axes cross in one point


def test_seeds_of_one_setting_are_one():
    plain, method = Trial("digits", "vanilla", 0.0, 0), Trial("digits", "ftp", 0.1, 0, judge_every=4)
    scores = dict.fromkeys((*ACCURACIES, "ood"), 0.5)
    found = {one._replace(seed=seed): scores | {"drift": 2.0 - seed / 2} for seed in (0, 1) for one in (plain, method)}
    found[method._replace(seed=1)]["drift"] = 0.3
    grouped = by_setting(found)
    assert list(grouped) == [plain, method]
    assert [row["ratio"] for row in grouped[method]] == [1.0, pytest.approx(0.2)]
    assert grouped[method][0]["id_accuracy"] == 50


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_two_methods_of_a_panel_share_a_colour(question):
    labels = {trial.label.replace(" after adam", "") for trial in QUESTIONS[question].trials("digits", [0])}
    assert len({style.of(label)["color"] for label in labels}) == len(labels)
