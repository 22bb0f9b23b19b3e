"""What is recorded of the evidence: the tables of the site are those of the rows, and its numbers are in the tables."""

import re
import shutil
from pathlib import Path

import pytest

from evidence import continual, dense, low_label, past, robustness, under_corruption, vqa
from evidence.robustness import several_networks
from evidence.rows import File
from evidence.summary import groups

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
    "past_*_digits": (past, {}),
    "past_*_emoji": (past, {"experiment": "emoji", "seeds": 1, "questions": ("scale",)}),
}


@pytest.mark.parametrize("names", TASKS)
def test_the_recorded_tables_are_those_of_the_recorded_rows(names, tmp_path):
    for path in (*RESULTS.glob("*.csv"), RESULTS / "vqa_shifts.json"):
        shutil.copy(path, tmp_path)
    shutil.copytree(RESULTS / "robustness_walls", tmp_path / "robustness_walls")
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


SETTINGS = {  # what a page's prose says of settings and is no result
    "corruptions": {"0.7"},
    "low_label": {"0.5", "0.7"},
    "continual": {"0.1", "0.3", "1.0", "3.0", "10.0"},
    "backbones": set(),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_numbers_of_the_prose_are_in_the_tables(name):
    numbers = lambda text: set(re.findall(r"\d+\.\d", text))
    tables = [path.read_text() for path in RESULTS.glob(f"{name}-*.md")]
    assert numbers(PAGES[name]) - set().union(*map(numbers, tables)) <= SETTINGS[name]


def test_networks_are_compared_where_there_are_several_of_one_experiment():
    same = {"hyperparameters": {}, "method": "vanilla", "seed": 0, "id_domain": "photo"}
    made = [("digits", "small-cnn"), ("digits", "vit"), ("emoji", "efficientnet-lite0")]
    found = several_networks(groups([same | {"experiment": name, "backbone": net} for name, net in made]))
    assert {name: list(networks) for name, networks in found.items()} == {"digits": ["small-cnn", "vit"]}


def test_the_settings_tried_are_those_that_the_page_tells():
    trials = File(RESULTS / "dense_trials.csv", dense.COLUMNS).read()
    counts = {name: sum(row["method"] == name for row in trials) for name in dict.fromkeys(r["method"] for r in trials)}
    told = ", ".join(f"{count} for `{name}`" for name, count in counts.items())
    assert told in " ".join(PAGES["dense"].split())
