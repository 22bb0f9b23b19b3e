"""The arithmetic of docs/scale.md agrees with compiled programs; the command fails where it does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks/scale_on_paper.py"


def test_arithmetic_agrees_with_the_programs_of_a_small_model(tmp_path):
    command = [sys.executable, BENCHMARK, "--smallest", "--results", tmp_path]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rows = json.loads((tmp_path / "scale_on_paper.json").read_text())["rows"]
    assert [(row["mesh"], row["method"]) for row in rows] == [
        (mesh, method) for mesh in ("8 x 1", "4 x 2") for method in ("base", "ftp", "ftp-lean", "digrap")
    ]
    for row in rows:
        assert row["parameters"] / row["devices"] * 4 == pytest.approx(
            row["parameter_bytes"], rel=0.02
        )  # norms are whole
        assert (row["bytes_sent"] == 0) == (row["method"] == "base")


def test_an_error_in_the_arithmetic_is_found(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARK.parent)
    import scale_on_paper

    case = scale_on_paper._case((8, 1), "small", **scale_on_paper.SMALL)
    monkeypatch.setitem(scale_on_paper.SUMS, "ftp", scale_on_paper.Sums(2, 2, 0))
    with pytest.raises(SystemExit, match="bytes sent: the arithmetic says"):
        scale_on_paper._row("ftp", case)
