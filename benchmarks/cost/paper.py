"""What the methods would cost on models and meshes that are not at hand: arithmetic, checked against compiled programs.

Bytes of state follow from shapes and shardings, and so does what a step sends between devices: sums over the parts of
a unit or of a layer that lie on several devices. Every figure is checked against a compiled step, of a small model of
the same layout on eight host devices and of the large ones on as many as they ask for: compiled from shapes alone, the
step of a 70B model on 512 devices takes no more memory than any other. Where they differ, the command fails.
"""

import dataclasses
import math
import re
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import writer
from cost import compiled, methods, trees
from ftp_optax import flax_fibers, flax_units, state_shardings

METHODS = (methods.BASE, "ftp", "ftp-lean", "digrap")
BUFFERS = {methods.BASE: 2, "ftp": 4, "ftp-lean": 3, "digrap": 4}  # float32 arrays like the parameters, adamw's too
UNITS = {"ftp": flax_units, "ftp-lean": flax_units, "digrap": flax_fibers}
_DTYPE_BYTES = {"f32": 4, "s32": 4, "pred": 1}


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Writes the arithmetic down for 7B and 70B and checks it; smallest is the check on small models alone."""

    def run(self) -> None:
        """Checks the law, then applies it."""
        path = self.results / "scale_on_paper.json"
        if not self.report:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", 8 if self.smallest else 512)
            cases = [_case(mesh, "small", **SMALL) for mesh in ((8, 1), (4, 2))]
            cases += [] if self.smallest else [_case(m, name, **s) for name, s in LARGE.items() for m in MESHES]
            with writer.progress() as progress:
                rows = [_row(name, case) for case in progress.track(cases) for name in METHODS]
            writer.write(path, {"environment": writer.environment(), "rows": rows})
        writer.write_page(path, page)


class Case(NamedTuple):
    """A model on a mesh with so many devices along its axis for FSDP, and so many along that for tensor parallelism."""

    model: str
    shapes: Any
    fsdp: int
    tensor: int

    @property
    def devices(self) -> int:
        return self.fsdp * self.tensor


class Sums(NamedTuple):
    """How many float32 numbers travel in a step."""

    unit: int  # for each unit that is cut into parts
    units: int  # for each layer whose units lie on several devices


SUMS = {
    # |c_i| before and after the step and <g_i, c_i>; the hyper-gradient and the greatest norm
    "ftp": Sums(3, 2),
    "ftp-lean": Sums(3, 2),  # the same
    # |g_i|, and |c_i| and <g_i, c_i> of the last displacement and of this one; the hyper-gradient, <g, c> and |c|
    "digrap": Sums(5, 3),
}
SMALL = {"width": 128, "depth": 2, "hidden": 256, "heads": 8, "shared": 8, "tokens": 512}
LARGE = {
    "7B": {"width": 4096, "depth": 32, "hidden": 11008, "heads": 32, "shared": 32, "tokens": 32000},
    "70B": {"width": 8192, "depth": 80, "hidden": 28672, "heads": 64, "shared": 8, "tokens": 32000},
}
MESHES = ((8, 1), (8, 8), (64, 8))
SPECS = {  # the usual layout: what is as wide as the model over `fsdp`, heads, hidden units and tokens over `tensor`
    **dict.fromkeys(("query", "key", "value"), P(None, "fsdp", "tensor", None)),
    "out": P(None, "tensor", None, "fsdp"),
    **dict.fromkeys(("gate", "up"), P(None, "fsdp", "tensor")),
    "down": P(None, "tensor", "fsdp"),
    "tokens": P("tensor", "fsdp"),
}


def _case(mesh: tuple[int, int], model: str, **sizes: int) -> Case:
    return Case(model, trees.decoder(**sizes), *mesh)


# the arithmetic


def _leaves(case: Case) -> list[tuple[str, tuple[int, ...], P]]:
    """Path, shape and spec of every parameter."""
    found = jax.tree.leaves_with_path(case.shapes)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    spec = lambda path, ndim: P(*(*SPECS.get(path.split("/")[-2], P()), *[None] * ndim)[:ndim])
    return [(p, leaf.shape, spec(p, leaf.ndim)) for p, (_, leaf) in zip(paths, found, strict=True)]


def _cut(case: Case, axis: str | None) -> int:
    return {"fsdp": case.fsdp, "tensor": case.tensor, None: 1}[axis]


def parameters_on_one(case: Case) -> int:
    """Numbers of the parameters that one device holds."""
    return sum(math.prod(shape) // math.prod(_cut(case, axis) for axis in spec) for _, shape, spec in _leaves(case))


def scalars(case: Case) -> int:
    """Radii or strengths: one for each layer of each parameter."""
    return sum(shape[0] if trees.layer_axes(path, shape) else 1 for path, shape, _ in _leaves(case))


def state_on_one(method: str, case: Case) -> int:
    """Bytes of the optimizer's state that one device holds."""
    bytes_ = 4 * BUFFERS[method] * parameters_on_one(case) + 4  # and adamw's counter
    if method != methods.BASE:
        arrays = 7 if method == "digrap" else 6  # the scalars and two moments, each as now and as init made it; scales
        bytes_ += 4 * arrays * scalars(case) + 4 * len(_leaves(case)) + 8  # numbers of layers, two counters
    return bytes_


def sent_by_one(method: str, case: Case) -> int:
    """Bytes that each device gives to all-reduces in a step of the optimizer."""
    if method == methods.BASE:
        return 0
    sums, numbers = SUMS[method], 0
    for path, shape, spec in _leaves(case):
        depth = trees.layer_axes(path, shape)
        kept = [*range(depth), *(a + depth for a in UNITS[method](path, shape[depth:]))]
        cut = [axis for axis in range(len(shape)) if _cut(case, spec[axis]) > 1]
        if any(axis not in kept for axis in cut):
            numbers += sums.unit * math.prod(shape[a] // _cut(case, spec[a]) for a in kept)
        if any(axis in kept for axis in cut):
            numbers += sums.units * math.prod(shape[:depth])
    return 4 * numbers


# the programs


def program_of(method: str, case: Case) -> Any:
    """The step of the optimizer alone, compiled for that many host devices out of shapes."""
    tx = methods.method(method, optax.adamw(1e-3))
    axes: Any = {"devices": jax.devices()[: case.devices], "axis_types": (AxisType.Auto,) * 2}
    mesh = jax.make_mesh((case.fsdp, case.tensor), ("fsdp", "tensor"), **axes)
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    specs = [NamedSharding(mesh, spec) for _, _, spec in _leaves(case)]
    params = jax.tree.map(place, case.shapes, jax.tree.unflatten(jax.tree.structure(case.shapes), specs))
    state = jax.tree.map(place, jax.eval_shape(tx.init, params), state_shardings(tx, params))
    places = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    return compiled.donated(tx, places).lower(params, state, params).compile()


def sent(program: Any) -> tuple[int, int]:
    """The number of all-reduces, and the bytes that each device gives to them; anything else is refused."""
    text = program.as_text()
    if other := re.search(r" (all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(", text):
        raise SystemExit(f"A step of the optimizer alone has an {other[1]}; nothing but sums should travel.")
    lines = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    shapes = [shape for line in lines for shape in re.findall(r"(\w+)\[([\d,]*)\]", line)]
    return len(lines), sum(_DTYPE_BYTES[t] * math.prod(int(n) for n in dims.split(",") if n) for t, dims in shapes)


def _require_equal(what: str, predicted: float, found: float, within: float = 0.0) -> None:
    if not math.isclose(predicted, found, rel_tol=within):
        raise SystemExit(f"{what}: the arithmetic says {predicted}, the compiled program {found}.")


def _row(method: str, case: Case) -> dict[str, Any]:
    """The arithmetic for one method on one case, and the program that it must agree with."""
    params, state = 4 * parameters_on_one(case), state_on_one(method, case)
    bytes_sent = sent_by_one(method, case)
    program = program_of(method, case)
    reduces, found = sent(program)
    where = f"{method}, {case.model} on {case.devices}"
    _require_equal(f"{where}, bytes sent", bytes_sent, found)
    arguments = 2 * params + state  # parameters, gradients, state
    _require_equal(f"{where}, bytes held", arguments, program.memory_analysis().argument_size_in_bytes, 1e-3)
    return {
        "model": case.model,
        "devices": case.devices,
        "mesh": f"{case.fsdp} x {case.tensor}",
        "method": method,
        "parameters": trees.count(case.shapes),
        "parameter_bytes": params,
        "state_bytes": state,
        "bytes_accessed": program.cost_analysis()["bytes accessed"],
        "streams": program.cost_analysis()["bytes accessed"] / params,
        "all_reduces": reduces,
        "bytes_sent": bytes_sent,
    }


COLUMNS = ("on each device", "weights, GB", "state, GB", "accessed, GB", "all-reduces", "sent, MB", "of weights")


def page(result: dict[str, Any]) -> str:
    """The large models."""
    return writer.markdown(COLUMNS, [_cells(row) for row in result["rows"] if row["model"] in LARGE])


def _cells(row: dict[str, Any]) -> list[str]:
    gigabytes = [f"{row[key] / 1e9:.3g}" for key in ("parameter_bytes", "state_bytes", "bytes_accessed")]
    label = "adamw" if row["method"] == methods.BASE else row["method"]
    place = f"{row['model']} on {row['devices']} ({row['mesh']})"
    share = f"{100 * row['bytes_sent'] / row['parameter_bytes']:.2f} %"
    return [f"{place}: {label}", *gigabytes, str(row["all_reduces"]), f"{row['bytes_sent'] / 1e6:.3g}", share]
