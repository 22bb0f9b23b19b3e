"""The program for a GPU that is not there: reading it, and what the step of every method may cost in it.

The programs themselves need what ``pip install 'ftp_optax[gpu-program]'`` installs; CI has a job that does.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cost import gpu, hlo, methods, trees

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
TEXT = """\
HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%fused_reduce (param_0: f32[768,64], param_1: f32[768,64]) -> f32[8,64] {
  %param_0 = f32[768,64]{1,0} parameter(0)
  %param_1 = f32[768,64]{1,0} parameter(1)
  %multiply.1 = f32[768,64]{1,0} multiply(%param_0, %param_1)
  ROOT %reduce.1 = f32[8,64]{1,0} reduce(%multiply.1), dimensions={0}, to_apply=%add
}

%graph (param_0.1: f32[8,64], param_1.1: f32[768,64]) -> (f32[768,64], f32[64]) {
  %param_0.1 = f32[8,64]{1,0} parameter(0)
  %param_1.1 = f32[768,64]{1,0} parameter(1)
  %input_reduce_fusion = f32[64]{0} fusion(%param_0.1), kind=kInput, calls=%fused, backend_config={"exec_time_us":1}
  %copy.7 = f32[768,64]{1,0} copy(%param_1.1), metadata={scheduling_name="copy.7"}
  ROOT %tuple.1 = (f32[768,64]{1,0}, f32[64]{0}) tuple(%copy.7, %input_reduce_fusion)
}

ENTRY %main.9 (params__w__.1: f32[768,64], grads__w__.1: f32[768,64], count.1: s32[]) -> (f32[768,64], bf16[64]) {
  %params__w__.1 = f32[768,64]{1,0} parameter(0), sharding={replicated}, metadata={op_name="params[\\'w\\']"}
  %grads__w__.1 = f32[768,64]{1,0} parameter(1), sharding={replicated}
  %count.1 = s32[] parameter(2)
  %reduce_fusion = f32[8,64]{1,0} fusion(%params__w__.1, %grads__w__.1), kind=kInput, calls=%fused_reduce, \
backend_config={"reification_cost":[{"end_to_end_cycles":9.5,"exec_time_us":2.5,"compute_time_us":1,"name":""},\
{"end_to_end_cycles":0,"exec_time_us":7.5,"compute_time_us":0,"name":"sol"}]}
  %call = (f32[768,64]{1,0}, f32[64]{0}) call(%reduce_fusion, %params__w__.1), to_apply=%graph, metadata={}
  %get-tuple-element.1 = f32[64]{0} get-tuple-element(%call), index=1
  %loop_fusion = (bf16[64]{0}, /*index=1*/pred[]) fusion(%get-tuple-element.1, %count.1), kind=kLoop, calls=%f, \
backend_config={"reification_cost":[{"exec_time_us":1.5e-02}]}
  %get-tuple-element.2 = bf16[64]{0} get-tuple-element(%loop_fusion), index=0
  ROOT %tuple.2 = (f32[768,64]{1,0}, bf16[64]{0}) tuple(%params__w__.1, %get-tuple-element.2)
}
"""


def test_a_program_is_its_kernels_with_those_of_called_computations():
    matrix, rows, vector = 4 * 768 * 64, 4 * 8 * 64, 4 * 64
    reduce, second, copy, loop = 2 * matrix + rows, rows + vector, 2 * matrix, vector + 4 + 64 * 2 + 1
    found = hlo.program(TEXT)
    assert found.expected == pytest.approx(2.5 + 1 + 0.015)  # nothing is expected of the copy
    assert found[:3] == (4, reduce + second + copy + loop, matrix)


def test_a_computation_that_is_fused_is_not_launched_by_itself():
    computations, entry = hlo.parsed(TEXT)
    assert entry == "main.9"
    assert [line.opcode for line in computations["fused_reduce"]] == ["parameter", "parameter", "multiply", "reduce"]
    assert computations["main.9"][3].operands == ["params__w__.1", "grads__w__.1"]


@pytest.mark.parametrize("opcode", ["while", "conditional", "copy-start"])
def test_what_the_text_does_not_tell_is_refused(opcode):
    with pytest.raises(ValueError, match=f"%call: .* what a {opcode} runs"):
        hlo.program(TEXT.replace(" call(", f" {opcode}("))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[5]", 10),
        ("f32[]", 4),
        ("(f32[2]{0}, /*index=1*/c64[3], pred[4])", 36),
        ("s8[0]", 0),
        ("token[]", 0),
        ("()", 0),
    ],
)
def test_the_size_of_a_shape(shape, size):
    assert hlo.size(shape) == size


def test_a_program_without_kernels():
    assert hlo.program("ENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n") == (0, 0, 0, 0)


def test_the_transformer_is_that_of_flax():
    vit = trees.tree("vit-b16")
    assert len(jax.tree.leaves(vit)) == 200
    assert trees.count(vit) == 86_567_656


PLUGIN, PTXAS = "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        ({}, rf"^{PLUGIN} and {PTXAS} missing, .*: pip install 'ftp_optax\[gpu-program\]'$"),
        ({PLUGIN: jax.__version__}, f"^{PTXAS} missing"),
        (
            {PLUGIN: "0.1", PTXAS: "12"},
            f"^{PLUGIN} 0.1 does not go with jax .*: pip install {PLUGIN}=={jax.__version__}$",
        ),
        ({PLUGIN: jax.__version__, PTXAS: "12"}, "^$"),
    ],
)
def test_what_is_lacking_is_said_in_a_line(monkeypatch, installed, reason):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert re.search(reason, gpu.lacking())


@pytest.mark.skipif(not gpu.lacking(), reason="nothing is lacking")
def test_the_command_ends_with_what_is_lacking(tmp_path):
    command = [sys.executable, BENCHMARKS / "cost.py", "gpu", "--results", tmp_path]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == f"{gpu.lacking()}\n"


@pytest.mark.parametrize("part", [gpu.Options, gpu.Sums], ids=lambda part: part.name)
def test_the_site_shows_what_was_recorded(part):
    recorded = json.loads((BENCHMARKS / f"results/{part.name}.json").read_text())
    assert (BENCHMARKS / f"results/{part.name}.md").read_text() == part.page(recorded)
    assert f"results/{part.name}.md" in (ROOT / "docs/performance.md").read_text()


needs_plugin = pytest.mark.skipif(bool(gpu.lacking()), reason=gpu.lacking())


def rows_of(results, *options):
    """What a command records: in a process of its own, since XLA's flags must be set before JAX computes anything."""
    subprocess.run([sys.executable, BENCHMARKS / "cost.py", "gpu", "--results", results, *options], check=True)
    return json.loads((results / "gpu_program.json").read_text())["rows"]


@needs_plugin
def test_the_smallest_run(tmp_path):
    rows = rows_of(tmp_path, "--smallest", "--trees", "decoder-1b", "--methods", "ftp-lean", "l2-sp")
    found = {(row["dtype"], row["method"]): row for row in rows}
    assert found.keys() == {
        *(("float32", method) for method in ("base", "ftp-lean", "l2-sp")),
        *(("bfloat16", method) for method in ("base", "l2-sp")),
    }
    for dtype in ("float32", "bfloat16"):  # adamw's seven streams and the anchor
        assert found[dtype, "base"]["streams"] == pytest.approx(7, abs=0.1)
        assert found[dtype, "l2-sp"]["streams"] == pytest.approx(8, abs=0.1)
    assert "| decoder-1b bfloat16 | 1.00 | - | 1.1" in (tmp_path / "gpu_program.md").read_text()


# expected time over adamw's, streams, kernels of adamw's 202, temporaries
LIMITS = {
    "ftp": (2.2, 15.2, 430, 0.05),
    "ftp-lean": (2.35, 16.2, 430, 0.05),
    "digrap": (2.2, 15.0, 440, 0.05),
    "digrap-lean": (2.2, 15.0, 440, 0.05),
    "pgm": (1.95, 13.1, 480, 0.05),
    "spd": (2.15, 14.1, 520, 0.05),
}


@pytest.fixture(scope="module")
def on_a_vit(tmp_path_factory):
    """The rows of all methods, round adamw in float32; and of the sums."""
    options, folder = (
        ("--trees", "vit-b16", "--dtypes", "float32", "--methods", *LIMITS),
        tmp_path_factory.mktemp("gpu"),
    )
    steps, sums = rows_of(folder, *options), json.loads((folder / "gpu_sums.json").read_text())["rows"]
    return {row["method"]: row for row in steps} | {row["form"]: row["expected_us"] for row in sums}


@needs_plugin
def test_adamw_is_at_the_memory_bus(on_a_vit):
    adamw = on_a_vit[methods.BASE]
    bandwidth = 3_352_320  # bytes a microsecond
    assert adamw["expected_us"] == pytest.approx(adamw["streams"] * 4 * adamw["parameters"] / bandwidth, rel=0.05)


@needs_plugin
@pytest.mark.parametrize("method", LIMITS)
def test_what_a_step_may_cost(method, on_a_vit):
    time, streams, kernels, temporary = LIMITS[method]
    row = on_a_vit[method]
    assert row["expected_us"] <= time * on_a_vit[methods.BASE]["expected_us"]
    assert row["streams"] <= streams
    assert row["kernels"] <= kernels
    assert row["temporary"] <= temporary
    assert row["copies"] < 1e-3  # no array of a leaf


@needs_plugin
def test_sums_are_as_the_site_says(on_a_vit):
    found = on_a_vit
    assert found["in two stages, no barrier"] == pytest.approx(found["one sum"])
    assert found["in two stages"] < found["one sum"] / 4
    assert found["two sums"] > 4 * found["one sum"]
    assert found["as one complex number, in two stages"] < found["two sums"] / 8
    assert found["stacked, in two stages"] < found["two sums"] / 7
    assert found["three, stacked, in two stages"] < found["three sums"] / 7
