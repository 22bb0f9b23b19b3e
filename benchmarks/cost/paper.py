"""What the methods cost on models and meshes that are not at hand, read off programs compiled from shapes alone.

Compiling the step of a 70B model on 512 host devices takes no more memory than any other. What a step sends between
devices are sums over the parts of a unit or of a layer that lie on several devices; anything else is an error.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cost import compiled, hlo, methods, trees
from cost.part import Part, Row

METHODS = (methods.BASE, "ftp", "ftp-lean", "digrap")
SMALL, LARGE = "small", ("7B", "70B")
MODELS = {
    SMALL: {"width": 128, "depth": 2, "hidden": 256, "heads": 8, "shared": 8, "tokens": 512},
    "7B": {"width": 4096, "depth": 32, "hidden": 11008, "heads": 32, "shared": 32, "tokens": 32000},
    "70B": {"width": 8192, "depth": 80, "hidden": 28672, "heads": 64, "shared": 8, "tokens": 32000},
}
MESHES = ("8 x 1", "8 x 8", "64 x 8")  # devices for FSDP and for tensor parallelism
SPECS = {  # the usual layout: what is as wide as the model over `fsdp`, heads, hidden units and tokens over `tensor`
    **dict.fromkeys(("query", "key", "value"), P(None, "fsdp", "tensor", None)),
    "out": P(None, "tensor", None, "fsdp"),
    **dict.fromkeys(("gate", "up"), P(None, "fsdp", "tensor")),
    "down": P(None, "tensor", "fsdp"),
    "tokens": P("tensor", "fsdp"),
}


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Compiles a step of 7B and 70B for every mesh; smallest is the small model alone."""

    name = "scale_on_paper"
    columns: ClassVar = {
        "on each device": lambda row: (
            f"{row['model']} on {row['devices']} ({row['mesh']}): {methods.label(row['method'])}"
        ),
        "weights, GB": lambda row: f"{row['parameter_bytes'] / 1e9:.3g}",
        "state, GB": lambda row: f"{row['state_bytes'] / 1e9:.3g}",
        "accessed, GB": lambda row: f"{row['bytes_accessed'] / 1e9:.3g}",
        "all-reduces": lambda row: str(row["all_reduces"]),
        "sent, MB": lambda row: f"{row['bytes_sent'] / 1e6:.3g}",
        "of weights": lambda row: f"{100 * row['bytes_sent'] / row['parameter_bytes']:.2f} %",
    }

    def prepare(self) -> None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 8 if self.smallest else 512)

    def plan(self) -> Iterable[tuple[str, str]]:
        large = [] if self.smallest else itertools.product(LARGE, MESHES)
        return (SMALL, "8 x 1"), (SMALL, "4 x 2"), *large

    def measure(self, model: str, mesh: str) -> list[Row]:
        params = placed(model, mesh)
        return [{"model": model, "mesh": mesh} | cost(method, params) for method in METHODS]

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """The large models."""
        return cls.table(row for row in result["rows"] if row["model"] in LARGE)


def placed(model: str, mesh: str) -> Any:
    """The shapes of a model's parameters on a mesh."""
    sizes = tuple(int(size) for size in mesh.split(" x "))
    axes: Any = {"devices": jax.devices()[: math.prod(sizes)], "axis_types": (AxisType.Auto,) * 2}
    devices = jax.make_mesh(sizes, ("fsdp", "tensor"), **axes)

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(devices, SPECS.get(path[-2].key, P()))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map_with_path(place, trees.decoder(**MODELS[model]))


def cost(method: str, params: Any) -> Row:
    """What one device holds, accesses and sends in a step."""
    step, held = compiled.compiled(methods.method(method), params), trees.size(params)
    collectives = hlo.collectives(step.program.as_text())
    reduces = collectives.pop("all-reduce", [])
    if collectives:
        raise SystemExit(f"A step of the optimizer alone has {', '.join(collectives)}; nothing but sums should travel.")
    return {
        "devices": len(jax.tree.leaves(params)[0].sharding.device_set),
        "method": method,
        "parameters": trees.count(params),
        "parameter_bytes": held,
        "state_bytes": trees.size(step.state),
        "bytes_accessed": step.bytes_accessed,
        "streams": step.bytes_accessed / held,
        "all_reduces": len(reduces),
        "bytes_sent": sum(reduces),
    }
