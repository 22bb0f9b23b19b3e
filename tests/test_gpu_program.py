"""The program for a GPU that is not there: reading it, and what the step of every method may cost in it.

The programs themselves need what ``pip install 'ftp_optax[gpu-program]'`` installs; CI has a job that does.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from measure import gpu

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "gpu_program.py"
TEXT = """HloModule jit_step, is_scheduled=true

%fused_add (a: f32[8,16], b: f32[8,16]) -> f32[8,16] {
  %a = f32[8,16]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %add = f32[8,16]{1,0} add(%a, %b)
}

%called (c: f32[8,16]) -> f32[8,16] {
  %c = f32[8,16]{1,0} parameter(0)
  ROOT %copy.1 = f32[8,16]{1,0} copy(%c), backend_config={"reification_cost":[{"exec_time_us":0.5}]}
}

ENTRY %main (x: f32[8,16], y: f32[8,16]) -> (f32[8,16], f32[8,16]) {
  %x = f32[8,16]{1,0} parameter(0)
  %y = f32[8,16]{1,0} parameter(1)
  %fusion = f32[8,16]{1,0} fusion(%x, %y), kind=kLoop, calls=%fused_add, backend_config={"x":{"exec_time_us":2.25}}
  %call = f32[8,16]{1,0} call(%fusion), to_apply=%called
  ROOT %tuple = (f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%fusion, %call)
}
"""


def test_a_program_is_its_kernels_with_those_of_called_computations():
    array = 4 * 8 * 16
    assert gpu.program(TEXT) == gpu.Program(kernels=2, traffic=5 * array, copied=array, expected=2.75)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[5]", 10),
        ("f32[]", 4),
        ("(f32[2]{0}, c64[3], pred[4])", 36),
        ("s8[0]", 0),
        ("token[]", 0),
    ],
)
def test_the_size_of_a_shape(shape, size):
    assert gpu.size(shape) == size


def test_a_program_without_kernels():
    assert gpu.program("ENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n") == (0, 0, 0, 0)


needs_plugin = pytest.mark.skipif(not gpu.available(), reason=f"gpu_program {gpu.MISSING}")


def rows_of(results: Path, *options: str) -> dict[str, dict[str, float]]:
    """What the command records, by method: in a process of its own, since its flags must be set before JAX is there."""
    command = [sys.executable, str(BENCHMARK), "--results", str(results), *options]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return {row["method"]: row for row in json.loads((results / "gpu_program.json").read_text())["rows"]}


@needs_plugin
def test_the_smallest_run(tmp_path):
    found = rows_of(tmp_path, "--smallest", "--trees", "decoder-1b", "--dtypes", "bfloat16")
    assert "ftp-lean" not in found
    assert all(row["kernels"] > 0 and row["expected_us"] > 0 for row in found.values())


@functools.cache
def full(results: Path) -> dict[str, dict[str, float]]:
    return rows_of(results, "--trees", "vit-b16", "--dtypes", "float32")


# expected time over adamw's, streams, kernels of adamw's 202, temporaries
LIMITS = {
    "ftp": (2.2, 15.2, 430, 0.05),
    "ftp-lean": (2.35, 16.2, 430, 0.05),
    "digrap": (2.2, 15.0, 440, 0.05),
    "digrap-lean": (2.2, 15.0, 440, 0.05),
    "pgm": (1.95, 13.1, 480, 0.05),
    "spd": (2.15, 14.1, 520, 0.05),
}


@needs_plugin
@pytest.mark.parametrize("method", LIMITS)
def test_what_a_step_may_cost(method, tmp_path_factory):
    found = full(tmp_path_factory.getbasetemp() / "gpu_program")
    time, streams, kernels, temporary = LIMITS[method]
    row = found[method]
    assert row["expected_us"] <= time * found["base"]["expected_us"]
    assert row["streams"] <= streams
    assert row["kernels"] <= kernels
    assert row["temporary"] <= temporary
    assert row["copies"] < 1e-3  # no array of a leaf
