"""Several seeds: means, intervals, paired differences, by numbers computed by hand."""

import io
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from vision.gains import draw_gains
from vision.summary import summarise
from vision.table import print_report

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a table


def row(name: str, id: float, ood: dict[str, float | None], method: str | None = None, alpha: float = 1.0) -> dict:
    known = [value for value in ood.values() if value is not None]
    mean = sum(known) / len(known) if known else None
    scores = {"id": id, "ood": ood, "ood_group_means": {"all": mean}, "ood_mean": mean}
    return {"name": name, "method": method or name, "alpha": alpha, **scores, "calibration_error": {"id": id / 2}}


def report(seed: int, vanilla: float, ftp: float, sketch: float | None = 0.4, labels: str = "all") -> dict[str, Any]:
    ood = ["sketch", "painting"]
    return {
        "config": {"seed": seed, "labels": labels},
        "task": {
            "id": "photo",
            "classes": ["ant", "bee"],
            "train_images": 300 if labels == "all" else int(labels),
            "ood_groups": {"all": ood},
            "scored_among": {"sketch": 1},
            "skipped_images": {"id": 0, "ood/sketch": 2},
        },
        "model": {"name": "small-cnn", "head": "pre-trained"},
        "rows": [
            row("pre-trained", 0.5, dict.fromkeys(ood, 0.5)),
            row("vanilla", vanilla, {"sketch": sketch, "painting": vanilla - 0.2}),
            row("ftp", ftp, {"sketch": 0.5, "painting": ftp}),
            row("ftp + WiSE 0.5", 0.7, dict.fromkeys(ood, 0.55), "ftp", 0.5),
        ],
    }


REPORTS = [report(0, 0.80, 0.86), report(1, 0.82, 0.84), report(5, 0.90, 0.94)]


def test_means_and_intervals_by_hand():
    summary = json.loads(json.dumps(summarise(REPORTS), allow_nan=False))
    assert (summary["seeds"], summary["labels"]) == ([0, 1, 5], "all")
    assert [one["name"] for one in summary["rows"]] == ["pre-trained", "vanilla", "ftp", "ftp + WiSE 0.5"]
    vanilla = summary["rows"][1]
    # 80, 82, 90: mean 84, squares 16 + 4 + 36 = 56, variance 28
    assert vanilla["id"]["mean"] == pytest.approx(0.84)
    assert vanilla["id"]["deviation"] == pytest.approx(math.sqrt(28) / 100)
    assert vanilla["id"]["half_width"] == pytest.approx(T_2 * math.sqrt(28 / 3) / 100)
    assert vanilla["calibration_error"]["id"]["mean"] == pytest.approx(0.42)
    assert vanilla["ood"]["sketch"] == pytest.approx({"mean": 0.4, "deviation": 0, "half_width": 0})
    assert "difference" not in vanilla


def test_differences_are_paired_by_seed():
    ftp = summarise(REPORTS)["rows"][2]
    # 6, 2, 4: mean 4, variance 4; unpaired, the seeds' own spread would hide it
    assert ftp["difference"]["id"] == pytest.approx(
        {"mean": 0.04, "deviation": 0.02, "half_width": T_2 * 0.02 / math.sqrt(3)}
    )
    assert ftp["difference"]["id"]["half_width"] < ftp["id"]["half_width"]
    # painting: 26, 22, 24; sketch: always 10
    assert ftp["difference"]["ood_mean"]["mean"] == pytest.approx(0.17)
    assert ftp["difference"]["ood"]["sketch"]["mean"] == pytest.approx(0.1)


def test_one_seed_has_no_interval():
    summary = summarise(REPORTS[:1])
    assert summary["rows"][2]["id"] == {"mean": 0.86, "deviation": None, "half_width": None}
    assert "±" not in printed(summary)
    assert "One seed may be chance" in printed(summary)


def test_without_plain_fine_tuning_there_is_no_difference():
    reports = [{**one, "rows": [line for line in one["rows"] if line["name"] != "vanilla"]} for one in REPORTS]
    summary = summarise(reports)
    assert not any("difference" in line for line in summary["rows"])
    text = printed(summary)
    assert "minus" not in text
    assert "beat" not in text
    half = 100 * T_2 * math.sqrt(28 / 3) / 100  # of 86, 84, 94
    assert cells(text)["ftp"] == [f"88.0 ± {half:.1f}", "50.0 ± 0.0", f"88.0 ± {half:.1f}", f"69.0 ± {half / 2:.1f}"]


def test_a_score_that_a_seed_lacks_has_no_mean():
    summary = summarise([*REPORTS[:2], report(2, 0.8, 0.8, sketch=None)])
    assert summary["rows"][1]["ood"]["sketch"] is None
    assert summary["rows"][2]["difference"]["ood"]["sketch"] is None
    assert summary["rows"][2]["ood"]["sketch"]["mean"] == 0.5


def test_every_seed_has_the_point_of_the_path_that_it_chose():
    def chose(report: dict[str, Any], alpha: float) -> dict[str, Any]:
        rows = [
            one | ({"name": "ftp + WiSE auto", "alpha": alpha} if "WiSE" in one["name"] else {})
            for one in report["rows"]
        ]
        return {**report, "rows": rows}

    summary = summarise([chose(one, alpha) for one, alpha in zip(REPORTS, (0.4, 0.7, 0.4), strict=True)])
    assert [one["alpha"] for one in summary["rows"]] == [1.0, 1.0, 1.0, [0.4, 0.7, 0.4]]
    assert "auto is chosen on validation images: ftp 0.4, 0.7, 0.4." in " ".join(printed(summary).split())
    assert summarise([chose(one, 0.4) for one in REPORTS])["rows"][-1]["alpha"] == 0.4
    few = summarise([chose(report(seed, 0.8, 0.9, labels="30"), 0.2) for seed in (0, 1)])
    told = " ".join(printed(few, summary).split())
    assert "auto is chosen on validation images: 30 labels: ftp 0.2; all 300 labels: ftp 0.4, 0.7, 0.4." in told
    assert told.count("WiSE a: ") == 1


def printed(*summaries: dict[str, Any], width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    print_report({"summaries": summaries}, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def cells(text: str) -> dict[str, list[str]]:
    """The entries of a table by the name of their row."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {name: entries for name, *entries in rows}


def test_the_table_has_means_and_what_they_are_above_plain_fine_tuning():
    text = printed(summarise(REPORTS))
    assert "all 300 labels, 3 seeds: accuracy in %" in text
    found = cells(text)
    half = 100 * T_2 / 100 / math.sqrt(3)
    assert found["vanilla"] == ["84.0", "40.0", "64.0", "52.0", "", ""]
    assert found["ftp"] == ["88.0", "50.0", "88.0", "69.0", f"+4.0 ± {2 * half:.1f}", f"+17.0 ± {half:.1f}"]
    words = " ".join(text.split())
    assert "Seeds 0, 1, 5. ± is half of the 95 % t-interval over seeds; differences are paired by seed." in words
    assert "all 300 labels: 1 of 3 rows beats vanilla, ftp (ID +4.0 ± 5.0, OOD +17.0 ± 2.5)." in words
    assert "Domains scored among fewer than all 2 classes: sketch 1." in words
    assert "not counted: ood/sketch 2." in words


@pytest.mark.parametrize("width", [62, 80, 100, 120, 200])
def test_no_entry_of_a_table_is_cut_off(width):
    """Columns are left out where there is no room; in a window like no other, names are wrapped."""
    wise = "a_name_of_some_length + WiSE 0.5"
    reports = [
        {**one, "rows": [row | {"name": wise if "WiSE" in row["name"] else row["name"]} for row in one["rows"]]}
        for one in REPORTS
    ]
    text = printed(summarise(reports), width=width)
    assert "…" not in text
    rows = [line for line in text.splitlines() if line[:1] in "│┃"]
    assert all(line[-1] in "│┃" and len(line) <= width for line in rows)
    assert "88.0" in text
    assert "+17.0 ± 2.5" in text
    assert ("sketch" in text.split("Seeds")[0]) == (width >= 100)


def test_each_number_of_labels_has_its_table_and_its_sentence():
    few = [report(seed, 0.5, 0.6 + seed / 100, labels="30") for seed in range(3)]
    text = printed(summarise(few), summarise(REPORTS))
    titles = re.findall(r"^(.*): accuracy in %", text, flags=re.MULTILINE)
    assert titles == ["30 labels, 3 seeds", "all 300 labels, 3 seeds"]
    assert re.findall(r"^(.*): \d of 3 rows beats? vanilla", text, flags=re.MULTILINE) == [
        "30 labels",
        "all 300 labels",
    ]
    assert text.count("WiSE a:") == 1


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure of some summaries."""

    def draw(*summaries: dict[str, Any]) -> Figure:
        kept = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **b: [kept.append(figure), save(figure, *a, **b)])
        draw_gains(summaries, tmp_path / "gains.png")
        return kept[0]

    return draw


def points(axes: Any) -> np.ndarray:
    """Of each marker: where it is, half of its bar, and its row."""
    found = []
    for line, _, (bar,) in axes.containers:
        (x,), (y,) = line.get_data()
        (low, _), (high, _) = bar.get_segments()[0]
        assert low + high == pytest.approx(2 * x)
        found.append((x, (high - low) / 2, round(y)))
    return np.array(found)


def test_the_figure_has_differences_with_bars(drawn):
    figure = drawn(summarise(REPORTS))
    within, beyond = figure.axes
    assert [text.get_text() for text in within.get_yticklabels()] == ["pre-trained", "ftp", "ftp + WiSE 0.5"]
    half = T_2 / math.sqrt(3)
    assert points(within)[1] == pytest.approx([4, 2 * half, 1])
    assert points(beyond)[1] == pytest.approx([17, half, 1])
    assert "84.0 %" in within.get_xlabel()
    assert "52.0 %" in beyond.get_xlabel()
    assert (within.get_title(), beyond.get_title()) == ("ID\nphoto", "OOD\nmean of 2 domains")


def test_the_title_of_the_figure_is_what_its_numbers_say(drawn):
    few = [report(seed, 0.5, 0.4, labels="30") for seed in range(3)]
    figure = drawn(summarise(few), summarise(REPORTS))
    told = figure.get_suptitle().replace("\n", " ")
    assert "30 labels: 2 of 3 rows beat vanilla, ftp + WiSE 0.5 by the most (ID +20.0 ± 0.0, OOD +20.0 ± 0.0)." in told
    assert "all 300 labels: 1 of 3 rows beats vanilla, ftp" in told
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "30 labels",
        "all 300 labels",
        "95 % interval, 3 seeds",
    ]


def test_numbers_of_labels_are_told_apart_by_their_faces_and_do_not_overlap(drawn):
    figure = drawn(summarise([report(0, 0.5, 0.4, labels="30")]), summarise([report(0, 0.5, 0.4)]))
    markers = [container[0] for container in figure.axes[0].containers]
    faces = {markers[index].get_markerfacecolor() for index in (1, 4)}  # of ftp
    assert (1.0, 1.0, 1.0) in {tuple(map(float, face)) for face in faces}
    assert len(faces) == 2
    rows = sorted(float(marker.get_ydata()[0]) for marker in markers)
    assert min(np.diff(rows)) > 0.3


def test_without_plain_fine_tuning_the_figure_has_accuracies(drawn):
    reports = [{**one, "rows": [line for line in one["rows"] if line["name"] != "vanilla"]} for one in REPORTS]
    figure = drawn(summarise(reports))
    assert points(figure.axes[0])[1][0] == pytest.approx(88)
    assert figure.axes[0].get_xlabel() == "accuracy (%)"
    assert figure.get_suptitle() == ""
