"""Everything that docs/performance.md says, one benchmark after the other.

    python benchmarks/performance.py                         # all four, an hour and a half on a machine of its own
    python benchmarks/performance.py --only memory scaling   # some of them
    python benchmarks/performance.py --resume                # go on after an interruption
    python benchmarks/performance.py --smallest              # tiny sizes, in CI; its timings mean nothing

Each is a process of its own, since each sets up JAX in its own way (`scaling.py` has eight devices). Timings want the
machine for themselves.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import tyro

Part: TypeAlias = Literal["memory", "step_time", "train_step", "scaling"]
RESUMABLE: tuple[Part, ...] = ("step_time", "train_step")
HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the benchmarks of what a step costs, one after the other."""

    only: tuple[Part, ...] = get_args(Part)
    """Which of them."""

    results: Path = HERE / "results"
    """Where each writes its JSON and its figure."""

    resume: bool = False
    """Keep what an interrupted run measured, where a benchmark can."""

    smallest: bool = False
    """Tiny sizes and three rounds."""


def command(part: Part, options: Options) -> list[str]:
    """What runs one of them."""
    flags = ["--smallest"] * options.smallest + ["--resume"] * (options.resume and part in RESUMABLE)
    return [sys.executable, str(HERE / f"{part}.py"), "--results", str(options.results), *flags]


def main() -> None:
    """Runs them; ends with the first that fails."""
    options = tyro.cli(Options)
    for part in options.only:
        print(f"--- {part}", flush=True)
        if status := subprocess.run(command(part, options)).returncode:
            raise SystemExit(f"{part}.py ended with status {status}; once that is mended, --resume goes on from there.")


if __name__ == "__main__":
    main()
