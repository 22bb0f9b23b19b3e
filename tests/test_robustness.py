"""The robustness benchmark: rows that survive a crash, choices by validation, a report that says what rows say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from evidence import summary, vqa
from evidence.backbones import BACKBONES, create_backbone
from evidence.methods import METHODS, RATE
from evidence.protocol import ALPHAS
from evidence.rows import File
from vision.errors import UserError
from vision.networks import path_of, split_model

ROOT = Path(__file__).parents[1]


def row(method="vanilla", seed=0, hyperparameters=None, **scores):
    same = {"experiment": "digits", "backbone": "small-cnn", "id_domain": "photo"}
    values = {"validation_accuracy": 0.5, "id_accuracy": 0.5, "ood_seen_accuracy": 0.5, "ood_held_accuracy": 0.5}
    rest = {"hyperparameters": hyperparameters or {}, "domains": {"clean": 0.5}, "drift": 1.0, "seconds": 2.0}
    return {**same, "method": method, "seed": seed, **values, **rest, **scores}


def run(*flags, **environment):
    command = [sys.executable, ROOT / "benchmarks" / "evidence.py", "robustness", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_rows_come_back_as_they_were(tmp_path):
    file = File(tmp_path / "rows.csv")
    first, second = row(hyperparameters={"lr": 1e-3}), row("ftp", 1, {"mu": 0.01}, id_accuracy=None)
    file.append(first)
    assert first in file
    assert second not in file
    file.append(second)
    assert file.read() == [first, second]
    assert [file.key_of(one) for one in file.read()] == [file.key_of(first), file.key_of(second)]


def test_a_line_cut_short_is_no_row(tmp_path):
    file = File(tmp_path / "rows.csv")
    file.append(row())
    with open(file.path, "a") as out:
        out.write("digits,small-cnn,photo,ftp")
    assert len(file.read()) == 1


def test_other_columns_are_refused(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="move the file away"):
        File(file).read()


def test_every_method_gets_as_many_trials():
    assert {len(method.values) for method in (METHODS | vqa.METHODS).values()} == {3}


def test_backbones_are_other_runs_with_tables_of_their_own():
    other = row(hyperparameters={RATE: 3e-3}, validation_accuracy=0.9) | {"backbone": "resnet"}
    file = File(ROOT)
    assert file.key_of(other) != file.key_of(row(hyperparameters={RATE: 3e-3}))
    assert [group.name for group in summary.groups([row(), other])] == ["digits-photo", "digits-photo-resnet"]


def test_the_interval_is_students():
    mean, half = summary.estimate([0.50, 0.52, 0.57])
    assert mean == pytest.approx(53)
    assert half == pytest.approx(4.302653 * np.std([50, 52, 57], ddof=1) / 3**0.5)
    assert summary.estimate([0.5]).half is None


def test_differences_are_paired_by_seed():
    ids = {0: (0.50, 0.60), 1: (0.70, 0.81), 2: (0.10, None)}
    vanilla = [row("vanilla", seed, id_accuracy=own) for seed, (own, _) in ids.items()]
    ftp = [row("ftp", seed, id_accuracy=other) for seed, (_, other) in ids.items() if other is not None]
    by_name = {line.method: line for line in summary.lines([*vanilla, *ftp])}
    assert summary.paired(by_name["ftp"], by_name["vanilla"], "id_accuracy").mean == pytest.approx(10.5)


def test_alpha_is_chosen_in_validation():
    curve = [
        row("wise_ft", seed, {"alpha": alpha}, validation_accuracy=v, id_accuracy=1 - v)
        for seed in (0, 1)
        for alpha, v in ((0.3, 0.4), (0.5, 0.6), (0.7, 0.5))
    ]
    assert [line.alpha for line in summary.lines(curve)] == [0.5]
    assert [line.alpha for line in summary.curve(curve)] == [0.3, 0.5, 0.7]


def test_a_curve_ends_at_the_setting_of_plain_fine_tuning_that_is_shown():
    found = [
        one
        for rate, v in ((1e-3, 0.6), (3e-4, 0.7))
        for one in (
            row("vanilla", 0, {"lr": rate}, validation_accuracy=v),
            row("wise_ft", 0, {"alpha": 0.5, "lr": rate}, validation_accuracy=v),
        )
    ]
    assert [line.hyperparameters["lr"] for line in summary.curve(found)] == [3e-4]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The command at its smallest, killed by nothing."""
    folder = tmp_path_factory.mktemp("robustness")
    flags = ("--smallest", "--methods", "vanilla", "ftp", "tpgm", "lp_ft", "--results", folder)
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    (folder / "told.txt").write_text(done.stdout)
    return folder, flags


def test_the_command_runs_every_kind_of_method(finished):
    folder, _ = finished
    found = File(folder / "robustness.csv").read()
    methods = {one["method"] for one in found}
    assert methods >= {"zero_shot", "vanilla", "wise_ft", "ftp", "ftp+wise_ft", "tpgm", "lp_ft"}
    by_method = {one["method"]: one for one in found}
    for one in found:
        assert 0 <= one["id_accuracy"] <= 1
        assert set(one["domains"]) > {"clean", "stripes"}
        assert (one["drift"] == 0) == (one["method"] == "zero_shot")
    assert by_method["ftp"]["drift"] < by_method["vanilla"]["drift"]
    alphas = [one["hyperparameters"]["alpha"] for one in found if one["method"] == "wise_ft"]
    assert alphas == list(ALPHAS)
    trials = File(folder / "robustness_trials.csv").read()
    assert len(trials) == 8
    assert all(one["id_accuracy"] is None for one in trials)


def test_the_first_seeds_run_is_one_of_its_trials(finished):
    folder, _ = finished
    told = (folder / "told.txt").read_text()
    assert "vanilla, trial of lr" in told
    assert "vanilla, seed 0" not in told


def test_a_run_that_is_there_is_not_repeated(finished):
    folder, flags = finished
    before = (folder / "robustness.csv").read_bytes()
    lines = before.splitlines(keepends=True)
    (folder / "robustness.csv").write_bytes(b"".join(lines[:-1]))  # the last method's own row is lost
    done = run(*flags)
    assert "lp_ft, seed 0" in done.stdout
    assert "ftp, seed 0 " not in done.stdout.replace("lp_ft, seed", "")
    again = File(folder / "robustness.csv").read()
    lost = File(folder / "robustness.csv").read()[-1]
    assert lost["method"] == "lp_ft"
    assert len({File(folder).key_of(one) for one in again}) == len(lines) - 1


def test_the_page_says_what_the_rows_say(finished):
    folder, _ = finished
    text = (folder / "robustness-digits-photo.md").read_text()
    found = File(folder / "robustness.csv").read()
    for line in summary.lines(found):
        means = [summary.estimate([one[c] for one in line.rows.values()]).mean for c in summary.SCORES.values()]
        cells = " | ".join(f"{mean:.1f}" for mean in means)
        assert re.search(rf"\| `{re.escape(line.method)}` \|.*\| {re.escape(cells)} \|", text)
    assert (folder / "robustness-digits-photo.png").stat().st_size > 10_000


def test_without_npm_the_command_says_so_in_one_line(tmp_path):
    done = run("--results", tmp_path, PATH=str(tmp_path), FTP_OPTAX_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2
    assert "npm is needed" in done.stdout
    assert "--experiment digits" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("image_size", "fewest", "most"), [(16, 150_000, 200_000), (64, 2_500_000, 3_500_000)])
def test_backbones_are_of_the_main_networks_size_and_their_weights_the_seeds(name, image_size, fewest, most):
    network, params = split_model(create_backbone(name, 10, image_size, seed=0))
    assert fewest < sum(leaf.size for leaf in jax.tree.leaves(params)) < most
    assert not jax.tree.leaves(network.rest)  # nothing that training changes but is no parameter
    images = jax.ShapeDtypeStruct((3, image_size, image_size, 3), np.uint8)
    logits = jax.eval_shape(network.logits, params, images)
    assert (logits.shape, logits.dtype) == ((3, 10), np.float32)
    same, other = (split_model(create_backbone(name, 10, image_size, seed))[1] for seed in (0, 1))
    equal = lambda other: jax.tree.map(lambda a, b: bool((a == b).all()), params, other)
    assert all(jax.tree.leaves(equal(same)))
    drawn = {path_of(path): kept for path, kept in jax.tree_util.tree_leaves_with_path(equal(other))}
    assert all(kept == ("bias" in path or "scale" in path) for path, kept in drawn.items())


def test_initial_weights_keep_the_size_of_the_signal():
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    for name in BACKBONES:
        network, params = split_model(create_backbone(name, 10, 16, seed=0))
        assert 0.1 < np.std(network.logits(params, images)) < 10


def test_another_backbone_runs_on_its_own_rows(tmp_path):
    flags = ("--smallest", "--methods", "vanilla", "--trials", "1", "--results", tmp_path)
    done = run(*flags, "--backbone", "vit")
    assert done.returncode == 0, done.stderr
    found = File(tmp_path / "robustness.csv").read()
    assert {one["backbone"] for one in found} == {"vit"}
    wrong = run("--experiment", "digits", "--backbone", "efficientnet-lite0", "--results", tmp_path)
    assert wrong.returncode == 2
    assert "choose from small-cnn, resnet, vit" in wrong.stdout
