"""What XLA makes of sums over a matrix's columns on a GPU, form by form, on a machine without one; in seconds.

    python benchmarks/gpu_sums.py

The sums are those of a step: of products and absolute values over the elements of a unit. The times are XLA's
expectation; `gpu_program.py` says what that is and what it takes.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax import lax

from measure import gpu, hlo, report, trees

SHAPE = (3072, 768)
ROWS = 12
COLUMNS = ("form", "expected, us", "streams", "kernels")


def _staged(x: jax.Array) -> jax.Array:
    """The sums in two stages: of rows, kept in memory by a barrier, and of what they come to."""
    return lax.optimization_barrier(_row_sums(x)).sum(-2)


def _row_sums(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], ROWS, -1, x.shape[-1]).sum(-2)


FORMS: dict[str, Callable[[jax.Array, jax.Array], Any]] = {
    "one sum": lambda g, c: jnp.abs(c).sum(0),
    "in two stages, no barrier": lambda g, c: _row_sums(jnp.abs(c)).sum(0),
    "in two stages": lambda g, c: _staged(jnp.abs(c)),
    "two sums": lambda g, c: ((g * c).sum(0), jnp.abs(c).sum(0)),
    "stacked, in two stages": lambda g, c: _staged(jnp.stack([g * c, jnp.abs(c)])),
    "as one complex number": lambda g, c: lax.complex(g * c, jnp.abs(c)).sum(0),
    "as one complex number, in two stages": lambda g, c: _staged(lax.complex(g * c, jnp.abs(c))),
    "three sums": lambda g, c: ((g * c).sum(0), jnp.abs(c).sum(0), jnp.abs(g).sum(0)),
    "three, stacked, in two stages": lambda g, c: _staged(jnp.stack([g * c, jnp.abs(c), jnp.abs(g)])),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compiles each form of the sums for an H100 and says what it costs."""

    results: Path = report.RESULTS
    """Where gpu_sums.json and, for the docs, gpu_sums.md are written."""


def main() -> None:
    """Compiles, then tabulates."""
    options = tyro.cli(Options)
    matrix = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=gpu.sharding())
    rows = [{"form": name, **_costs(form, matrix)} for name, form in FORMS.items()]
    path = options.results / "gpu_sums.json"
    environment = report.environment() | {"compiled_for": gpu.NAME}
    report.write(path, {"environment": environment, "shape": SHAPE, "rows": rows})
    report.write_page(path, page)
    title = f"Sums over the columns of {SHAPE[0]} x {SHAPE[1]}, by XLA's model"
    report.print_table(title, "", COLUMNS, [[_cells(row) for row in rows]])


def _costs(form: Callable[[jax.Array, jax.Array], Any], matrix: jax.ShapeDtypeStruct) -> dict[str, Any]:
    found = hlo.program(jax.jit(form).lower(matrix, matrix).compile().as_text() or "")
    return {"expected_us": found.expected, "streams": found.traffic / trees.size(matrix), "kernels": found.kernels}


def page(result: dict[str, Any]) -> str:
    """What the site shows."""
    return report.markdown(COLUMNS, [_cells(row) for row in result["rows"]])


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["form"], f"{row['expected_us']:.1f}", f"{row['streams']:.1f}", str(row["kernels"])]


if __name__ == "__main__":
    main()
