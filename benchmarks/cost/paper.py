"""What the methods would cost on models and meshes that are not at hand: arithmetic, checked against compiled programs.

Bytes of state follow from shapes and shardings, and so does what a step sends between devices: sums over the parts of
a unit or of a layer that lie on several devices. Every figure is checked against a compiled step, of a small model of
the same layout on eight host devices and of the large ones on as many as they ask for: compiled from shapes alone, the
step of a 70B model on 512 devices takes no more memory than any other. Where they differ, the command fails.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cost import compiled, hlo, methods, trees
from cost.part import Part, Row
from ftp_optax import flax_fibers, flax_units


class Law(NamedTuple):
    """What a method holds and sends beside the parameters."""

    buffers: int  # float32 arrays like the parameters, adamw's two among them
    scalars: int  # arrays of learned scalars: these and two moments, each as now and as init made it; digrap's scales
    units: Any
    unit: int  # float32 numbers that travel for each unit that is cut into parts
    layer: int  # and for each layer whose units lie on several devices


LAWS = {
    # |c_i| before and after the step and <g_i, c_i>; the hyper-gradient and the greatest norm
    "ftp": Law(4, 6, flax_units, 3, 2),
    "ftp-lean": Law(3, 6, flax_units, 3, 2),
    # |g_i|, and |c_i| and <g_i, c_i> of the last displacement and of this one; the hyper-gradient, <g, c> and |c|
    "digrap": Law(4, 7, flax_fibers, 5, 3),
}
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
    """Writes the arithmetic down for 7B and 70B and checks it; smallest is the check on small models alone."""

    name = "scale_on_paper"
    key = ("model", "mesh")
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
        return [{"model": model, "mesh": mesh} | checked(method, params) for method in (methods.BASE, *LAWS)]

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


def arithmetic(method: str, params: Any) -> tuple[int, int, int]:
    """Bytes of the parameters and of the state that one device holds, and bytes that it gives to all-reduces."""
    leaves, law = jax.tree.leaves_with_path(params), LAWS.get(method)
    held, scalars, sent = 0, 0, 0
    for keys, leaf in leaves:
        path, part = jax.tree_util.keystr(keys, simple=True, separator="/"), leaf.sharding.shard_shape(leaf.shape)
        depth = trees.layer_axes(path, leaf.shape)
        held += math.prod(part)
        scalars += math.prod(leaf.shape[:depth])
        if law is not None:
            kept = [*range(depth), *(axis + depth for axis in law.units(path, leaf.shape[depth:]))]
            cut = [axis for axis in range(leaf.ndim) if part[axis] < leaf.shape[axis]]
            if any(axis not in kept for axis in cut):
                sent += law.unit * math.prod(part[axis] for axis in kept)
            if any(axis in kept for axis in cut):
                sent += law.layer * math.prod(leaf.shape[:depth])
    if law is None:  # adamw's moments and counter
        return 4 * held, 2 * 4 * held + 4, 0
    # with adamw's counter, a number of layers for each leaf, and two counters
    return 4 * held, 4 * (law.buffers * held + 1 + law.scalars * scalars + len(leaves) + 2), 4 * sent


def checked(method: str, params: Any) -> Row:
    """The arithmetic for one method, and what the program says with which it must agree."""
    held, state, bytes_sent = arithmetic(method, params)
    step = compiled.compiled(methods.method(method), params)
    collectives = hlo.collectives(step.program.as_text())
    reduces = collectives.pop("all-reduce", [])
    for other in collectives:
        raise SystemExit(f"A step of the optimizer alone has an {other}; nothing but sums should travel.")
    _require_equal(f"{method}, bytes sent", bytes_sent, sum(reduces))
    with_gradients = 2 * held + state
    _require_equal(f"{method}, bytes held", with_gradients, step.memory.argument_size_in_bytes, 1e-3)
    return {
        "devices": len(jax.tree.leaves(params)[0].sharding.device_set),
        "method": method,
        "parameters": trees.count(params),
        "parameter_bytes": held,
        "state_bytes": state,
        "bytes_accessed": step.bytes_accessed,
        "streams": step.bytes_accessed / held,
        "all_reduces": len(reduces),
        "bytes_sent": bytes_sent,
    }


def _require_equal(what: str, predicted: float, found: float, within: float = 0.0) -> None:
    if not math.isclose(predicted, found, rel_tol=within):
        raise SystemExit(f"{what}: the arithmetic says {predicted}, the compiled program {found}.")
