"""What is recorded of the evidence: the tables of the site are those of the rows, and its numbers are in the tables."""

import re
import shutil
from pathlib import Path

import pytest

from evidence import continual, dense, low_label, past, recipe, robustness, under_corruption, vqa
from evidence.recipe_choice import Candidate
from evidence.recipe_results import all_candidates, compared
from evidence.robustness import several_networks
from evidence.rows import File
from evidence.summary import groups, lines

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}
TASKS = {
    "robustness-* backbones-*": (robustness, {}),
    "corruptions-*": (under_corruption, {}),
    "low_label-*": (low_label, {}),
    "continual-*": (continual, {}),
    "dense": (dense, {}),
    "vqa-*": (vqa, {}),
    "recipe recipe_summary": (recipe, {}),
    "past_*_digits": (past, {}),
    "past_*_emoji": (past, {"experiment": "emoji", "seeds": 1}),
}


@pytest.mark.parametrize("names", TASKS)
def test_the_recorded_tables_are_those_of_the_recorded_rows(names, tmp_path):
    for path in (*RESULTS.glob("*.csv"), RESULTS / "recipe.jsonl"):
        shutil.copy(path, tmp_path)
    module, options = TASKS[names]
    module.Options(results=tmp_path, **options).tell()
    recorded = {path.name for pattern in names.split() for path in RESULTS.glob(f"{pattern}.md")}
    assert {path.name for path in tmp_path.glob("*.md")} == recorded
    for name in recorded:
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()
        assert any(f"results/{name}" in page for page in PAGES.values()), name
    figures = list(tmp_path.glob("*.png"))
    assert figures
    assert all(path.stat().st_size > 10_000 and (RESULTS / path.name).exists() for path in figures)


def points(lines, method: str, peer: str, column: str) -> float:
    """The difference of two methods' means."""
    by_method = {line.method: line for line in lines}
    return by_method[method].score(column).mean - by_method[peer].score(column).mean


def test_the_points_of_the_page_are_those_of_the_rows():
    text = " ".join(PAGES["evidence"].split())
    recorded = groups(File(RESULTS / "robustness.csv").read())
    styles = {
        group.id_domain: lines(rows) for group, rows in recorded.items() if group.backbone == "efficientnet-lite0"
    }
    emoji, noto = styles["fluent-high-contrast"], styles["noto"]
    seen, own = "ood_seen_accuracy", "id_accuracy"
    lost = points(emoji, "zero_shot", "vanilla", seen)
    assert f"loses {lost:.0f} points on the six styles" in text
    assert f"keeps {points(emoji, 'ftp', 'vanilla', seen):.0f} of them" in text
    both = points(emoji, "ftp+wise_ft", "vanilla", seen), points(emoji, "vanilla", "ftp+wise_ft", own)
    assert "it keeps {:.0f}, and loses {:.0f} points in-distribution".format(*both) in text
    above = points(noto, "ftp", "vanilla", own), points(noto, "ftp", "zero_shot", own)
    assert "by {:.0f} points on the first and {:.0f} on the second".format(*above) in text


def test_the_readme_has_the_lines_of_the_study():
    """Its table of results, cell by cell."""
    readme = (ROOT / "README.md").read_text()
    recorded = (RESULTS / "recipe_summary.md").read_text().splitlines()[2:8]
    shown = re.findall(r"^\| .* ± .* \|$", readme, flags=re.MULTILINE)
    assert shown == [" | ".join(line.split(" | ")[:4]) + " |" for line in recorded]


def test_the_page_says_what_the_study_found():
    study = recipe.Options(results=RESULTS).study()
    found = study.results(study.choice())
    means = lambda one: [found.difference(one, column).mean for column in range(3)]
    told = lambda one: "{:+.1f}, {:+.1f} and {:+.1f} points".format(*means(one))
    text, own = " ".join(PAGES["evidence"].split()), found.choice.primary
    assert min(means(own)) > 0
    assert f"The recipe raises all three scores on the mean over tasks**: by {told(own)}" in text
    assert [one.holds for one in found.criteria()] == [True, False, False, False, True]
    worst = min((found.difference(own, c, [task]).mean, task) for task in found.problems for c in range(3))
    assert f"below plain fine-tuning, most of all on `{worst[1]}`" in text
    assert found.choice.shares["last"] == 0.7
    assert (
        f"`wise_ft` at a share of 0.7, the same for all runs, then gains {told(Candidate('plain', 'last', 'fixed'))}"
        in text
    )
    without = found.difference(compared(found)["without FTP"], 0).mean
    assert f"{means(own)[0]:+.1f} points against {without:+.1f} without it" in text
    assert f"TPGM has the best last weights out-of-distribution**: {told(Candidate('tpgm', 'last', 'none'))}" in text
    lasts = {one: means(one) for one in all_candidates(found) if one[1:] == ("last", "none")}
    assert (
        max(lasts, key=lambda one: lasts[one][1]).method == max(lasts, key=lambda one: lasts[one][2]).method == "tpgm"
    )
    assert all(max(lasts[one]) < 0 for one in lasts if "digrap" in one.method)


def test_networks_are_compared_where_there_are_several_of_one_experiment():
    same = {"hyperparameters": {}, "method": "vanilla", "seed": 0, "id_domain": "photo"}
    made = [("digits", "small-cnn"), ("digits", "vit"), ("emoji", "efficientnet-lite0")]
    found = several_networks(groups([same | {"experiment": name, "backbone": net} for name, net in made]))
    assert {name: list(networks) for name, networks in found.items()} == {"digits": ["small-cnn", "vit"]}


def test_the_settings_tried_are_those_that_the_page_tells():
    trials = File(RESULTS / "dense_trials.csv", dense.COLUMNS).read()
    counts = {name: sum(row["method"] == name for row in trials) for name in dict.fromkeys(r["method"] for r in trials)}
    assert set(counts.values()) == {3}
    assert "three settings of it" in PAGES["evidence"]
