"""What the library and the main job survive: the counts of docs/reliability.md.

    python benchmarks/reliability.py                     # everything, about an hour on two cores
    python benchmarks/reliability.py --parts kills long  # some of it; the rest of the results stays
    python benchmarks/reliability.py --smallest --results DIR

Every part raises when what it asserts does not hold, so that a number in the results is one that held.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

import writer as report
from reliability import counts, crashes, disks, long_run

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the reliability checks and writes their counts."""

    parts: tuple[str, ...] = ("properties", "faults", "files", "kills", "disks", "long")  # Which of them.
    kills: int = 20  # SIGKILLs.
    steps: int = 100_000  # Steps of the long run.
    results: Path = ROOT / "benchmarks" / "results"  # Where reliability.json is written.
    smallest: bool = False  # One kill and a long run of a minute, without the tests, which CI runs anyway.


def kills(options: Options) -> dict[str, Any]:
    """Every run that was killed must have ended with the bits of the one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        found = crashes.survive(Path(folder), 1 if options.smallest else options.kills)
    assert found["runs_that_ended_with_the_same_bits"] == found["runs"], found
    return found


def disk(options: Options) -> dict[str, Any]:
    """A disk that is full and a directory that is read-only: one line, and the last checkpoint intact."""
    with tempfile.TemporaryDirectory() as folder:
        return disks.survive(Path(folder), smallest=options.smallest)


def long(options: Options) -> dict[str, Any]:
    """Float32 and bfloat16, on one device and on two; then past the last int32."""
    steps = 2_000 if options.smallest else options.steps
    size = long_run.Size(steps, chunk=max(steps // 100, 100))
    dtypes = (jnp.float32,) if options.smallest else (jnp.float32, jnp.bfloat16)
    rows = [long_run.compare(dtype, size) for dtype in dtypes]
    counters = long_run.past_the_last_count(dataclasses.replace(size, chunk=200))
    Console().print_json(json.dumps([rows, counters]))  # before they are judged: they took long
    for row in rows:
        long_run.require(row)
    long_run.require_counters(counters)
    return {"rows": rows, "counters": counters}


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "properties": lambda _: counts.properties(),
    "faults": lambda _: counts.faults(),
    "files": lambda _: counts.files(),
    "kills": kills,
    "disks": disk,
    "long": long,
}


def main() -> None:
    """Runs the parts one after the other, and writes each as it is done."""
    options = tyro.cli(Options)
    if options.smallest:  # most of it is compilation; unoptimised programs are ready in a tenth of the time
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    path = options.results / "reliability.json"
    options.results.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in [p for p in options.parts if not (options.smallest and p in ("properties", "faults", "files"))]:
        Console().print(f"{part} ...")
        found[part] = PARTS[part](options)
        Console().print_json(json.dumps(found[part]))
        report.write(path, {**found, "environment": report.environment()})


if __name__ == "__main__":
    main()
