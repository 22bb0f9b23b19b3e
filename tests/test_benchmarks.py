"""The cost benchmarks run at their smallest, and what they count is right; what they time is not looked at."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import writer
from cost import compiled, growth, job_memory, job_speed, memory, paper, step, train, trees

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = [module.Options for module in (step, train, memory, growth, paper, job_memory, job_speed)]


def command(*flags):
    return subprocess.run([sys.executable, BENCHMARKS / "cost.py", *flags], capture_output=True, text=True)


def run(part, out, *flags):
    """A part's JSON, its table checked to be there."""
    done = command(part, "--smallest", "--results", out, *flags)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.json")
    assert found.with_suffix(".md").read_text().startswith("| ")
    result = json.loads(found.read_text())
    assert {"backend", "device_kind", "driver", "precision", "versions"} <= result["environment"].keys()
    return result


def test_step_time_counts_streams_and_times_in_turn(tmp_path):
    flags = ("--trees", "vit-b16", "decoder-1b", "--bases", "adamw", "--methods", "ftp", "tpgm")
    rows = {(row["tree"], row["method"]): row for row in run("step", tmp_path, *flags)["rows"]}
    assert len(rows) == 6
    for (_, method), row in rows.items():
        assert row["streams"] == pytest.approx({"base": 10, "ftp": 18.3, "tpgm": 18.3}[method], abs=0.2)
        time = row["time_over_base"]
        assert time["runs"] == 3
        assert time["ratio"] == pytest.approx(time["seconds"] / time["base_seconds"], rel=1e-2)
        assert 0 < time["spread"][0] <= time["spread"][1]
    assert rows["decoder-1b", "ftp"]["leaves"] == 11


def test_what_does_not_fit_is_analysed_but_not_run(monkeypatch):
    monkeypatch.setattr(compiled, "memory_limit", lambda: 0)
    rows = compiled.over_base(trees.tree("vit-b16", smallest=True), "sgd", ["pgm"], runs=3)
    assert [row["time_over_base"] for row in rows] == [None, None]
    assert all(row["streams"] > 0 for row in rows)


def test_memory_counts_every_buffer_once(tmp_path):
    rows = {row["option"]: row for row in run("memory", tmp_path, "--bases", "adamw")["rows"]}
    expected = {
        "base": 8,
        "ftp": 16,
        "ftp-lean": 12,
        "digrap": 16,
        "ftp+digrap": 24,
        "tpgm": 12,
        "spd": 12,
        "pgm": 12,
        "l2-sp": 12,
        "ftp, bf16 anchor": 14,
        "digrap, bf16 anchor": 14,
        "base, bf16 parameters": 4,
        "ftp, bf16 parameters": 14,
        "digrap, bf16 parameters": 10,
    }
    assert rows.keys() == expected.keys()
    for option, row in rows.items():
        for count in ("shapes", "live_after_init", "live_after_step"):
            assert row[count] == pytest.approx(expected[option], abs=0.01), (option, count)


def test_scaling_is_linear_in_parameters(tmp_path):
    result = run("growth", tmp_path, "--methods", "ftp")
    assert {row["axis"] for row in result["rows"]} == {"parameters", "leaves", "devices"}
    for exponent in result["growth"]["bytes against parameters"].values():
        assert exponent == pytest.approx(1, abs=0.05)
    assert all(math.isfinite(row["start_over_base"]) for row in result["rows"])
    sharded = [row for row in result["rows"] if (row["axis"], row["value"]) == ("devices", 2)]
    on_two = {row["method"]: row["collectives"] for row in sharded}
    assert on_two["base"] == {}
    assert on_two["ftp"].keys() == {"all-reduce"}
    assert on_two["ftp"]["all-reduce"] <= 2


def test_train_step_counts_what_tpgm_pays_for(tmp_path):
    rows = {row["method"]: row for row in run("train", tmp_path, "--methods", "ftp", "tpgm")["rows"]}
    assert rows["base"]["flops_over_adamw"] == 1
    assert rows["tpgm"]["flops_over_adamw"] > 1.5 * rows["ftp"]["flops_over_adamw"]
    assert rows["ftp"]["over_tpgm"]["runs"] == 3


def test_the_figure_is_of_the_rows_and_an_unknown_part_is_refused(tmp_path):
    for part in (step.Options, train.Options, growth.Options):
        (tmp_path / f"{part.name}.json").write_bytes((writer.RESULTS / f"{part.name}.json").read_bytes())
        part(results=tmp_path, report=True).run()
        assert (tmp_path / f"{part.name}.png").stat().st_size > 10_000
    done = command("speed")
    assert done.returncode == 1
    assert "no part 'speed'; choose from step, train, " in done.stderr


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_site_shows_what_was_recorded(part):
    made = part.page(json.loads((writer.RESULTS / f"{part.name}.json").read_text()))
    assert (writer.RESULTS / f"{part.name}.md").read_text() == made
    site = "".join(page.read_text() for page in (BENCHMARKS.parent / "docs").glob("*.md"))
    assert f"results/{part.name}.md" in site


@pytest.mark.parametrize(("number", "text"), [(1, "1 core"), (2, "2 cores"), (1000, "1,000 cores")])
def test_one_thing_is_no_plural(number, text):
    assert writer.counted(number, "cores") == text


def test_the_page_says_how_ftp_compares_with_tpgm():
    rows = json.loads((writer.RESULTS / "train_step.json").read_text())["rows"]
    ratios = [row["over_tpgm"]["ratio"] for row in rows if row["method"] == "ftp"]
    assert len(ratios) >= 4
    text = (BENCHMARKS.parent / "docs/performance.md").read_text()
    assert f"Here FTP takes {min(ratios):.2f} to {max(ratios):.2f} of it" in text


def test_the_readme_tells_the_recorded_traffic():
    readme = (BENCHMARKS.parent / "README.md").read_text()
    rows = json.loads((BENCHMARKS / "results/step_time.json").read_text())["rows"]
    over = {row["method"]: row["bytes_over_base"] for row in rows if (row["tree"], row["base"]) == ("vit-b16", "adamw")}
    for shown, method in (("`ftp(inner)`", "ftp"), ("`chain(digrap(), inner)`", "digrap")):
        line = next(line for line in readme.splitlines() if line.startswith(f"| {shown}"))
        assert f"{over[method]:.1f}\N{MULTIPLICATION SIGN} AdamW's memory traffic" in line


def test_memory_of_the_job_is_that_of_its_live_buffers(tmp_path):
    rows = run("job-memory", tmp_path)["rows"]
    found = {(row["precision"], row["method"]): row for row in rows}
    plain, ftp = found["float32", "vanilla"], found["float32", "ftp"]
    assert plain["state_bytes"] == pytest.approx(2 * plain["parameter_bytes"], rel=0.01)
    assert ftp["state_bytes"] == pytest.approx(4 * ftp["parameter_bytes"], rel=0.05)
    assert found["float32, --remat", "ftp"]["kept_bytes"] < ftp["kept_bytes"]
    assert found["computed in bfloat16", "ftp"]["kept_bytes"] < ftp["kept_bytes"]
    assert (tmp_path / "job_memory.md").read_text().count("\n| ") == len({row["precision"] for row in rows}) + 1


def test_the_jobs_loop_is_timed_beside_a_plain_one(tmp_path):
    plain, ftp = run("job-speed", tmp_path)["rows"]
    assert (plain["loop"], ftp["loop"]) == ("plain optax loop", "ftp")
    assert plain["over_plain"]["ratio"] == 1
    assert 0 <= ftp["waiting"] <= 1
    assert "main job, ftp" in (tmp_path / "job_speed.md").read_text()


def test_a_mesh_shares_parameters_and_state_and_sends_the_sums_of_units_and_layers(tmp_path):
    rows = run("paper", tmp_path)["rows"]
    assert [(row["mesh"], row["method"]) for row in rows] == [
        (mesh, method) for mesh in ("8 x 1", "4 x 2") for method in ("base", "ftp", "ftp-lean", "digrap")
    ]
    for row in rows:  # norms are whole
        assert row["parameters"] / row["devices"] * 4 == pytest.approx(row["parameter_bytes"], rel=0.02)
        state = {"base": 2, "ftp": 4, "ftp-lean": 3, "digrap": 4}[row["method"]]
        assert row["state_bytes"] / row["parameter_bytes"] == pytest.approx(state, rel=0.01)
    # as docs/performance.md says, three or five numbers for each unit that is cut: columns of query, key, value, gate
    # and up in two layers, and tokens. Two or three more for each layer whose units lie apart: out and down
    units, apart = 2 * (3 * 128 + 2 * 256) + 512, 2 * 2
    sent = {row["method"]: row["bytes_sent"] / 4 for row in rows if row["mesh"] == "8 x 1"}
    exact = 3 * units + 2 * apart
    assert sent == {"base": 0, "ftp": exact, "ftp-lean": exact, "digrap": 5 * units + 3 * apart}
