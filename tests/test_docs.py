"""The site tells the truth: its code runs from top to bottom, and the API page has every public name."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

import ftp_optax
from vision.config import Config
from vision.options import MethodOptions

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
# "python" runs; "{code-block} python" is for what cannot run here, such as torch
CODE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
PAGES = {path.stem: path.read_text() for path in [*sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md"]}


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if CODE.search(text)])
def test_code_runs(page, tmp_path, monkeypatch):
    """One namespace a page, as a reader would type it; lines keep their numbers, for the traceback."""
    monkeypatch.chdir(tmp_path)
    text, namespace = PAGES[page], {"__name__": page}
    for block in CODE.finditer(text):
        above = text[: block.start(1)].count("\n")
        exec(compile("\n" * above + block[1], f"{page}.md", "exec"), namespace)


@pytest.mark.parametrize("notebook", sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb")))
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    """At its smallest, from where it lies; what it shows in the repository is of its full size."""
    file = DOCS / "notebooks" / f"{notebook}.ipynb"
    assert file.stat().st_size < 1_000_000
    shown = nbformat.read(file, as_version=4)
    assert all(cell.execution_count for cell in shown.cells if cell.cell_type == "code"), "its outputs are kept"
    monkeypatch.setenv("SMALLEST", "1")
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    ran = NotebookClient(shown, timeout=1500, resources={"metadata": {"path": str(file.parent)}}).execute()
    kept = nbformat.read(file, as_version=4)
    for new, old in zip(ran.cells, kept.cells, strict=True):
        # pictures stay pictures, and values values; how many lines are printed depends on the size of the run
        kinds = lambda cell: {output.output_type for output in cell.get("outputs", [])}
        assert kinds(new) == kinds(old), new.source


def test_start_says_what_the_recorded_run_of_the_main_job_shows():
    """By the intervals of its first figure: above plain fine-tuning, below, or neither."""
    report = json.loads((ROOT / "benchmarks/results/digits.json").read_text())
    few, everything = report["summaries"]
    assert [(one["labels"], one["task"]["train_images"], len(one["seeds"])) for one in (few, everything)] == [
        ("30", 30, 5),
        ("all", 300, 5),
    ]
    released = Config()
    assert all(report["config"][f.name] == getattr(released, f.name) for f in dataclasses.fields(MethodOptions)[1:-1])

    def told(summary, name):
        (gain,) = (row["difference"] for row in summary["rows"] if row["name"] == name)
        panels = gain["id"], gain["ood_group_means"]["seen"], gain["ood_group_means"]["held out"]
        return "".join(
            "+" if p["mean"] > p["half_width"] else "-" if -p["mean"] > p["half_width"] else "0" for p in panels
        )

    better = {"pre-trained", "ftp", "vanilla + WiSE 0.5"}
    assert {name: told(few, name) for name in better} == dict.fromkeys(better, "+++")
    assert told(everything, "ftp") == "-00"
    assert told(everything, "vanilla + WiSE 0.5") == "-++"
    assert told(few, "digrap") == told(everything, "digrap") == "000"


def test_the_api_has_every_public_name_once_on_its_pages_and_in_their_summary():
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    documented = re.findall(r"^\.\. auto(?:function|class):: (\w+)", pages, flags=re.MULTILINE)
    summarised = re.findall(r"^   (\w+)$", PAGES["api"], flags=re.MULTILINE)
    assert sorted(documented) == sorted(summarised) == sorted(ftp_optax.__all__)


def test_the_citation_is_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ftp_optax.__version__
    papers = {paper["url"].rpartition("/")[2] for paper in citation["references"]}
    assert papers == {"2310.19182", "2502.15895"}
    assert all(paper in ftp_optax.ftp.__doc__ + ftp_optax.digrap.__doc__ for paper in papers)


def test_the_drawings_can_be_drawn_anew(tmp_path):
    """Every figure that the site shows, from its command; its text alone depends on the fonts that are there."""
    subprocess.run([sys.executable, DOCS / "draw.py", "--out", tmp_path], check=True, capture_output=True)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (DOCS / "figures").glob("*.svg")}
    assert all(file.stat().st_size > 5_000 for file in tmp_path.iterdir())


@pytest.mark.parametrize("module", sorted(path.name for path in (ROOT / "ftp_optax").glob("_[a-z]*.py")))
def test_contributing_lists_every_module(module):
    assert f"`{module}`" in PAGES["CONTRIBUTING"]
