"""What one optimizer step costs on a GPU by XLA's own model, on a machine without one: kernels, traffic, memory, time.

The step is round adamw, and compiled for an H100 that XLA is told of and does not see. The extra `gpu-program` installs
JAX's plugin for CUDA and ptxas, which that takes. XLA says that there is no driver, which does not matter.

The time is what XLA's performance model expects of every kernel, by which it decides what to fuse; launches and copies
are not counted. It is a model: measure on a GPU. Beside the steps, a step's sums over a matrix's columns, form by form.
"""

import dataclasses
import functools
import importlib.metadata
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies

import writer
from cost import compiled, hlo, methods, trees
from cost.part import Part, Row, distinct
from cost.trees import TREES, TreeName

Method = Literal["ftp", "ftp-lean", "digrap", "digrap-lean", "pgm", "spd", "l2-sp", "tpgm"]
Dtype = Literal["float32", "bfloat16"]
CAPTION = (
    "Expected: the time that XLA's model expects, over adamw's. Streams: bytes read and written; copies; temporary: "
    "XLA's buffers beside arguments and results, all three over the parameters' size. tpgm's held-out loss is a "
    "quadratic in the parameters here, nearly free; its real cost, one more forward and backward pass in every step, "
    "is not in these figures."
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
class Sums(Part):
    """Compiles a step's sums over a matrix's columns, form by form."""

    name = "gpu_sums"
    columns: ClassVar = {
        "form": lambda row: row["form"],
        "expected, us": lambda row: f"{row['expected_us']:.1f}",
        "streams": lambda row: f"{row['streams']:.1f}",
        "kernels": lambda row: str(row["kernels"]),
    }

    def prepare(self) -> None:
        sharding()

    def plan(self) -> Iterable[tuple[str, ...]]:
        return ((form,) for form in FORMS)

    def measure(self, form: str) -> list[Row]:
        matrix = jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=sharding())
        found = hlo.program(jax.jit(FORMS[form]).lower(matrix, matrix).compile().as_text() or "")
        streams = found.traffic / trees.size(matrix)
        return [{"form": form, "expected_us": found.expected, "streams": streams, "kernels": found.kernels}]

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"compiled_for": NAME, "shape": SHAPE}

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        return cls.table(result["rows"])


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Compiles every method's step for an H100 and says what the program costs."""

    trees: tuple[TreeName, ...] = TREES  # Models that give the parameters' shapes.
    methods: tuple[Method, ...] = get_args(Method)  # Methods round adamw.
    dtypes: tuple[Dtype, ...] = get_args(Dtype)  # Dtypes of the parameters; lean memory is for float32 alone.

    name = "gpu_program"
    columns: ClassVar = {
        "step": lambda row: methods.label(row["method"], f"{row['tree']} {row['dtype']}"),
        "expected": lambda row: f"{row['over']:.2f}",
        "us": lambda row: f"{row['expected_us']:,.0f}",
        "streams": lambda row: f"{row['streams']:.2f}",
        "kernels": lambda row: str(row["kernels"]),
        "copies": lambda row: f"{row['copies']:.2f}",
        "temporary": lambda row: f"{row['temporary']:.2f}",
    }

    def run(self) -> None:
        """The sums first."""
        Sums(self.results, self.report, self.smallest).run()
        super().run()

    def prepare(self) -> None:
        sharding()

    def plan(self) -> Iterable[tuple[str, ...]]:
        steps = itertools.product(self.trees, self.dtypes, (methods.BASE, *self.methods))
        return (step for step in steps if step[1:] != ("bfloat16", "ftp-lean"))

    def measure(self, tree: TreeName, dtype: Dtype, method: str) -> list[Row]:
        shapes = trees.tree(tree, smallest=self.smallest, dtype=dtype)
        params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding()), shapes)
        step, size = compiled.compiled(methods.method(method), params), trees.size(params)
        found = hlo.program(step.program.as_text() or "")
        costs = {
            "leaves": len(jax.tree.leaves(params)),
            "parameters": trees.count(params),
            "kernels": found.kernels,
            "expected_us": found.expected,
            "streams": found.traffic / size,
            "copies": found.copied / size,
            "temporary": step.memory.temp_size_in_bytes / size,
        }
        return [{"tree": tree, "dtype": dtype, "method": method} | costs]

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"compiled_for": NAME}

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """All models by time, then one of them in full."""
        cases: dict[str, dict[str, Row]] = {}
        for row in result["rows"]:
            case = cases.setdefault(f"{row['tree']} {row['dtype']}", {})
            base = case.setdefault(methods.BASE, row)  # the first of its case
            case[row["method"]] = row | {"over": row["expected_us"] / base["expected_us"]}
        names, versions = distinct(result["rows"], "method"), result["environment"]["versions"]
        over = lambda rows, name: f"{rows[name]['over']:.2f}" if name in rows else "-"
        times = [[case, *(over(rows, name) for name in names)] for case, rows in cases.items()]
        full = cls.table(next(iter(cases.values())).values())
        return (
            f"{writer.markdown(('expected, over adamw', *names), times)}\n{full}\n"
            f"{CAPTION} Compiled by jax {versions['jax']}, optax {versions['optax']}.\n"
        )


def lacking() -> str:
    """What keeps this environment from compiling for a GPU, and the way out, in a line; empty if nothing does."""
    if absent := [name for name in (_PLUGIN, _PTXAS) if _version(name) is None]:
        return f"{' and '.join(absent)} missing, to compile for a GPU: pip install 'ftp_optax[gpu-program]'"
    if (plugin := _version(_PLUGIN)) != jax.__version__:
        return f"{_PLUGIN} {plugin} does not go with jax {jax.__version__}: pip install {_PLUGIN}=={jax.__version__}"
    return ""


@functools.cache
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
