"""Several seeds: means, intervals, paired differences, by numbers computed by hand."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from vision.summary import draw_summary, print_summary, summarise

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom, from a table


def row(name: str, id: float, ood: dict[str, float | None], method: str | None = None, alpha: float = 1.0) -> dict:
    known = [value for value in ood.values() if value is not None]
    mean = sum(known) / len(known) if known else None
    scores = {"id": id, "ood": ood, "ood_group_means": {"all": mean}, "ood_mean": mean}
    return {"name": name, "method": method or name, "alpha": alpha, **scores, "calibration_error": {"id": id / 2}}


def report(seed: int, vanilla: float, ftp: float, sketch: float | None = 0.4) -> dict[str, Any]:
    ood = ["sketch", "painting"]
    return {
        "config": {"seed": seed},
        "task": {"id": "photo", "ood_groups": {"all": ood}},
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
    assert summary["seeds"] == [0, 1, 5]
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
    assert "One seed" not in printed(summary)


def test_without_plain_fine_tuning_there_is_no_difference():
    reports = [{**one, "rows": [line for line in one["rows"] if line["name"] != "vanilla"]} for one in REPORTS]
    summary = summarise(reports)
    assert not any("difference" in line for line in summary["rows"])
    assert "minus" not in printed(summary)


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


def printed(summary: dict[str, Any], width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO())
    print_summary(summary, console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_table_has_means_and_half_widths():
    text = printed(summarise(REPORTS))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    cells = {name: numbers for name, *numbers in rows}
    half = 100 * T_2 * math.sqrt(28 / 3) / 100
    assert cells["vanilla"] == [f"84.0 ± {half:.1f}", "40.0 ± 0.0", f"64.0 ± {half:.1f}", f"52.0 ± {half / 2:.1f}", ""]
    assert cells["ftp"][-1] == f"17.0 ± {T_2 / math.sqrt(3):.1f}"
    words = " ".join(text.split())
    assert "Mean of 3 seeds (0, 1, 5) ± half of its 95 % t-interval over seeds. Minus vanilla: paired by seed." in words
    narrow = printed(summarise(REPORTS), width=60)
    assert "sketch" in text
    assert "sketch" not in narrow
    assert "84.0" in narrow


def test_the_figure_has_means_with_bars(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    draw_summary(summarise(REPORTS), tmp_path / "summary.png")
    axes = kept[0].axes[0]
    assert [bars.get_label() for bars in axes.containers[:3]] == ["pre-trained", "vanilla", "ftp"]
    line, _, (across, up) = axes.containers[1]
    half = 100 * T_2 * math.sqrt(28 / 3) / 100
    assert np.ravel(line.get_data()) == pytest.approx([84, 52])
    assert across.get_segments()[0] == pytest.approx(np.array([[84 - half, 52], [84 + half, 52]]))
    assert up.get_segments()[0] == pytest.approx(np.array([[84, 52 - half / 2], [84, 52 + half / 2]]))
