"""The study of one recipe: what chooses what, the forms of DiGraP that it adds, and the command at its smallest."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from evidence import recipe, recipe_choice
from evidence.directional import held_out_strength, window_strength
from evidence.recipe import PROBLEMS, Study, weights
from evidence.recipe_choice import (
    KINDS,
    METHODS,
    PEER,
    SHARES,
    SMALLEST,
    START,
    WEIGHTS,
    Candidate,
    Choice,
    Row,
    Setting,
    candidates,
    choose,
    family_weights,
    finalists,
    nearest,
    reported_methods,
    settings,
)
from evidence.recipe_results import BASE, Results, above_the_frontier
from evidence.tasks import Classification
from evidence.training import Knobs, Recipe
from ftp_optax import averaged_params, smallest_share
from vision.data import ArrayDomain
from vision.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PLAN = (BENCHMARKS / "results" / "recipe_plan.md").read_text()

# the plan is kept


def test_the_grid_and_the_tasks_are_those_of_the_plan():
    assert f"The grid has {len(settings())} runs a task" in PLAN
    for name in (*PROBLEMS, *METHODS):
        assert f"`{name}`" in PLAN
    drawn = [recipe.drawn_style(seed) for seed in range(10)]
    assert f"for seeds 0 to 9 {', '.join(drawn)} |" in PLAN
    assert not {"noto", "fluent-high-contrast"} & set(drawn)
    assert f"at most {recipe.SCORED} test images are scored" in PLAN
    assert "at 0.3, 0.5, 0.7 and 0.9" in PLAN
    assert SHARES == (0.3, 0.5, 0.7, 0.9, 1.0)


def test_every_family_counts_alike():
    weights = family_weights(PROBLEMS)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["dense"] == pytest.approx(0.2)
    assert weights["digits-5"] == pytest.approx(0.2 / 4)
    assert weights["emoji-drawn"] == pytest.approx(0.2 / 3)


def test_of_the_emoji_a_hundred_images_of_a_style_are_scored_with_all_their_classes(monkeypatch):
    labels = np.repeat(np.arange(5, dtype=np.int32), 54)
    style = ArrayDomain("noto", np.zeros((270, 2, 2, 3), np.uint8), labels)
    few = ArrayDomain("fxemoji", style.images[:60], labels[:60])
    start = SimpleNamespace(data=SimpleNamespace(ood={"noto": style, "fxemoji": few}))
    monkeypatch.setattr(Classification, "start", lambda *_: start)
    monkeypatch.setattr(recipe, "replace", lambda what, **changes: type(what)(**{**vars(what), **changes}))
    scored = PROBLEMS["emoji"].start(3).data.ood
    assert {name: len(domain) for name, domain in scored.items()} == {"noto": 100, "fxemoji": 60}
    np.testing.assert_array_equal(np.bincount(scored["noto"].labels), 20)


# what one run gives


def test_a_run_gives_the_last_weights_and_both_averages():
    recipe, knobs = Recipe(METHODS["ftp"].build, 6), Knobs(0.1, 0.1, 0.0)
    tx, params = recipe.optimizer(knobs), {"kernel": jnp.ones((3, 2))}
    state, path = tx.init(params), []
    for step in range(6):
        updates, state = tx.update({"kernel": jnp.cos(params["kernel"] + step)}, state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params["kernel"], np.float64))
    found = weights(SimpleNamespace(params=params, opt_state=state))
    assert tuple(found) == KINDS
    np.testing.assert_array_equal(found["last"]["kernel"], path[-1])
    np.testing.assert_allclose(found["uniform"]["kernel"], np.mean(path, 0), rtol=1e-6)
    polynomial = path[0]
    for k, weight in enumerate(path[1:], start=2):
        polynomial = polynomial + 4 / (k + 3) * (weight - polynomial)
    np.testing.assert_allclose(found["polynomial"]["kernel"], polynomial, rtol=1e-6)
    assert averaged_params(state, params)["kernel"].shape == (3, 2)


def test_the_rate_decays_or_stays():
    def moves(decay):
        tx = Recipe(lambda adamw, _: adamw, 20).optimizer(Knobs(0.1, 0.0, decay))
        params = {"w": jnp.zeros(1)}
        state, found = tx.init(params), []
        for _ in range(20):
            updates, state = tx.update({"w": jnp.ones(1)}, state, params)
            found.append(-float(updates["w"][0]))
        return np.array(found)

    cosine = optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 20)
    np.testing.assert_allclose(moves(1.0), [cosine(step) for step in range(20)], rtol=1e-4)
    np.testing.assert_allclose(moves(0.0)[2:], 0.1, rtol=1e-4)
    np.testing.assert_allclose(moves(0.5), (moves(0.0) + moves(1.0)) / 2, rtol=1e-4)


# DiGraP's other strengths


def pairs(seed):
    """Anchor, parameters and gradients of two leaves."""
    rng = np.random.default_rng(seed)
    make = lambda: {"a": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
    return make(), make(), make()


def cleared(gradient, gap, strength):
    dot = float((gradient * gap).sum())
    return gradient - strength * min(dot, 0.0) / float((gap * gap).sum()) * gap


def test_a_window_counts_how_often_a_layer_conflicts():
    anchor, params, _ = pairs(0)
    tx = window_strength(0.5)
    state, strengths = tx.init(anchor), dict.fromkeys(anchor, 0.0)
    for step in range(1, 6):
        _, _, gradient = pairs(step)
        updates, state = jax.jit(tx.update)(gradient, state, params)
        for place, name in enumerate(anchor):
            gap = params[name] - anchor[name]
            strengths[name] = 0.5 * strengths[name] + 0.5 * float((gradient[name] * gap).sum() < 0)
            assert state.strengths[place] == pytest.approx(strengths[name])
            np.testing.assert_allclose(
                updates[name], cleared(gradient[name], gap, strengths[name]), rtol=1e-4, atol=1e-5
            )
    assert 0 < min(strengths.values()) < 1


@pytest.mark.parametrize("outwards", [True, False])
def test_a_held_out_gradient_strengthens_what_it_disagrees_with(outwards):
    """The training gradient leads away from the anchor; held-out images want the same, or the way back."""
    anchor = {"w": jnp.zeros(3)}
    params, gradient = {"w": jnp.ones(3)}, {"w": jnp.array([-1.0, -1.0, 0.5])}
    loss = lambda p: (-1 if outwards else 1) * jnp.sum(p["w"])
    tx = held_out_strength(0.1)
    state = tx.init(anchor)
    for _ in range(5):
        updates, state = jax.jit(lambda g, s, p: tx.update(g, s, p, held_out_loss=loss))(gradient, state, params)
    strength = float(state.strengths[0])
    # v and c are parallel; before the first step there is no <g, c> yet
    adam, expected = optax.adam(0.1), jnp.zeros(1)
    hyper_state = adam.init(expected)
    for slope in [0.0] + 4 * [1.0 if outwards else -1.0]:
        move, hyper_state = adam.update(jnp.full(1, slope), hyper_state)
        expected = jnp.clip(expected + move, 0, 1)
    assert strength == pytest.approx(float(expected[0]), rel=1e-5)
    assert (strength == 0) == outwards
    np.testing.assert_allclose(
        updates["w"], cleared(np.float32([-1, -1, 0.5]), np.ones(3, np.float32), strength), rtol=1e-4
    )


def test_at_the_anchor_there_is_nothing_to_remove():
    params = {"w": jnp.ones(3)}
    for tx, extra in ((window_strength(0.5), {}), (held_out_strength(0.1), {"held_out_loss": lambda p: p["w"].sum()})):
        updates, state = tx.update({"w": -jnp.ones(3)}, tx.init(params), params, **extra)
        np.testing.assert_array_equal(updates["w"], -1.0)
        assert np.isfinite(state.strengths).all()


# what chooses what

SOME = (PEER, "l2_sp")
TWO = {"one": PROBLEMS["digits"], "other": PROBLEMS["fashion"]}


def made(score, drift=lambda setting, kind: 1.0, seeds=(0,), images=400, start=0.5):
    """Rows of two tasks, by a function of setting, kind and share."""
    found = {}
    for task, seed, setting in itertools.product(TWO, seeds, [START, *settings(SOME)]):
        if setting == START:
            row = Row(task, seed, START, images, {"last": 0.0}, {"last": {0.0: start}}, {"last": {0.0: (start,) * 3}})
        else:
            points = {kind: {share: score(setting, kind, share) for share in SHARES} for kind in KINDS}
            test = {
                kind: {share: (value, value, 1 - value) for share, value in own.items()} for kind, own in points.items()
            }
            row = Row(task, seed, setting, images, {k: drift(setting, k) for k in KINDS}, points, test)
        found[task, seed, setting] = row
    return found


def test_the_best_mean_validation_score_at_share_1_chooses_setting_and_average():
    best = Setting(PEER, 1e-3, 0.0, 0.0)
    score = lambda setting, kind, share: (
        0.6 + 0.1 * (setting == best) + 0.05 * (kind == "polynomial") + 0.2 * (share < 1)
    )
    choice = choose(made(score), TWO, (0,), SOME)
    assert choice.settings[PEER, "last"] == (best, "last")
    assert choice.settings[PEER, "averaged"] == (best, "polynomial")


def test_of_equals_the_nearest_to_the_start_is_chosen():
    nearest = Setting("l2_sp", 1e-3, 0.0, 0.1)
    drift = lambda setting, kind: 1.0 if setting != nearest else {"last": 0.9, "uniform": 0.5, "polynomial": 0.7}[kind]
    choice = choose(made(lambda *_: 0.7, drift), TWO, (0,), SOME)
    assert choice.settings["l2_sp", "averaged"] == (nearest, "uniform")
    assert choice.settings["l2_sp", "last"] == (nearest, "last")


def test_further_seeds_run_the_best_third_of_each_method_by_its_best_weights():
    best, second = Setting(PEER, 3e-3, 1.0, 0.0), Setting(PEER, 3e-4, 0.0, 0.0)
    score = lambda setting, kind, share: (
        0.5 + 0.1 * (setting == best) + 0.05 * (setting == second and kind == "uniform")
    )
    found = made(score)
    left = finalists(found, TWO, 0, SOME)
    assert left[:2] == [best, second]
    assert [setting.method for setting in left] == 2 * [PEER] + 2 * ["l2_sp"], "of 6, and of 4"
    rest = {(task, 1, own): replace(found[task, 0, own], seed=1) for task in TWO for own in (START, *left)}
    assert choose(found | rest, TWO, (0, 1), SOME).settings[PEER, "last"] == (best, "last")


def test_the_fixed_share_is_the_smallest_within_one_standard_error_of_the_mean():
    """Two tasks of 400 images and a score of 0.7: 0.0229 each, 0.0162 their mean."""
    assert math.sqrt(0.7 * 0.3 / 400 / 2) == pytest.approx(0.0162, abs=1e-4)
    for lost, expected in ((0.015, 0.5), (0.018, 0.9)):
        value = {0.3: 0.5, 0.5: 0.7 - lost, 0.7: 0.7 - lost, 0.9: 0.7, 1.0: 0.69}
        choice = choose(made(lambda setting, kind, share, value=value: value[share]), TWO, (0,), SOME)
        assert set(choice.shares.values()) == {expected}


@pytest.mark.parametrize(
    ("start", "images", "errors", "expected"),
    [(0.2, 400, 0, 0.7), (0.2, 10_000, 1, 0.7), (0.2, 400, 1, 0.5), (0.6, 400, 1, 0.0)],
)
def test_a_rule_takes_what_smallest_share_does_and_perhaps_the_foundation_model(start, images, errors, expected):
    points = {0.3: 0.55, 0.5: 0.6, 0.7: 0.62, 0.9: 0.6, 1.0: 0.5}
    first = Row("one", 0, START, images, {"last": 0.0}, {"last": {0.0: start}})
    row = replace(first, drift={"last": 3.0}, validation={"last": points})
    assert nearest(first, row, ("last",), errors) == ("last", expected)
    if errors:
        assert smallest_share([0.0, *points], [start, *points.values()], images) == expected


def test_of_any_weights_the_nearest_point_is_taken():
    """On a task far from the foundation model the average lags behind, and validation takes the last weights."""
    first = Row("one", 0, START, 400, {"last": 0.0}, {"last": {0.0: 0.0}})
    row = replace(first, drift={"last": 3.0, "uniform": 1.0}, validation={"last": {1.0: 0.9}, "uniform": {1.0: 0.89}})
    assert nearest(first, row, ("last", "uniform"), 1) == ("uniform", 1.0)
    assert nearest(first, row, ("last", "uniform"), 0) == ("last", 1.0)
    lagging = replace(row, validation={"last": {1.0: 0.9}, "uniform": {1.0: 0.1}})
    assert nearest(first, lagging, ("last", "uniform"), 1) == ("last", 1.0)


def test_the_primary_is_the_nearest_to_the_start_of_those_level_with_the_best():
    score = lambda setting, kind, share: (0.70 if setting.method == PEER else 0.69) - 0.3 * (1 - share)
    drift = lambda setting, kind: (
        {"last": 2.0, "uniform": 1.5, "polynomial": 1.8}[kind] * (0.5 if setting.method == "l2_sp" else 1)
    )
    choice = choose(made(score, drift), TWO, (0,), SOME)
    assert choice.primary.method == "l2_sp"
    assert choice.primary.weights == "averaged"
    far = choose(made(lambda s, k, share: score(s, k, share) - 0.1 * (s.method != PEER), drift), TWO, (0,), SOME)
    assert far.primary.method == PEER
    assert set(choice.scores) == set(candidates(SOME))
    assert len(choice.scores) == (4 + 4 + 2) + (2 + 2 + 2)


def test_what_is_recommended_has_the_best_validation_score_of_what_is_reported():
    """However far it goes; the rows of its method and of the peer are enough."""
    score = lambda setting, kind, share: 0.69 + 0.01 * (setting.method == PEER) - 0.3 * (1 - share)
    near = lambda setting, kind: 0.5 if setting.method == "l2_sp" else 2.0
    choice = choose(made(score, near), TWO, (0,), SOME)
    assert choice.primary.method == "l2_sp"
    assert choice.recommended().primary.method == PEER
    assert {method for method, _ in choice.recommended().settings} == {PEER}
    unreported = replace(choice, settings={key: own for key, own in choice.settings.items() if key[0] == "l2_sp"})
    assert unreported.recommended().primary.method == "l2_sp"


def test_of_the_forms_of_one_method_two_are_reported():
    """One by its last weights, one by the best point of any; a method without other forms always is."""
    scores = dict.fromkeys(candidates(METHODS), 0.5)
    scores[Candidate("ftp_exact", "last", "none")] = scores[Candidate("ftp", "any", "best")] = 0.6
    scores[Candidate("digrap_window", "last", "none")] = scores[Candidate("digrap_window", "any", "best")] = 0.6
    assert reported_methods(scores, METHODS) == [PEER, "ftp", "ftp_exact", "l2_sp", "tpgm", "digrap_window"]
    assert reported_methods(scores, SMALLEST) == list(SMALLEST)


def test_test_scores_choose_nothing():
    found = made(lambda setting, kind, share: 0.6 + 0.1 * setting.decay)
    blind = {key: replace(row, test={}) for key, row in found.items()}
    assert choose(found, TWO, (0,), SOME) == choose(blind, TWO, (0,), SOME)


# what is reported


def test_differences_are_of_means_over_tasks_and_paired_by_seed():
    def score(setting, kind, share):
        return 0.6 + 0.02 * (setting.method == "l2_sp")

    found = made(score, seeds=(0, 3, 4))
    choice = choose(found, TWO, (0,), SOME)
    results = Results(found, TWO, choice, (3, 4))
    own = Candidate("l2_sp", "last", "none")
    assert results.difference(own, 0).mean == pytest.approx(2.0)
    assert results.difference(own, 2, ["one"]).mean == pytest.approx(-2.0)
    assert results.difference(BASE, 1).mean == 0.0


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.70, 0.65, 0), 0.65 - 0.55),  # between the last two points
        ((0.65, 0.55, 0), 0.55 - 0.60),  # at a point
        ((0.60, 0.55, 0), 0.55 - (0.65 + 0.05 * 0.02 / 0.12)),  # between the first two, which has more of both
        ((0.90, 0.45, 0), -0.05),  # beyond the path: held against its best ID
    ],
)
def test_the_frontier_at_an_id_score(scores, expected):
    path = [(0.5, 0.7, 0), (0.62, 0.65, 0), (0.65, 0.6, 0), (0.75, 0.5, 0)]
    assert above_the_frontier(scores, path, 1) == pytest.approx(expected)


def test_the_peers_whole_path_is_measured_and_of_others_what_a_candidate_takes():
    choice = choose(made(lambda setting, kind, share: 0.7 - 0.3 * (share < 0.9)), TWO, (0,), SOME)
    found = made(lambda *_: 0.7, start=0.5)
    for (task, seed, setting), row in found.items():
        kinds = {kind for own, kind in choice.settings.values() if own == setting}
        if setting == START or not kinds:
            continue
        wanted = choice.wanted(found[task, seed, START], row)
        assert kinds <= set(wanted)
        for shares in wanted.values():
            assert shares == (set(SHARES) if setting.method == PEER else {0.3, 1.0})


def test_digrap_also_runs_at_the_setting_of_plain_fine_tuning_and_so_differs_by_the_method_alone():
    peer, own = Setting(PEER, 3e-4, 0.0, 0.0), Setting("digrap_window", 1e-3, 1.0, 0.95)
    choice = Choice({(one.method, w): (one, "last") for one in (peer, own) for w in WEIGHTS}, {"last": 1.0}, {}, BASE)
    same = own._replace(rate=3e-4, decay=0.0)
    assert choice.at_the_peers_rate() == [same]
    seen = {START: 0.7, peer: 0.6, same: 0.63}
    rows = {
        (task, seed, one): Row(task, seed, one, 9, {"last": 1.0}, {}, {"last": {1.0: (0.7, seen[one], 0.5)}})
        for task, seed, one in itertools.product(TWO, (3, 4), seen)
    }
    assert choice.wanted(rows["one", 3, peer], rows["one", 3, same]) == {"last": {1.0}}
    gaps = [Results(rows, TWO, choice, (3, 4)).last(same, column).mean for column in range(3)]
    assert gaps == pytest.approx([0.0, 3.0, 0.0])


# rows


def test_rows_come_back_as_they_were_and_a_line_cut_short_is_none(tmp_path):
    path, row = tmp_path / "rows.jsonl", next(iter(made(lambda *_: 0.125).values()))
    other = replace(row, seed=3, setting=Setting(PEER, 1e-3, 0.0, 0.0), strength=0.5, seconds=1.5)
    recipe_choice.append(path, row)
    with open(path, "a") as file:
        file.write('{"method": "plain", "rate": 0.0')
    recipe_choice.append(path, other)
    assert recipe_choice.read(path) == [row, other]
    assert recipe_choice.by_run([row, other, replace(other, seconds=9.0)])["one", 3, other.setting].seconds == 9.0


def test_the_choice_says_what_it_waits_for(tmp_path):
    study = Study(TWO, SOME, (0,), (3, 4), (4,), tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"over all tasks, and 22 rows are missing, such as start on one, seed 0"):
        study.choice()
    for row in made(lambda *_: 0.5).values():
        recipe_choice.append(study.file, row)
    choice = study.choice()
    with pytest.raises(UserError, match=r"no seed of \[3\] has the rows of all tasks; run --stage report"):
        study.report(choice)


def test_the_command_runs_once_and_reports(tmp_path):
    command = [sys.executable, BENCHMARKS / "evidence.py", "recipe", "--smallest", "--results", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    found = recipe_choice.read(tmp_path / "recipe.jsonl")
    by_seed = {seed: [row for row in found if row.seed == seed] for seed in (0, 1, 2, 3)}
    assert len(by_seed[0]) == 1 + len(settings(SMALLEST))
    assert not any(row.test for row in by_seed[0]), "no test image is looked at where something is chosen"
    assert all(row.test for seed in (1, 2, 3) for row in by_seed[seed])
    assert {row.setting.method for row in by_seed[3]} < {row.setting.method for row in by_seed[1]}, (
        "on the judging seed"
    )
    lines = (tmp_path / "recipe.jsonl").read_text()
    done = subprocess.run([*command, "--report"], check=True, capture_output=True, text=True)
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "recipe.jsonl").read_text() == lines, "what is there is not run again"
    assert "Seeds 1, 2." in done.stdout
    page, summary = ((tmp_path / f"{name}.md").read_text() for name in ("recipe", "recipe_summary"))
    for one in candidates(SMALLEST):
        assert f"| `{one}` |" in page
    at_the_peers = [row for row in by_seed[1] if row.setting.method == "digrap_held_out"]
    plain = next(row.setting for row in by_seed[1] if row.setting.method == PEER)
    assert any(row.setting[1:3] == plain[1:3] and row.test["last"].keys() >= {1.0} for row in at_the_peers)
    assert page.count("| `digrap_held_out` |") == 1 + len(at_the_peers)
    assert summary.count(": yes |") + summary.count(": no |") == 3 * 5
    assert "| recipe, seeds 3 to 3 | recipe, seeds 1 to 3 | plan's candidate, seeds 1 to 2 |" in summary
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("recipe.png", "recipe_tasks.png"))
    unknown = subprocess.run([*command[:3], "--tasks", "x"], check=False, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "--tasks x: unknown; the tasks are digits, " in unknown.stdout
