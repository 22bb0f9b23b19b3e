"""What every benchmark leaves behind: the environment, JSON, and tables as Markdown."""

import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.markdown import Markdown

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Recorded:
    """The options of every part of what is recorded."""

    results: Path = RESULTS  # Where rows, table and figure are written.
    report: bool = False  # Measure nothing; make table and figure of the rows that are there.
    smallest: bool = False  # Tiny sizes and few rounds; timings mean nothing.


def run_part(package: str, modules: Mapping[str, str], about: str | None) -> None:
    """Runs the part that the command line names first: `Options` of its module, with the other arguments."""
    part, *flags = sys.argv[1:] or ["--help"]
    if part not in modules:
        print(about)
        raise SystemExit(part != "--help" and f"no part {part!r}; choose from {', '.join(modules)}")
    options = importlib.import_module(f"{package}.{modules[part]}").Options
    tyro.cli(options, args=flags, prog=f"{package}.py {part}").run()


def environment() -> dict[str, Any]:
    """Where the figures come from: device, driver, precision and versions."""
    device, info = jax.devices()[0], Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return {
        "backend": device.platform,
        "device_kind": device.device_kind,
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "processor_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": jax.device_count(),
        "driver": device.client.platform_version,
        "precision": {
            "parameters": "float32",
            "matmul": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore[reportAttributeAccessIssue]
            "x64": jax.config.jax_enable_x64,  # pyright: ignore[reportAttributeAccessIssue]
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax", "ftp_optax")},
    }


def origin(environment: dict[str, Any]) -> str:
    """The machine that figures were measured on, in a line."""
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("jax", "optax"))
    device = environment["processor"] if environment["backend"] == "cpu" else environment["device_kind"]
    return f"On {device}, {counted(environment['processor_cores'], 'cores')}; {versions}; float32.\n"


def counted(number: int, things: str) -> str:
    """`1 core`, `2 cores`, `1,000 leaves`."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def write(path: Path, result: dict[str, Any]) -> None:
    """Writes the figures as JSON, to four significant digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(result, 4), indent=1, ensure_ascii=False) + "\n")


def show(path: Path, text: str) -> None:
    """Writes Markdown and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    Console(width=None if sys.stdout.isatty() else 160).print(Markdown(text))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first columns are flush left."""
    lines = [columns, ["---"] * left + ["---:"] * (len(columns) - left), *rows]
    return "".join(f"| {' | '.join(cell.strip() for cell in line)} |\n" for line in lines)


def rounded(value: Any, digits: int) -> Any:
    """All numbers of some data to so many significant digits."""
    if isinstance(value, Mapping):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(entry, digits) for entry in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
