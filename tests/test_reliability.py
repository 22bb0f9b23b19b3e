"""docs/reliability.md says what benchmarks/reliability.py wrote, number by number."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
RESULT = json.loads((ROOT / "benchmarks" / "results" / "reliability.json").read_text())


def shown():
    """The page's table of counts."""
    return {what: int(n.replace(",", "")) for what, n in re.findall(r"^\| ([^|]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)}


def test_the_counts_are_those_that_were_recorded():
    kills, files = RESULT["kills"], RESULT["files"]
    assert shown() == {
        "properties checked on random trees": RESULT["properties"]["properties"],
        "random examples of these properties": RESULT["properties"]["examples"],
        "faults injected into training": RESULT["faults"]["faults injected"],
        "wrong calls refused with our own error message": RESULT["faults"]["wrong calls refused"],
        "bad files read": sum(files.values()),
        "SIGKILLs of the main job": kills["kills"],
        "SIGKILLs while a checkpoint was written, of these": kills["kills_while_a_checkpoint_was_written"],
        "killed runs, all bit for bit equal to an uninterrupted run": kills["runs"],
        "write failures, all reported in one line": len(RESULT["disks"]["errors"]),
        "steps of the long run, in float32 and in bfloat16": RESULT["long"]["rows"][0]["steps"],
    }


def test_what_was_recorded_is_what_was_asked_for():
    assert RESULT["properties"]["fewest_examples_of_one"] >= 200
    assert RESULT["kills"]["kills"] >= 20
    assert RESULT["kills"]["runs_that_ended_with_the_same_bits"] == RESULT["kills"]["runs"]
    assert [row["dtype"] for row in RESULT["long"]["rows"]] == ["float32", "bfloat16"]


def test_the_long_run_is_told_as_it_was():
    single, brain = RESULT["long"]["rows"]
    for row in (single, brain):
        assert f"{row['apart_over_distance_from_anchor']:.1e}" in PAGE
        for devices in ("one_device", "two_devices"):
            assert f"{100 * row[devices]['accuracy']:.1f}" in PAGE
