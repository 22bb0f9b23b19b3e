"""Runs the tests of faults and hostile input, and counts what they did."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROPERTIES = ("tests/test_properties.py",)
FAULTS = ("tests/test_faults.py", "tests/test_api_fuzz.py")
FILES = ("tests/test_torch_pickle.py", "tests/test_weights.py", "tests/test_folders.py", "tests/test_hostile_files.py")


def properties() -> dict[str, int]:
    """The properties, and the examples that hypothesis ran of them."""
    printed, _ = _run(PROPERTIES, "--hypothesis-show-statistics")
    each = [int(n) for n in re.findall(r"(\d+) passing, 0 failing, and", printed)]
    return {"properties": len(each), "examples": sum(each), "fewest_examples_of_one": min(each)}


def faults() -> dict[str, int]:
    """The faults injected and the wrong calls refused."""
    return _run(FAULTS)[1]


def files() -> dict[str, int]:
    """The bad files tried, by kind."""
    return _run(FILES)[1]


def _run(tests: tuple[str, ...], *flags: str) -> tuple[str, dict[str, int]]:
    """Runs tests in one process; what they printed and what they counted."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        environment = {**os.environ, "FTP_OPTAX_COUNTS": str(counts)}
        line = [sys.executable, "-m", "pytest", "-n", "0", *flags, *tests]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout[-4000:] + done.stderr[-2000:])
        return done.stdout, json.loads(counts.read_text())
