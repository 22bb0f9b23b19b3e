"""Dense prediction: scores against an oracle, a network with two answers a pixel, a page that says what rows say."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evidence import summary
from evidence.artwork import WORLDS
from evidence.dense import BOUNDARIES, COLUMNS, CORRUPTIONS, SCORES, Options, trained_decoder
from evidence.methods import RATE
from evidence.rows import File
from evidence.scene_nets import EfficientNetStages, SceneNet, SmallStages
from evidence.scenes import boundaries, boundary_f, mean_iou, pretraining_scenes, scene_task
from vision.efficientnet import EfficientNetLite0
from vision.networks import path_of, split_model

ROOT = Path(__file__).parents[1]
METHODS = ("vanilla", "ftp")


def iou_oracle(predicted, truth, num_classes):
    """Sets of pixels, one class at a time."""
    found = []
    for k in range(num_classes):
        p, t = (set(np.flatnonzero(maps.ravel() == k)) for maps in (predicted, truth))
        if p | t:
            found.append(len(p & t) / len(p | t))
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(5))
def test_mean_iou_is_that_of_sets(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3 + seed, (4, 6, 6)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape)).astype(np.int64)
    assert mean_iou(predicted, truth) == pytest.approx(iou_oracle(predicted, truth, 12))
    assert mean_iou(truth, truth) == 1


def near(maps, n, y, x):
    return maps[n, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()


@pytest.mark.parametrize("seed", range(3))
def test_boundary_f_counts_pixels_with_a_neighbour_on_the_other_map(seed):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((2, 3, 9, 9)) < 0.15
    hit = lambda one, other: np.mean([near(other, *place) for place in np.argwhere(one)])
    precision, recall = hit(predicted, truth), hit(truth, predicted)
    assert boundary_f(predicted, truth) == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_boundary_is_found_one_pixel_off_and_not_three():
    truth = np.zeros((1, 12, 12), bool)
    truth[0, :, 4] = True
    assert boundary_f(np.roll(truth, 1, 2), truth) == 1
    assert boundary_f(np.roll(truth, 3, 2), truth) == 0
    assert boundary_f(np.zeros_like(truth), truth) == 0


def test_boundaries_run_between_instances():
    instances = np.array([[0, 0, 0], [0, 2, 2], [0, 2, 1]], np.uint8)
    assert boundaries(instances).tolist() == [[False, True, True], [True, False, True], [True, True, False]]


def test_every_pixel_has_two_answers_and_the_loss_is_the_mean_of_theirs():
    network, params = split_model(SceneNet(SmallStages(1), 11))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    labels = np.stack([rng.integers(0, 11, (2, 32, 32)), rng.integers(0, 2, (2, 32, 32))], axis=-1).astype(np.uint8)
    logits = network.logits(params, jnp.asarray(images))
    assert logits.shape == (2, 32, 32, 2, 11)
    assert (logits.argmax(-1)[..., 1] <= 1).all()
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    classes = optax.softmax_cross_entropy_with_integer_labels(logits[..., 0, :], labels[..., 0]).mean()
    edges = optax.softmax_cross_entropy_with_integer_labels(logits[..., 1, :2], labels[..., 1]).mean()
    assert float(loss) == pytest.approx(float(classes + edges) / 2, rel=1e-5)


def test_the_emoji_network_is_efficientnets_stages_and_a_decoder():
    model = SceneNet(EfficientNetStages(EfficientNetLite0(1)), 17)
    logits = jax.eval_shape(model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8))
    assert logits.shape == (2, 64, 64, 2, 17)
    _, params = split_model(model)
    paths = {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert not {path for path in paths if path.startswith(("backbone/head", "backbone/top"))}
    assert "head/out/kernel" in paths
    # nothing is trained that the answers do not depend on
    jaxpr = jax.make_jaxpr(lambda p: split_model(model)[0].logits(p, jnp.ones((1, 32, 32, 3))))(params).jaxpr
    used = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    assert all(id(variable) in used for variable in jaxpr.invars)


def test_all_styles_have_the_same_test_scenes_but_for_the_artwork():
    world = WORLDS["digits"]
    task = scene_task(world, 0)
    assert set(task.ood) == set(world.seen + world.held_out)
    for domain in task.ood.values():
        assert (domain.labels == task.id_test.labels).all()
        assert (domain.images != task.id_test.images).any()
    labels = task.id_test.labels
    assert labels.dtype == np.uint8
    assert set(np.unique(labels[..., 1])) == {0, 1}
    assert set(np.unique(labels[..., 0])) == set(range(11))
    assert (scene_task(world, 1).id_test.images != task.id_test.images).any()


def test_trials_are_judged_by_mean_iou(tmp_path):
    study = Options(results=tmp_path).study()
    for rate, found in ((1e-3, 0.3), (3e-3, 0.4)):
        study.trials.append(study.known("vanilla", {RATE: rate}, 0) | {"validation_miou": found, "id_miou": -found})
    assert study.chosen("vanilla") == {RATE: 3e-3}


def run(*flags):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "dense", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_foundation_models_backbone_stays_as_it_is():
    world = WORLDS["digits"]
    network, params = split_model(SceneNet(SmallStages(0), len(world.classes) + 1))
    losses = []
    scenes = pretraining_scenes(world, 0)
    trained = trained_decoder(network, params, scenes, 24, 0, lambda done, of, loss: losses.append(loss))
    same = jax.tree.map(lambda new, old: bool((new == old).all()), trained["backbone"], params["backbone"])
    assert all(jax.tree.leaves(same))
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.7 * losses[0]
    # trained on features that were computed once, it answers better as a whole
    loss = lambda params: optax.softmax_cross_entropy_with_integer_labels(
        network.logits(params, jnp.asarray(scenes.images[:64])), scenes.labels[:64]
    ).mean()
    assert loss(trained) < 0.7 * loss(params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command at its smallest."""
    folder = tmp_path_factory.mktemp("dense")
    flags = ("--smallest", "--methods", *METHODS, "--results", folder)
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    return folder, flags


def test_the_command_scores_every_domain(finished):
    folder, _ = finished
    found = File(folder / "dense.csv", COLUMNS).read()
    assert [one["method"] for one in found] == ["zero_shot", *4 * ["wise_ft"], "vanilla", "ftp+wise_ft", "ftp"]
    for one in found:
        corrupted = [one["domains"][f"black, {kind}"] for kind in CORRUPTIONS]
        assert one["corrupted_miou"] == pytest.approx(np.mean(corrupted), abs=1e-4)
        assert one["ood_seen_miou"] == pytest.approx(
            (one["domains"]["bright"] + one["domains"]["coloured"]) / 2, abs=1e-4
        )
        assert one["ood_held_miou"] == pytest.approx(one["domains"]["dark"], abs=1e-4)
        assert all(0 <= one[column] <= 1 for column in (*SCORES.values(), *BOUNDARIES.values()))
    by_method = {one["method"]: one for one in found}
    assert 0 < by_method["ftp"]["drift"] < by_method["vanilla"]["drift"]


def test_the_scenes_kept_for_the_figure_are_the_runs(finished):
    folder, _ = finished
    kept = np.load(folder / "dense_scenes.npz")
    assert kept["styles"].tolist() == ["black", "bright", "dark"]
    for name in ("zero_shot", *METHODS):
        assert kept[name].shape == kept["truth"].shape == (3, 2, 32, 32, 2)
    assert (folder / "dense_scenes.png").stat().st_size > 10_000
    assert (folder / "dense.png").stat().st_size > 10_000


def test_the_page_says_what_the_rows_say(finished):
    folder, _ = finished
    text = (folder / "dense.md").read_text()
    for line in summary.lines(File(folder / "dense.csv", COLUMNS).read()):
        for columns in (SCORES, BOUNDARIES):
            means = [100 * line.rows[0][column] for column in columns.values()]
            cells = " | ".join(f"{mean:.1f}" for mean in means)
            assert re.search(rf"\| `{re.escape(line.method)}` \|.*\| {re.escape(cells)} \|", text)
