"""Tasks in turn: the metrics, the anchors, the schedule that begins anew, the command."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from evidence.continual import COLUMNS, LEARNERS, SEQUENCES, InTurn, digits_sequence, metrics
from evidence.methods import METHODS
from evidence.rows import File
from evidence.tasks import classification
from evidence.training import Knobs, Recipe, train
from ftp_optax import drift
from vision.networks import Params

ROOT = Path(__file__).parents[1]
FILE = "continual.csv"
SHORT = InTurn(**vars(classification("digits", epochs=1, batch_size=20)))


@pytest.fixture(scope="module")
def tasks():
    return digits_sequence(0, smallest=True)


def gap(a: Params, b: Params) -> float:
    return sum(float(np.abs(x - y).sum()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_metrics_by_hand():
    matrix = np.array([[0.9, 0.1, 0.2], [0.7, 0.8, 0.3], [0.6, 0.9, 0.5]])
    assert metrics(matrix) == pytest.approx(
        {
            "average_accuracy": (0.6 + 0.9 + 0.5) / 3,
            "learned_accuracy": (0.8 + 0.5) / 2,
            "forgetting": (0.9 - 0.6 + 0.8 - 0.9) / 2,  # the second task got better
        }
    )


def test_no_task_sees_images_that_judge_another(tasks):
    trained = [image.tobytes() for domain in tasks.train.values() for image in domain.images]
    judged = {i.tobytes() for part in (tasks.validation, tasks.test) for domain in part.values() for i in domain.images}
    assert not judged & set(trained)
    assert not judged & {image.tobytes() for image in tasks.data.pretrain.images}
    assert tuple(tasks.test) == tuple(tasks.validation) == SEQUENCES["digits"]
    assert tuple(tasks.train) == SEQUENCES["digits"][1:]


def test_the_schedule_begins_anew_and_the_anchor_moves_where_it_is_told_to(tasks):
    recipe = Recipe(METHODS["ftp"].build, steps=3)
    domain = next(iter(tasks.train.values()))
    one = lambda params, state: train(
        tasks.network, params, recipe, Knobs(1e-2, 1.0), domain, batch_size=20, seed=0, augment=False,
        opt_state=state,
    )  # fmt: skip
    first = one(tasks.params, None)
    again = one(first.params, first.opt_state)
    assert gap(again.params, first.params) > 0  # at the end of a schedule that went on nothing would move
    far = sum(float(np.square(value).sum()) for value in drift(again.opt_state, again.params).values()) ** 0.5
    direct = jax.tree.map(lambda a, b: np.square(a - b).sum(), again.params, tasks.params)
    assert far == pytest.approx(float(sum(jax.tree.leaves(direct))) ** 0.5, rel=1e-4)  # still from the first model


def test_reanchored_a_frozen_ball_starts_where_the_last_task_ended(tasks):
    task, knobs = replace(SHORT, epochs=2), {"lr": 1e-2, "mu": 0.05}
    models, moved = (task.tune(tasks, LEARNERS[name], knobs, 0).models for name in ("ftp", "ftp, reanchored"))
    assert len(models) == len(moved) == len(SEQUENCES["digits"])
    assert gap(models[1], moved[1]) == 0  # the first task has the same anchor
    assert gap(moved[-1], moved[0]) > gap(models[-1], models[0]) > 0


def test_wise_ft_goes_back_after_each_task(tasks):
    plain = SHORT.tune(tasks, LEARNERS["vanilla"], {"lr": 1e-3}, 0).models
    mixed = SHORT.tune(tasks, LEARNERS["wise_ft"], {"lr": 1e-3, "alpha": 0.25}, 0).models
    halfway = jax.tree.map(lambda tuned, first: 0.25 * tuned + 0.75 * first, plain[1], plain[0])
    assert gap(mixed[1], halfway) < 1e-4 * gap(plain[1], plain[0])


def test_the_command_at_its_smallest_learns_all_tasks_in_turn(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "continual", "--smallest", "--results", tmp_path]
    command += ["--methods", "vanilla", "ftp, reanchored"]
    subprocess.run(command, check=True, capture_output=True)
    found = File(tmp_path / FILE, COLUMNS).read()
    assert [row["method"] for row in found] == ["vanilla", "ftp, reanchored"]
    for row in found:
        matrix = np.array(row["accuracies"])
        assert matrix.shape == (5, 5)
        again = metrics(matrix)
        assert {name: row[name] for name in again} == pytest.approx(again, abs=1e-4)
    assert found[0]["accuracies"][0] == found[1]["accuracies"][0]  # the foundation model's
