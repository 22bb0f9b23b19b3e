"""The report of a run, and the table that shows it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from results_by_hand import START, made, trained
from rich.console import Console

from vision.config import Config
from vision.evaluation import Candidate
from vision.report import build_report
from vision.results import candidates
from vision.table import print_report

FOLDERS = Config(methods="vanilla,ftp", train=Path("/photos"), val=Path("/more"), seed=3, batch_size=8)
DEVICES = {"count": 8, "kind": "cpu", "platform": "cpu", "processes": 2, "mesh": {"data": 8}, "fsdp": True}


def params(value: float) -> dict:
    return {"body": {"kernel": jnp.full((2, 2), value)}, "head": {"kernel": jnp.zeros((2, 3))}}


@pytest.fixture(scope="module")
def report() -> dict:
    ends = {"last": params(1.0), "best": params(3.0)}
    methods = {
        "vanilla": trained(ends, {}, {}),
        "ftp": trained(ends, {"body/kernel": 0.5, "head/kernel": jnp.array([1.0, jnp.inf])}, {}),
    }
    predictions = {
        Candidate("ftp", 1.0): {"id": [0, 1, 1, 1], "ood/sketch": [0, 2, 2, 2]},
        Candidate("ftp", 0.5): {"id": [1, 1, 1, 1]},
    }
    config = dataclasses.replace(FOLDERS, select="best", radii_lr=0.5)
    found = build_report(
        made(config, methods, predictions=predictions), devices=DEVICES, knobs={"ftp": {"radii_lr": 0.1}}
    )
    return json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize(
    ("change", "alphas"),
    [
        ({}, [0.5, 1.0]),
        ({"wise_alpha": 1.0}, [1.0]),
        ({"wise_path": True, "wise_alpha": 0.3}, [0.0, 0.25, 0.3, 0.5, 0.75, 1.0]),
        ({"train": None, "val": None}, [0.5, 1.0]),
        ({"wise_alpha": "auto"}, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    ],
    ids=["shown", "one", "path", "digits", "auto"],
)
def test_only_what_the_report_shows_is_evaluated(change, alphas):
    config = dataclasses.replace(FOLDERS, methods="ftp", **change)
    assert candidates(config, "zero-shot") == [START, *(Candidate("ftp", alpha) for alpha in alphas)]
    assert candidates(config, "new") == [Candidate("ftp", alpha) for alpha in alphas]


def test_scores_are_over_the_images_that_could_be_read(report):
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["pre-trained", "vanilla", "ftp", "vanilla + WiSE 0.5", "ftp + WiSE 0.5"]
    ftp = rows["ftp"]
    # of the OOD images 0, 2 and 3 count, and 2 is wrong
    assert (ftp["id"], ftp["ood"], ftp["ood_mean"], ftp["validation"]) == (0.5, {"sketch": 2 / 3}, 2 / 3, 1.0)
    assert ftp["ood_group_means"] == {"drawn": 2 / 3}
    assert rows["pre-trained"]["id"] == 1.0
    assert report["task"]["skipped_images"] == {"id": 0, "ood/sketch": 1, "validation": 0}
    assert report["task"]["test_images"] == {"id": 4, "ood/sketch": 3, "validation": 2}


def test_calibration_and_accuracy_by_class(report):
    ftp = next(row for row in report["rows"] if row["name"] == "ftp")
    # all have confidence 0.75: one bin
    expected = {"id": 0.25, "ood": {"sketch": 0.75 - 2 / 3}, "ood_mean": 0.75 - 2 / 3, "validation": 0.25}
    for key, value in expected.items():
        assert ftp["calibration_error"][key] == pytest.approx(value)
    assert report["per_class_accuracy"]["ftp"] == {
        "id": {"ant": 0.5, "bee": 1.0, "cat": 0.0},
        "ood/sketch": {"ant": 0.5, "cat": 1.0},
        "validation": {"ant": 1.0, "bee": 1.0},
    }
    assert list(report["per_class_accuracy"]) == [row["name"] for row in report["rows"]]


def test_methods_say_how_they_were_trained(report):
    ftp, vanilla = report["methods"]["ftp"], report["methods"]["vanilla"]
    assert ftp["best"] == {"step": 15, "validation": 0.75}
    assert ftp["validations"][1:] == [
        {"step": 15, "accuracy": 0.75, "loss": 1.25},
        {"step": 20, "accuracy": 0.75, "loss": None},
    ]
    assert (ftp["stopped_early"], ftp["skipped_images"], ftp["steps"], ftp["final_loss"]) == (False, 3, 20, 1.0)
    assert ftp["knobs"]["radii_lr"] == 0.1, "what was chosen"
    assert (ftp["knobs"]["kappa"], "radii_lr" in vanilla["knobs"]) == (1.0, False)
    assert ftp["radii"] == {"body/kernel": 0.5, "head/kernel": [1.0, None]}
    assert (ftp["strengths"], vanilla["radii"]) == ({}, {})
    assert ftp["drift"] == {"body/kernel": 6.0, "head/kernel": 0.0}, "of the best weights, which are reported"
    assert [point["alpha"] for point in ftp["wise_path"]] == [0.5, 1.0]
    assert [point["id"] for point in ftp["wise_path"]] == [0.25, 0.5]


def automatic(validation: dict[float, list[int]], test: dict[float, list[int]], rule: str = "auto") -> dict[str, Any]:
    """The report of a run in which these are predicted on its path; the validation images are of the classes 0, 1."""
    config = dataclasses.replace(FOLDERS, methods="ftp", wise_alpha=rule)
    said = {Candidate("ftp", alpha): {"validation": labels} for alpha, labels in validation.items()}
    for alpha, labels in test.items():
        said[Candidate("ftp", alpha)]["id"] = labels
    return build_report(made(config, {"ftp": trained({"last": params(1.0)}, {}, {})}, predictions=said), devices={})


def test_validation_images_choose_the_point_of_the_path():
    """Half right is an error of 0.35: of two images what has one right is told from the best only if that has both."""
    wrong = {alpha / 10: [2, 2] for alpha in range(11)}
    one, both = [0, 2], [0, 1]
    assert automatic(wrong | {0.4: one, 0.8: one}, {})["methods"]["ftp"]["wise_alpha"] == 0.4
    nearer = wrong | {0.4: one, 0.6: both, 0.8: both}
    assert automatic(nearer, {}, rule="best")["methods"]["ftp"]["wise_alpha"] == 0.6
    report = automatic(wrong | {0.4: one, 0.8: both, 0.9: both}, {0.8: [0, 0, 0, 0]})
    assert report["methods"]["ftp"]["wise_alpha"] == 0.8
    row = report["rows"][-1]
    assert (row["name"], row["alpha"], row["validation"], row["id"]) == ("ftp + WiSE auto", 0.8, 1.0, 0.5)


def test_the_table_tells_the_points_that_were_chosen():
    report = automatic({alpha / 10: [2, 2] for alpha in range(3)}, {})
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_report(report, console)
    text = " ".join(console.export_text().split())
    assert "WiSE a: (1 - a) times the pre-trained weights plus a times the fine-tuned ones; auto is chosen" in text
    assert "auto is chosen on validation images: ftp 0.3." in text


def test_where_it_ran_and_how_fast(report):
    assert report["versions"]["devices"] == DEVICES
    assert report["versions"]["jax"] == jax.__version__
    assert report["timing"]["ftp"] == {
        "seconds": 4.0, "steps_per_second": 4.75, "images_per_second": 38.0, "input_wait_share": 0.25,
    }  # fmt: skip


def test_a_run_without_a_timed_step_has_no_speed():
    method = trained({"last": params(1.0)}, {}, {})
    method.history |= {name: jnp.zeros(()) for name in ("seconds", "timed_steps", "waited_seconds")}
    found = build_report(made(dataclasses.replace(FOLDERS, methods="vanilla"), {"vanilla": method}), devices={})
    assert set(found["timing"]["vanilla"].values()) == {0.0, None}


def test_a_domain_that_nobody_could_read_has_no_score():
    config = dataclasses.replace(FOLDERS, methods="vanilla")
    method = trained({"last": params(1.0)}, {}, {})
    report = build_report(made(config, {"vanilla": method}, bad=(0, 1, 2, 3)), devices={})
    assert report["rows"][0]["ood"] == {"sketch": None}
    assert report["rows"][0]["calibration_error"]["ood_mean"] is None
    assert report["per_class_accuracy"]["vanilla"]["ood/sketch"] == {}


def printed(report) -> str:
    """What a user reads of a report, in one line."""
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_report(report, console)
    return " ".join(console.export_text().split())


def test_the_table_says_what_it_does_not_count(report):
    text = printed(report)
    assert "One seed (3); 3 to 4 test images per domain; standard error of a number up to" in text
    assert f"{50 / math.sqrt(3):.1f} points" in text
    assert "could not be read and are not counted: ood/sketch 1." in text
    assert "Domains scored among fewer than all 3 classes: sketch 2." in text
    assert "│ ftp │ 50.0 │ 66.7 │ 66.7 │" in text


def test_one_seed_says_how_many_rows_beat_plain_fine_tuning_and_that_it_may_be_chance(report):
    text = printed(report)
    # plain fine-tuning, as all that nothing is said of, has every image right
    assert "all 4 labels, one seed: none of 4 rows beats vanilla." in text
    assert text.endswith("One seed may be chance: --seeds 0,1,2,3,4 gives intervals.")
