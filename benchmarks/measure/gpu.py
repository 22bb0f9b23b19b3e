"""The program that XLA makes for a GPU that it is only told of, on a machine without one.

XLA needs a description of the device, the assembler and NVIDIA's bitcode library; no driver. `prepare` must be called
before JAX is imported. What comes out is the program that would run: its kernels, what each of them reads and writes,
what is copied. The time is what XLA's own performance model expects of each kernel; launches are not counted. By that
model XLA decides what to fuse, and it knows of reductions with too few blocks. It is a model: measure on a GPU.
"""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MISSING = "needs a plugin of JAX's own version and NVIDIA's assembler: pip install 'ftp_optax[gpu-program]'"
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

_BYTES = {"f64": 8, "s64": 8, "u64": 8, "c64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s8": 1, "u8": 1}
_BYTES["pred"] = 1
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}  # nothing runs for them
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")


def available() -> bool:
    """Whether all that the compiler needs is installed."""
    return importlib.util.find_spec("jax_cuda12_plugin") is not None and _assembler() is not None


def _assembler() -> Path | None:
    """Where NVIDIA's assembler and bitcode library are."""
    nvidia = importlib.util.find_spec("nvidia")
    places = [Path(place, "cuda_nvcc") for place in (nvidia.submodule_search_locations or ())] if nvidia else []
    return next((place for place in places if (place / "bin/ptxas").exists()), None)


def prepare() -> None:
    """Sets what the compiler reads from the environment.

    Raises:
      SystemExit: if something is not installed.
    """
    if not available():
        raise SystemExit(f"gpu_program: {MISSING}")
    place = _assembler()
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # the plugin must register without CUDA's runtime
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["PATH"] = f"{place}/bin:{os.environ['PATH']}"
    flags = f"--xla_gpu_cuda_data_dir={place} --xla_gpu_collect_cost_model_stats=true"
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def device() -> Any:
    """An H100 that is not there.

    Raises:
      SystemExit: if JAX does not take the plugin, which has to be of its own version.
    """
    import jax._src.xla_bridge as bridge
    from jax.experimental import topologies

    known = bridge.canonicalize_platform

    def canonicalize(name: str) -> str:  # without a GPU JAX does not know "cuda" for a platform
        try:
            return known(name)
        except RuntimeError:
            return "cuda"

    bridge.canonicalize_platform = canonicalize
    try:
        return topologies.get_topology_desc("h100", platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    except Exception as error:  # the plugin's own, of several kinds
        raise SystemExit(f"gpu_program: {MISSING} ({error})") from None


class Program(NamedTuple):
    """A compiled program: the number of its kernels, bytes they read and write, bytes copied, expected microseconds."""

    kernels: int
    traffic: int
    copied: int
    expected: float


def program(text: str) -> Program:
    """What the text of a compiled program says."""
    parts: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = found[2]
            parts[current] = []
            entry = current if found[1] else entry
        elif current and line.startswith("  "):
            parts[current].append(line)
    rows = [*_kernels(parts, entry)]
    return Program(len(rows), sum(row[0] for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows))


def _kernels(parts: dict[str, list[str]], name: str) -> Iterator[tuple[int, int, float]]:
    """The traffic, bytes copied and expected time of every kernel, those of called computations among them."""
    sizes: dict[str, int] = {}
    for line in parts[name]:
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        result, shape, operation, rest = found.groups()
        sizes[result] = size(shape)
        if operation in _FREE:
            continue
        called = re.search(r"to_apply=%?([\w.\-]+)", line)
        if operation in ("call", "conditional") and called:
            yield from _kernels(parts, called[1])
            continue
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        time = re.search(r'"exec_time_us":([\d.e+-]+)', line)
        traffic = sizes[result] + sum(sizes.get(operand, 0) for operand in operands)
        yield traffic, sizes[result] * operation.startswith("copy"), float(time[1]) if time else 0.0


def size(shape: str) -> int:
    """The bytes of a shape as XLA writes it, such as ``(f32[2,3]{1,0}, pred[])``."""
    total = 0
    for kind, dimensions in re.findall(r"\b(" + "|".join(_BYTES) + r")\[([0-9,]*)\]", shape):
        numbers = _BYTES[kind]
        for length in dimensions.split(","):
            numbers *= int(length or 1)
        total += numbers
    return total
