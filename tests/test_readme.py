"""The README tells the truth: its code runs, its commands are CI's, its links lead somewhere."""

import csv
import json
import pathlib
import re
import statistics

import pytest

from evidence import dense, summary
from evidence.rows import File

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def test_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """One namespace for all blocks, as a reader would type them; the run directory they load is a real one."""
    monkeypatch.chdir(ROOT / "examples")
    namespace = {}
    for text in blocks("python"):
        if "RUN_DIR" not in text:  # tests/test_finetune.py runs the block that loads a run's weights
            exec(compile(text, "README.md", "exec"), namespace)
    assert "backbone/kernel" in capsys.readouterr().out


def test_there_is_a_command_for_the_job_and_one_for_the_tests():
    job, tests = (text.strip() for text in blocks("bash")[:2])
    assert job.startswith("python3 -m venv .venv && ")
    assert job.endswith("examples/finetune.py")
    assert tests in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links_lead_to_files(target):
    assert (ROOT / target).exists()


def test_the_table_is_what_was_recorded():
    """Mean and standard deviation of every row, as `benchmarks/evidence.py digits` wrote them."""
    recorded = {row["name"]: row for row in json.loads((ROOT / "benchmarks/results/digits.json").read_text())["rows"]}
    names = {"vanilla fine-tuning": "vanilla", "FTP": "ftp", "DiGraP": "digrap", "pre-trained": "pre-trained"} | {
        "vanilla, WiSE-FT 0.5": "vanilla + WiSE 0.5",
        "FTP, WiSE-FT 0.5": "ftp + WiSE 0.5",
    }
    rows = dict(re.findall(r"^\| ([^|]+?) \| (\d+\.\d ± [^\n]+) \|$", README, flags=re.MULTILINE))
    assert set(rows) == set(names)
    for shown, name in names.items():
        mean, spread = recorded[name]["mean"], recorded[name]["standard_deviation"]
        expected = " | ".join(f"{mean[c]:.1f} ± {spread[c]:.1f}" for c in ("ID", "OOD seen", "OOD held out"))
        assert rows[shown] == expected


def test_the_large_learning_rate_is_what_was_recorded():
    """Mean and standard deviation over the seeds of `benchmarks/evidence.py past`."""
    with (ROOT / "benchmarks/results/past_the_papers.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "digits" and float(row["rate"]) == 0.01]
    for column, shown in (("id_accuracy", "in domain"), ("ood_seen_accuracy", "on the six renderings")):
        ftp, vanilla = (
            [100 * float(row[column]) for row in rows if (row["method"], row["knob"], row["width"]) == (*method, "1.0")]
            for method in (("ftp", "0.03"), ("vanilla", "0.0"))
        )
        assert len(ftp) == len(vanilla) == 3
        of = lambda values: f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
        assert f"{of(ftp)} against {of(vanilla)} {shown}" in " ".join(README.split())


def test_the_emoji_axes_are_what_was_recorded():
    with (ROOT / "benchmarks/results/past_the_papers.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "emoji"]
    found = {
        (row["method"], float(row["rate"]), int(row["batch"])): f"{100 * float(row['id_accuracy']):.1f} %"
        for row in rows
        if float(row["epochs"]) == 10
    }
    text = " ".join(README.split())
    vanilla, ftp, free = (found[method, 1e-2, 32] for method in ("vanilla", "ftp", "ftp scale-free"))
    assert f"ends at {vanilla} in domain, FTP at {ftp}, with `scale_free` radii at {free}" in text
    vanilla, ftp, free = (found[method, 1e-3, 8] for method in ("vanilla", "ftp", "ftp scale-free"))
    assert f"batches of 8 at {vanilla}, {ftp} and {free}" in text


def test_the_few_labels_are_what_was_recorded():
    with (ROOT / "benchmarks/results/low_label.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["experiment"] == "emoji"]

    def means(share: float, *methods: str) -> list[str]:
        """In domain and on the styles seen before, for each method."""
        mine = [[row for row in found if (row["method"], float(row["share"])) == (name, share)] for name in methods]
        assert all(len(of_one) == 5 for of_one in mine)
        columns = ("id_accuracy", "ood_seen_accuracy")
        return [f"{100 * statistics.fmean(float(row[c]) for row in of_one):.1f} %" for of_one in mine for c in columns]

    found = [row for row in found if json.loads(row["hyperparameters"]).get("alpha", 0.5) == 0.5]
    text, methods = " ".join(README.split()), ("vanilla", "ftp", "ftp_scale_free")
    told = "ends at {} in domain and {} on the six styles, FTP at {} and {}, with `scale_free` radii at {} and {};"
    assert told.format(*means(0.05, *methods)) in text
    assert "on two images at {} and {}, {} and {}, {} and {}.".format(*means(0.01, *methods)) in text
    assert "0.5 is at {} and {}, {} and {}.".format(*means(0.05, "wise_ft"), *means(0.01, "wise_ft")) in text


def emoji_lines(style):
    """The five-seed lines of the emoji by method, learning rate and mu."""
    recorded = summary.groups(File(ROOT / "benchmarks/results/robustness.csv").read())
    lines = summary.settings(recorded[summary.Group("emoji", style, "efficientnet-lite0")])
    found = {(line.method, line.hyperparameters.get("lr"), line.hyperparameters.get("mu")): line for line in lines}
    return {key: line for key, line in found.items() if len(line.rows) == 5}


def gains(ftp: summary.Line, peer: summary.Line) -> list[str]:
    """In domain, on the styles seen before and on those held out."""
    return [f"{summary.paired(ftp, peer, column):+}" for column in summary.SCORES.values()]


def test_the_gains_on_the_emoji_are_what_was_recorded():
    found = emoji_lines("fluent-high-contrast")
    ftp, best = found["ftp", 1e-3, 1e-2], found["vanilla", 3e-4, None]
    text = " ".join(README.split())
    default = gains(ftp, found["vanilla", 1e-3, None])
    assert "{} in domain, {} on the six styles, {} on three".format(*default) in text
    assert "{}, {} and {}".format(*gains(ftp, best)) in text
    assert "{}, {} and {}".format(*gains(found["ftp", 3e-4, 1e-1], best)) in text
    assert "{}, {} and {}".format(*gains(found["ftp_scale_free", 3e-4, 0.3], best)) in text
    assert "{}, {} and {}".format(*gains(found["ftp_exact", 3e-4, 1e-2], best)) in text
    assert "{}, {} and {}".format(*gains(found["tpgm", 3e-4, 1e-1], best)) in text


def test_the_gains_on_the_second_style_are_what_was_recorded():
    found = emoji_lines("noto")
    ftp, vanilla = found["ftp", 1e-3, 1e-2], found["vanilla", 1e-3, None]
    text = " ".join(README.split())
    before, plain, kept = (
        f"{100 * statistics.fmean(row['id_accuracy'] for row in line.rows.values()):.1f} %"
        for line in (found["zero_shot", None, None], vanilla, ftp)
    )
    assert f"{plain} in domain after {before}; FTP, both as validation chose them, is at {kept}" in text
    assert "{} in domain, {} on the other five, {} on the three".format(*gains(ftp, vanilla)) in text
    assert "hyper-gradient {}, {} and {}".format(*gains(found["ftp_exact", 1e-3, 1e-2], vanilla)) in text
    assert "radii {}, {} and {}".format(*gains(found["ftp_scale_free", 1e-3, 0.1], vanilla)) in text
    assert "TPGM {}, {} and {}".format(*gains(found["tpgm", 1e-3, 1e-2], vanilla)) in text
    assert "sizes, {}, {} and {}".format(*gains(found["mars_pgm", 1e-3, None], vanilla)) in text


def test_dense_prediction_is_what_was_recorded():
    recorded = File(ROOT / "benchmarks/results/dense.csv", dense.COLUMNS).read()
    lines = {line.method: line for line in summary.lines(recorded)}
    ftp, vanilla = lines["ftp"], lines["vanilla"]
    columns = ("id_miou", "ood_seen_miou", "ood_held_miou")
    found = [summary.paired(ftp, vanilla, column) for column in columns]
    differences = [f"{one:+}" for one in found]
    means = [f"{100 * statistics.fmean(row[column] for row in ftp.rows.values()):.1f} %" for column in columns]
    text = " ".join(README.split())
    told = "{} points in domain, {} on the styles of the foundation model and {} on those held out"
    assert told.format(*differences) in text
    assert "at {}, {} and {}:".format(*means) in text
    beyond = [summary.paired(ftp, lines["wise_ft"], column) for column in columns[1:]]
    assert "above WiSE-FT too, by {:+} and {:+}".format(*beyond) in text
