"""Runs the tests of faults and hostile input, and counts what they did."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from reliability.job import ROOT

TESTS = {
    "properties": ("properties",),
    "faults": ("faults", "api_fuzz"),
    "files": ("torch_pickle", "weights", "folders", "hostile_files"),
}


def counted(part: str) -> dict[str, int]:
    """Runs a part's tests in one process; what they counted, or of properties the examples that hypothesis ran."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        environment = {**os.environ, "FTP_OPTAX_COUNTS": str(counts)}
        tests = [f"tests/test_{name}.py" for name in TESTS[part]]
        line = [sys.executable, "-m", "pytest", "-n", "0", "--hypothesis-show-statistics", *tests]
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout[-4000:] + done.stderr[-2000:])
        if part != "properties":
            return json.loads(counts.read_text())
    each = [int(n) for n in re.findall(r"(\d+) passing, 0 failing, and", done.stdout)]
    return {"properties": len(each), "examples": sum(each), "fewest_examples_of_one": min(each)}
