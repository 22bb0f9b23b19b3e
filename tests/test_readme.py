"""The README tells the truth: its code runs, its commands are CI's, its links lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def test_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """One namespace for all blocks, as a reader would type them."""
    monkeypatch.chdir(ROOT / "examples")
    namespace = {}
    for text in blocks("python"):
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


def test_it_is_short():
    """At most 130 lines and 700 words of prose, and no interval outside of tables."""
    assert len(README.splitlines()) <= 130
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert len(re.sub(r"\]\([^)]*\)", "]", "\n".join(lines)).split()) <= 700
    assert "±" not in "".join(lines)
