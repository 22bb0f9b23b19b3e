"""The question-answering benchmark: the network, distances between domains, and the command from end to end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from evidence import summary
from evidence.answerer import Answerer, EfficientNetTower, SmallTower
from evidence.asked import FAR, NEAR
from evidence.rows import File
from evidence.vqa import COLUMNS, METHODS, SCORES, by_kind, overall
from evidence.wordings import KINDS, LENGTH
from ftp_optax import ftp
from vision.efficientnet import EfficientNetLite0

ROOT = Path(__file__).parents[1]


def run(*flags, **environment):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "vqa", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def small():
    return Answerer(SmallTower(0), num_words=9, num_answers=7, width=16, depth=1)


def seen(words, pictures=2):
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), np.uint8)
    tokens = np.zeros((pictures, 1, LENGTH), np.int32)
    tokens[..., : len(words)] = words
    return {"pixels": jnp.asarray(pixels), "words": jnp.asarray(tokens)}


def test_the_answer_depends_on_words_their_order_and_the_picture(small):
    first = small(seen([1, 2, 3]))
    assert first.shape == (2, 1, 7)
    assert not np.allclose(first, small(seen([1, 2, 4])))
    assert not np.allclose(first, small(seen([3, 2, 1])))
    assert not np.allclose(first[0], first[1])


def test_questions_of_one_picture_do_not_see_each_other(small):
    one = seen([1, 2, 3])
    two = {**one, "words": jnp.concatenate([one["words"], one["words"].at[..., 0].set(5)], axis=1)}
    np.testing.assert_allclose(small(two)[:, :1], small(one), atol=1e-5)


def test_what_fills_a_question_up_is_not_read(small):
    small.words.embedding[...] = small.words.embedding[...].at[0].set(100.0)
    before = small(seen([1, 2]))
    small.words.embedding[...] = small.words.embedding[...].at[0].set(-5.0)
    np.testing.assert_allclose(small(seen([1, 2])), before, atol=1e-5)


def test_the_tower_is_efficientnet_by_place():
    network = EfficientNetLite0(2)
    tower, images = EfficientNetTower(network), np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
    cells, features = jax.jit(lambda x: (tower(x), network.features(x)))(images)  # one program, not fifty
    assert cells.shape == (1, 16, tower.channels)
    np.testing.assert_allclose(cells[..., -1280:].mean(1), features, rtol=1e-4, atol=1e-5)


def test_every_part_of_the_network_has_units_for_ftp(small):
    params = nnx.to_pure_dict(nnx.state(small, nnx.Param))
    state = ftp(METHODS["vanilla"].build(optax.sgd(0.1), 0.0)).init(params)
    assert len(jax.tree.leaves(params)) == len(optax.tree.get(state, "radii"))


def test_accuracy_is_the_mean_over_kinds():
    class Two:
        labels, kinds = np.array([[1, 2, 3], [1, 1, 1]]), np.array([[0, 0, 1], [0, 0, 0]])

    found = by_kind(np.array([[1, 2, 0], [1, 0, 0]]), Two)
    assert found == [3 / 5, 0.0, None, None, None, None]
    assert overall(found) == pytest.approx(0.3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command at its smallest."""
    folder = tmp_path_factory.mktemp("vqa")
    flags = ("--smallest", "--methods", "vanilla", "ftp", "--results", folder)
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    return folder, flags


def test_the_command_asks_and_answers_everywhere(finished):
    folder, _ = finished
    found = File(folder / "vqa.csv", COLUMNS).read()
    assert [one["method"] for one in found] == ["zero_shot", *["wise_ft"] * 3, "vanilla", "ftp"]
    for one in found:
        assert (one["drift"] == 0) == (one["method"] == "zero_shot")
        assert set(one["domains"]) == {"id", *NEAR, *FAR}
        assert all(len(kinds) == len(KINDS) for kinds in one["domains"].values())
        assert one["id_accuracy"] == pytest.approx(overall(one["domains"]["id"]), abs=1e-4)


def test_the_page_says_what_the_rows_say(finished):
    folder, _ = finished
    text = (folder / "vqa-scores.md").read_text()
    for line in summary.lines(File(folder / "vqa.csv", COLUMNS).read()):
        means = [summary.estimate([one[c] for one in line.rows.values()]).mean for c in SCORES.values()]
        cells = " | ".join(f"{mean:.1f}" for mean in means)
        assert re.search(rf"\| `{re.escape(line.method)}` \|.*\| {re.escape(cells)} \|", text)
    assert (folder / "vqa.png").stat().st_size > 10_000
