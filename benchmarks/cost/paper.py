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


class Sums(NamedTuple):
    """How many float32 numbers travel in a step."""

    unit: int  # for each unit that is cut into parts
    units: int  # for each layer whose units lie on several devices


METHODS = (methods.BASE, "ftp", "ftp-lean", "digrap")
BUFFERS = {methods.BASE: 2, "ftp": 4, "ftp-lean": 3, "digrap": 4}  # float32 arrays like the parameters, adamw's too
UNITS = {"ftp": flax_units, "ftp-lean": flax_units, "digrap": flax_fibers}
SUMS = {
    # |c_i| before and after the step and <g_i, c_i>; the hyper-gradient and the greatest norm
    "ftp": Sums(3, 2),
    "ftp-lean": Sums(3, 2),  # the same
    # |g_i|, and |c_i| and <g_i, c_i> of the last displacement and of this one; the hyper-gradient, <g, c> and |c|
    "digrap": Sums(5, 3),
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
        return [{"model": model, "mesh": mesh} | checked(method, params) for method in METHODS]

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """The large models."""
        return cls.table(row for row in result["rows"] if row["model"] in LARGE)


def placed(model: str, mesh: str) -> Any:
    """The shapes of a model's parameters on a mesh."""
    sizes = [int(size) for size in mesh.split(" x ")]
    axes: Any = {"devices": jax.devices()[: math.prod(sizes)], "axis_types": (AxisType.Auto,) * 2}
    devices = jax.make_mesh(sizes, ("fsdp", "tensor"), **axes)

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(devices, SPECS.get(path[-2].key, P()))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map_with_path(place, trees.decoder(**MODELS[model]))


# the arithmetic


class Leaf(NamedTuple):
    """A parameter: its shape, and that of the part that one device holds."""

    path: str
    shape: tuple[int, ...]
    part: tuple[int, ...]

    @property
    def layers(self) -> int:
        """How many axes in front count layers."""
        return trees.layer_axes(self.path, self.shape)


def leaves(params: Any) -> list[Leaf]:
    """The parameters, in order."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    found = jax.tree.leaves_with_path(params)
    return [Leaf(name(path), leaf.shape, leaf.sharding.shard_shape(leaf.shape)) for path, leaf in found]


def parameters_on_one(params: Any) -> int:
    """Numbers of the parameters that one device holds."""
    return sum(math.prod(leaf.part) for leaf in leaves(params))


def state_on_one(method: str, params: Any) -> int:
    """Bytes of the optimizer's state that one device holds."""
    bytes_ = 4 * BUFFERS[method] * parameters_on_one(params) + 4  # and adamw's counter
    if method != methods.BASE:
        scalars = sum(math.prod(leaf.shape[: leaf.layers]) for leaf in leaves(params))  # radii or strengths
        arrays = 7 if method == "digrap" else 6  # the scalars and two moments, each as now and as init made it; scales
        bytes_ += 4 * arrays * scalars + 4 * len(leaves(params)) + 8  # numbers of layers, two counters
    return bytes_


def sent_by_one(method: str, params: Any) -> int:
    """Bytes that each device gives to all-reduces in a step of the optimizer."""
    if method == methods.BASE:
        return 0
    sums, numbers = SUMS[method], 0
    for leaf in leaves(params):
        depth = leaf.layers
        kept = [*range(depth), *(axis + depth for axis in UNITS[method](leaf.path, leaf.shape[depth:]))]
        cut = [axis for axis in range(len(leaf.shape)) if leaf.part[axis] < leaf.shape[axis]]
        if any(axis not in kept for axis in cut):
            numbers += sums.unit * math.prod(leaf.part[axis] for axis in kept)
        if any(axis in kept for axis in cut):
            numbers += sums.units * math.prod(leaf.shape[:depth])
    return 4 * numbers


# and the programs


def checked(method: str, params: Any) -> Row:
    """The arithmetic for one method, and what the program says with which it must agree."""
    held, state, bytes_sent = 4 * parameters_on_one(params), state_on_one(method, params), sent_by_one(method, params)
    step = compiled.compiled(methods.method(method, methods.base("adamw")), params)
    collectives = hlo.collectives(step.program.as_text())
    reduces = collectives.pop("all-reduce", [])
    for other in collectives:
        raise SystemExit(f"A step of the optimizer alone has an {other}; nothing but sums should travel.")
    _require_equal(f"{method}, bytes sent", bytes_sent, sum(reduces))
    _require_equal(f"{method}, bytes held", 2 * held + state, step.argument_bytes, 1e-3)  # the gradients too
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
