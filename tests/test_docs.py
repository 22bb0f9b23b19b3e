"""The site tells the truth: its code runs from top to bottom, and the API page has every public name."""

import pathlib
import re

import pytest

import ftp_optax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
# ```python runs; ```{code-block} is for what cannot run here, such as torch
CODE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if CODE.search(text)])
def test_code_runs(page, tmp_path, monkeypatch):
    """One namespace a page, as a reader would type it; lines keep their numbers, for the traceback."""
    monkeypatch.chdir(tmp_path)
    text, namespace = PAGES[page], {}
    for block in CODE.finditer(text):
        above = text[: block.start(1)].count("\n")
        exec(compile("\n" * above + block[1], f"docs/{page}.md", "exec"), namespace)


def test_the_api_page_has_every_public_name():
    documented = re.findall(r"^\.\. auto(?:function|class):: (\w+)", PAGES["api"], flags=re.MULTILINE)
    assert sorted(documented) == sorted(ftp_optax.__all__)
