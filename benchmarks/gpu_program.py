"""What one optimizer step costs on a GPU by XLA's own model, on a machine without one: kernels, traffic, memory, time.

    python benchmarks/gpu_program.py                                        # everything, half an hour
    python benchmarks/gpu_program.py --trees vit-b16 --dtypes float32       # part of it, two minutes
    python benchmarks/gpu_program.py --smallest                             # tiny models

The step is jitted and donated, `step(params, state, grads) -> (params, state)`, round adamw, and compiled for an H100
that XLA is told of. The extra `gpu-program` installs what that takes; that there is no driver, as XLA says while it
starts, does not matter.

The time is what XLA's performance model expects of every kernel; launches and copies are not counted. By it XLA decides
what to fuse, and adamw's is what the memory's bandwidth allows to 4 %. It is a model: measure on a GPU.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import optax
import tyro

from measure import gpu, hlo, methods, report, step, trees
from measure.trees import TREES, TreeName

Method = Literal["ftp", "ftp-lean", "digrap", "digrap-lean", "pgm", "spd", "l2-sp", "tpgm"]
Dtype = Literal["float32", "bfloat16"]
COLUMNS = ("step", "expected", "us", "streams", "kernels", "copies", "temporary")
CAPTION = (
    "Expected: the time that XLA's model expects, over adamw's. Streams: bytes read and written; copies; temporary: "
    "XLA's buffers beside arguments and results, all three over the parameters' size. " + methods.HELD_OUT
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Compiles every method's step for an H100 and says what the program costs."""

    trees: tuple[TreeName, ...] = TREES
    """Models that give the parameters' shapes."""

    methods: tuple[Method, ...] = get_args(Method)
    """Methods round adamw."""

    dtypes: tuple[Dtype, ...] = get_args(Dtype)
    """Dtypes of the parameters; lean memory is for float32 alone."""

    results: Path = report.RESULTS
    """Where gpu_program.json and, for the docs, gpu_program.md are written."""

    smallest: bool = False
    """Narrow models of one block."""


def main() -> None:
    """Compiles, then tabulates."""
    options = tyro.cli(Options)
    where = gpu.sharding()
    cases = [*itertools.product(options.trees, options.dtypes)]
    names, adamw = (methods.BASE, *options.methods), methods.base("adamw")
    rows: list[dict[str, Any]] = []
    with report.progress() as progress:
        task = progress.add_task("", total=len(cases) * len(names))
        for tree, dtype in cases:
            params = _shapes(tree, dtype, options.smallest)
            for name in names:
                progress.update(task, description=f"{tree} {dtype} {name}")
                if not (name == "ftp-lean" and dtype != "float32"):
                    found = _costs(methods.method(name, adamw), params, where)
                    rows.append({"tree": tree, "dtype": dtype, "method": name, **found})
                progress.advance(task)
    environment = report.environment() | {"compiled_for": gpu.NAME}
    path = options.results / "gpu_program.json"
    report.write(path, {"environment": environment, "held_out_loss": methods.HELD_OUT, "rows": rows})
    report.write_page(path, page)
    groups = [[_cells(row, rows) for row in rows if (row["tree"], row["dtype"]) == case] for case in cases]
    report.print_table("An optimizer step on an H100, by XLA's model", CAPTION, COLUMNS, groups)


def _shapes(tree: TreeName, dtype: Dtype, smallest: bool) -> Any:
    """The parameters' shapes; a transformer's attention as Flax keeps it, with queries, keys and values apart."""
    sizes = {"vit-b16": (768, 12, 12), "vit-l16": (1024, 24, 16)}
    if tree in ("vit-b16", "vit-l16"):
        return trees.flax_vit(*((192, 1, 3) if smallest else sizes[tree]), dtype=dtype)
    return trees.tree(tree, smallest=smallest, dtype=dtype)


def _costs(tx: optax.GradientTransformation, params: Any, where: jax.sharding.Sharding) -> dict[str, Any]:
    """One row: what the compiled step costs."""
    params, state = step.placed(tx, params, lambda shape: where)
    compiled, size = step.donated(tx).lower(params, state, params).compile(), trees.size(params)
    found, memory = hlo.program(compiled.as_text() or ""), compiled.memory_analysis()
    return {
        "leaves": len(jax.tree.leaves(params)),
        "parameters": trees.count(params),
        "kernels": found.kernels,
        "expected_us": found.expected,
        "streams": found.traffic / size,
        "copies": found.copied / size,
        "temporary": memory.temp_size_in_bytes / size,
        "donated": memory.alias_size_in_bytes / size,
    }


def _cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """A row's cells, over those of adamw in the same tree and dtype."""
    key = lambda one: (one["tree"], one["dtype"])
    base = next(one for one in rows if key(one) == key(row) and one["method"] == methods.BASE)
    name = f"{row['tree']} {row['dtype']}" if row is base else f"  {row['method']}"
    numbers = (row["streams"], row["copies"], row["temporary"])
    streams, copies, temporary = (f"{number:.2f}" for number in numbers)
    kernels, expected = f"{row['kernels']}", f"{row['expected_us']:,.0f}"
    over = f"{row['expected_us'] / base['expected_us']:.2f}"
    return [name, over, expected, streams, kernels, copies, temporary]


def page(result: dict[str, Any]) -> str:
    """The recorded tables for the site: all models by time, then one of them in full."""
    rows, versions = result["rows"], result["environment"]["versions"]
    cases = list(dict.fromkeys((row["tree"], row["dtype"]) for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["tree"], row["dtype"], row["method"]): _cells(row, rows) for row in rows}
    times = [
        [" ".join(case), *(cells[*case, name][1] if (*case, name) in cells else "-" for name in names)]
        for case in cases
    ]
    full = [cells[*cases[0], name] for name in names if (*cases[0], name) in cells]
    return (
        f"{report.markdown(('expected, over adamw', *names), times)}\n"
        f"{report.markdown(COLUMNS, full)}\n"
        f"{CAPTION} Compiled by jax {versions['jax']}, optax {versions['optax']}.\n"
    )


if __name__ == "__main__":
    main()
