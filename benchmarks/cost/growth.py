"""How the cost of a step grows with parameters, leaves and devices, and compile time with leaves.

What to expect: bytes and time linear in the parameters, an exponent of 1; time and compile time no worse than linear in
the leaves; on a mesh an equal share of the bytes for every device, no all-gather. The devices are the host's, which it
can have as many of as one likes: bytes and collectives are those of real ones, times are not and are not told.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import style
from cost import compiled, methods, trees
from cost.methods import MethodName
from cost.part import Part, Row
from style import plt
from writer import counted


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Measures how the cost of methods round adamw grows."""

    methods: tuple[MethodName, ...] = ("ftp", "digrap")  # Methods to compare with adamw alone.
    # Numbers of parameters, in 20 leaves.
    parameters: tuple[int, ...] = (10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8, 3 * 10**8, 10**9)
    leaves: tuple[int, ...] = (10, 30, 100, 300, 600, 1000, 2000)  # Numbers of leaves, of 10 M parameters in all.
    # Numbers of devices, at most 8, that 12 leaves of 4 M parameters in all are sharded over.
    devices: tuple[int, ...] = (1, 2, 4, 8)
    runs: int = 20  # Rounds; each runs adamw and the method once.

    name = "scaling"
    at_smallest: ClassVar = {"parameters": (10**4, 10**5), "leaves": (4, 12), "devices": (1, 2), "runs": 3}
    columns: ClassVar = {
        "": lambda row: f"{counted(row['value'], row['axis'])}: {row['method']}",
        "streams": lambda row: f"{row['streams']:.1f}",
        "temporary": lambda row: f"{row['temporary']:.3f}",
        "start, s": lambda row: f"{row['start_seconds']:.2f}",
        "over adamw's": lambda row: f"{row['start_over_base']:.1f}",
        "collectives": lambda row: ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "-",
    }

    def prepare(self) -> None:
        jax.config.update("jax_num_cpu_devices", 8)

    def plan(self) -> Iterable[tuple[Any, ...]]:
        return ((axis, value) for axis in ("parameters", "leaves", "devices") for value in getattr(self, axis))

    def measure(self, axis: str, value: int) -> list[Row]:
        fixed = 10**5 if self.smallest else 10**7
        shapes = {
            "parameters": lambda: trees.dense(value, 20),
            "leaves": lambda: trees.dense(fixed, value),
            "devices": lambda: _sharded(trees.dense(4 * fixed // 10, 12), value),
        }[axis]()
        rows = compiled.over_base(shapes, "adamw", self.methods, runs=0 if axis == "devices" else self.runs)
        return [{"axis": axis, "value": value} | row for row in rows]

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"growth": growth(rows)}

    @classmethod
    def table(cls, rows: Iterable[Row], left: int = 1) -> str:
        """The methods alone."""
        return super().table((row for row in rows if row["method"] != methods.BASE), left)

    @staticmethod
    def draw(result: dict[str, Any], path: Path) -> None:
        """A panel for each quantity, both axes logarithmic."""
        figure, panels = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
        for panel, (_, axis, read, title, scale) in zip(panels.flat, QUANTITIES, strict=True):
            series = _series(result["rows"], axis, read)
            for method, (xs, ys) in series.items():
                panel.loglog(xs, scale * np.asarray(ys), lw=1.2, label=methods.label(method), **style.of(method))
            xs, ys = series[methods.BASE]
            panel.loglog(xs, scale * ys[0] * np.divide(xs, xs[0]), color="#888888", lw=0.8, ls=":", label="linear")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.set_title(title, fontsize=10)
            style.label(panel, axis, "")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        style.save(figure, path)


def _sharded(shapes: Any, count: int) -> Any:
    """Matrices sharded over that many host devices by their first axis; all else replicated."""
    mesh = jax.make_mesh((count,), ("shard",), devices=jax.devices("cpu")[:count])
    place = lambda s: NamedSharding(mesh, PartitionSpec("shard") if len(s.shape) == 2 else PartitionSpec())
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place(s)), shapes)


_bytes = lambda row: row["bytes_accessed"]
_seconds = lambda row: row["time_over_base"] and row["time_over_base"]["seconds"]
_start = lambda row: row["start_seconds"]
QUANTITIES = (  # what grows, with what, how a row says it, and its title and scale in the figure
    ("bytes", "parameters", _bytes, "MB accessed in a step", 1e-6),
    ("time", "parameters", _seconds, "ms a step", 1e3),
    ("time", "leaves", _seconds, "ms a step", 1e3),
    ("start", "leaves", _start, "CPU seconds to trace and compile", 1),
)


def _series(rows: Sequence[dict[str, Any]], axis: str, read: Any) -> dict[str, tuple[list[float], list[float]]]:
    """By method: what grows and the quantity, where it was measured."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if row["axis"] == axis and (found := read(row)) is not None:
            xs, ys = series.setdefault(row["method"], ([], []))
            xs.append(row["parameters"] if axis == "parameters" else row["value"])
            ys.append(found)
    return series


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The least-squares exponents of power laws, by quantity and method."""
    found: dict[str, dict[str, float]] = {}
    for name, axis, read, *_ in QUANTITIES:
        for method, (xs, ys) in _series(rows, axis, read).items():
            if len(xs) > 1:
                found.setdefault(f"{name} against {axis}", {})[method] = float(np.polyfit(np.log(xs), np.log(ys), 1)[0])
    return found
