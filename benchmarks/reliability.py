"""What the library and the main job survive: the counts of docs/reliability.md.

    python benchmarks/reliability.py                     # everything, about an hour on two cores
    python benchmarks/reliability.py --parts kills long  # some of it; the rest of the results stays
    python benchmarks/reliability.py --smallest --results DIR

Every part raises when what it asserts does not hold, so that a number in the results is one that held.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

import writer
from reliability import counts, crashes, disks, long_run


@dataclass(frozen=True)
class Options:
    """Runs the reliability checks and writes their counts."""

    parts: tuple[str, ...] = (*counts.TESTS, "kills", "disks", "long")  # Which of them.
    results: Path = writer.RESULTS  # Where reliability.json is written.
    smallest: bool = False  # One kill and a long run of a minute, without the tests, which CI runs anyway.

    def run(self, part: str) -> dict[str, Any]:
        """What a part found."""
        if part in counts.TESTS:
            return counts.counted(part)
        if part == "long":
            return long_run.survive(smallest=self.smallest)
        with tempfile.TemporaryDirectory() as folder:
            if part == "disks":
                return disks.survive(Path(folder), smallest=self.smallest)
            return crashes.survive(Path(folder), 1 if self.smallest else 20)


def main() -> None:
    """Runs the parts one after the other, and writes each as it is done."""
    options = tyro.cli(Options)
    if options.smallest:  # most of it is compilation; unoptimised programs are ready in a tenth of the time
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    path = options.results / "reliability.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in options.parts:
        if options.smallest and part in counts.TESTS:
            continue
        Console().print(f"{part} ...")
        found[part] = options.run(part)
        Console().print_json(json.dumps(found[part]))
        writer.write(path, {**found, "environment": writer.environment()})


if __name__ == "__main__":
    main()
