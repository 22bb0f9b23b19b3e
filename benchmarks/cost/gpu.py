"""What one optimizer step costs on a GPU by XLA's own model, on a machine without one: kernels, traffic, memory, time.

The step is jitted and donated, `step(params, state, grads) -> (params, state)`, round adamw, and compiled for an H100
that XLA is told of and does not see. The extra `gpu-program` installs what that takes, JAX's plugin for CUDA and ptxas;
that there is no driver, as XLA says while it starts, does not matter.

The time is what XLA's performance model expects of every kernel; launches and copies are not counted. By it XLA decides
what to fuse, and adamw's is what the memory's bandwidth allows to 4 %. It is a model: measure on a GPU. Beside the
steps, what XLA makes of a step's sums over a matrix's columns, form by form.
"""

import dataclasses
import importlib.metadata
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies

import writer
from cost import compiled, hlo, methods, trees
from cost.trees import TREES, TreeName

Method = Literal["ftp", "ftp-lean", "digrap", "digrap-lean", "pgm", "spd", "l2-sp", "tpgm"]
Dtype = Literal["float32", "bfloat16"]
COLUMNS = ("step", "expected", "us", "streams", "kernels", "copies", "temporary")
SUMS_COLUMNS = ("form", "expected, us", "streams", "kernels")
CAPTION = (
    "Expected: the time that XLA's model expects, over adamw's. Streams: bytes read and written; copies; temporary: "
    "XLA's buffers beside arguments and results, all three over the parameters' size. " + methods.HELD_OUT
)

NAME = "NVIDIA H100 80GB HBM3"
_PLUGIN, _PTXAS = "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"
_H100 = f"""
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 9 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{NAME}"
"""


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Compiles every method's step for an H100 and says what the program costs."""

    trees: tuple[TreeName, ...] = TREES  # Models that give the parameters' shapes.
    methods: tuple[Method, ...] = get_args(Method)  # Methods round adamw.
    dtypes: tuple[Dtype, ...] = get_args(Dtype)  # Dtypes of the parameters; lean memory is for float32 alone.

    def run(self) -> None:
        """Compiles, then tabulates."""
        program, sums = (self.results / f"gpu_{name}.json" for name in ("program", "sums"))
        if not self.report:
            self._measure(program, sums)
        writer.write_page(sums, sums_page)
        writer.write_page(program, page)

    def _measure(self, program: Path, sums: Path) -> None:
        where = sharding()
        environment = writer.environment() | {"compiled_for": NAME}
        matrix = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=where)
        rows = [{"form": name, **_costs_of_sums(form, matrix)} for name, form in FORMS.items()]
        writer.write(sums, {"environment": environment, "shape": SHAPE, "rows": rows})
        steps, adamw = itertools.product(self.trees, self.dtypes, (methods.BASE, *self.methods)), methods.base("adamw")
        with writer.progress() as progress:
            rows = [
                {"tree": tree, "dtype": dtype, "method": name}
                | _costs(methods.method(name, adamw), _shapes(tree, dtype, self.smallest), where)
                for tree, dtype, name in progress.track([*steps])
                if (dtype, name) != ("bfloat16", "ftp-lean")
            ]
        writer.write(program, {"environment": environment, "held_out_loss": methods.HELD_OUT, "rows": rows})


def lacking() -> str:
    """What keeps this environment from compiling for a GPU, and the way out, in a line; empty if nothing does."""
    if absent := [name for name in (_PLUGIN, _PTXAS) if _version(name) is None]:
        return f"{' and '.join(absent)} missing, to compile for a GPU: pip install 'ftp_optax[gpu-program]'"
    if (plugin := _version(_PLUGIN)) != jax.__version__:
        return f"{_PLUGIN} {plugin} does not go with jax {jax.__version__}: pip install {_PLUGIN}=={jax.__version__}"
    return ""


def sharding() -> jax.sharding.Sharding:
    """Where the arrays of a program for the H100 lie.

    To be called before JAX computes anything: XLA reads its flags once. JAX itself is told to keep to the CPU, or it
    would look for a GPU.
    """
    if reason := lacking():
        raise SystemExit(reason)
    jax.config.update("jax_platforms", "cpu")
    ptxas = importlib.metadata.distribution(_PTXAS).locate_file("nvidia/cuda_nvcc")
    flags = f"--xla_gpu_cuda_data_dir={ptxas} --xla_gpu_collect_cost_model_stats=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    told = topologies.get_topology_desc("h100", "cuda", target_config=_H100, topology="1x1x1")
    return jax.sharding.SingleDeviceSharding(told.devices[0])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shapes(tree: TreeName, dtype: Dtype, smallest: bool) -> Any:
    """The parameters' shapes; a transformer's attention as Flax keeps it, with queries, keys and values apart."""
    sizes = {"vit-b16": (768, 12, 12), "vit-l16": (1024, 24, 16)}
    if tree in sizes:
        return trees.flax_vit(*((192, 1, 3) if smallest else sizes[tree]), dtype=dtype)
    return trees.tree(tree, smallest=smallest, dtype=dtype)


def _costs(tx: Any, params: Any, where: jax.sharding.Sharding) -> dict[str, Any]:
    """What the compiled step costs."""
    params, state = compiled.placed(tx, params, lambda shape: where)
    program, size = compiled.donated(tx).lower(params, state, params).compile(), trees.size(params)
    found, memory = hlo.program(program.as_text() or ""), program.memory_analysis()
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
    name = " ".join(key(row)) if row is base else row["method"]
    streams, copies, temporary = (f"{row[column]:.2f}" for column in ("streams", "copies", "temporary"))
    over = f"{row['expected_us'] / base['expected_us']:.2f}"
    return [name, over, f"{row['expected_us']:,.0f}", streams, f"{row['kernels']}", copies, temporary]


def page(result: dict[str, Any]) -> str:
    """All models by time, then one of them in full."""
    rows, versions = result["rows"], result["environment"]["versions"]
    cells = {(f"{row['tree']} {row['dtype']}", row["method"]): _cells(row, rows) for row in rows}
    cases, names = (list(dict.fromkeys(key)) for key in zip(*cells, strict=True))
    times = [[case, *(cells.get((case, name), ["", "-"])[1] for name in names)] for case in cases]
    full = [cells[cases[0], name] for name in names if (cases[0], name) in cells]
    return (
        f"{writer.markdown(('expected, over adamw', *names), times)}\n{writer.markdown(COLUMNS, full)}\n"
        f"{CAPTION} Compiled by jax {versions['jax']}, optax {versions['optax']}.\n"
    )


# a step's sums: products and absolute values over the elements of a unit

SHAPE = (3072, 768)
ROWS = 12


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


def _costs_of_sums(form: Callable[[jax.Array, jax.Array], Any], matrix: jax.ShapeDtypeStruct) -> dict[str, Any]:
    found = hlo.program(jax.jit(form).lower(matrix, matrix).compile().as_text() or "")
    return {"expected_us": found.expected, "streams": found.traffic / trees.size(matrix), "kernels": found.kernels}


def sums_page(result: dict[str, Any]) -> str:
    """A row a form."""
    cells = lambda row: [row["form"], f"{row['expected_us']:.1f}", f"{row['streams']:.1f}", str(row["kernels"])]
    return writer.markdown(SUMS_COLUMNS, [cells(row) for row in result["rows"]])
