"""How the cost of a step grows with parameters, leaves and devices, and compile time with leaves.

    python benchmarks/scaling.py                     # 1 M to 1,000 M parameters, 10 to 2,000 leaves, 1 to 8 devices
    python benchmarks/scaling.py --leaves 100 600    # part of it
    python benchmarks/scaling.py --smallest          # tiny sizes; its timings mean nothing

What to expect: bytes and time linear in the parameters, an exponent of 1; time and compile time no worse than linear in
the leaves; on a mesh an equal share of the bytes for every device, no all-gather. The devices are the host's, which it
can have as many of as one likes: bytes and collectives are those of real ones, times are not and are not told.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from measure import methods, report, step, style, timing, trees
from measure.methods import MethodName

CAPTION = (
    "Time and start (tracing and compiling, from cold, CPU time): medians, over adamw's, measured in turn. "
    "Streams: bytes accessed over the parameters' size; temporary: XLA's buffers, likewise; on a mesh, of each device. "
    "-: not run."
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures how the cost of methods round adamw grows."""

    methods: tuple[MethodName, ...] = ("ftp", "digrap")
    """Methods to compare with adamw alone."""

    parameters: tuple[int, ...] = (10**6, 3 * 10**6, 10**7, 3 * 10**7, 10**8, 3 * 10**8, 10**9)
    """Numbers of parameters, in 20 leaves."""

    leaves: tuple[int, ...] = (10, 30, 100, 300, 600, 1000, 2000)
    """Numbers of leaves, of 10 M parameters in all."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices, at most 8, that 12 leaves of 4 M parameters in all are sharded over."""

    runs: int = 20
    """Rounds; each runs adamw and the method once."""

    compiles: int = 3
    """How often the steps for each number of leaves up to 600 are compiled, in turn; for more leaves once."""

    memory_gb: float | None = None
    """Run what fits into this much memory, analyse the rest; by default 0.6 of the device's."""

    results: Path = report.RESULTS
    """Where scaling.json and scaling.png are written."""

    smallest: bool = False
    """A few small sizes and three rounds."""

    def reduced(self) -> "Options":
        """What `smallest` measures."""
        sizes: Any = {"parameters": (10**4, 10**5), "leaves": (4, 12), "devices": (1, 2)}
        return dataclasses.replace(self, **sizes, runs=3, compiles=1)


@dataclasses.dataclass(frozen=True)
class Case:
    """One tree to measure."""

    axis: str  # what grows
    value: int
    shapes: Any
    compiles: int = 1
    placement: step.Placement | None = None


def main() -> None:
    """Measures, then tabulates and draws."""
    jax.config.update("jax_num_cpu_devices", 8)
    options = tyro.cli(Options)
    options = options.reduced() if options.smallest else options
    cases, rows = _cases(options), []
    step.compiled(methods.base("adamw"), trees.dense(10**4, 2))  # the first compilation of a process is slow
    with report.progress() as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.value:,} {case.axis}")
            rows += _measure(case, options)
            progress.advance(task)
    growth = _growth(rows)
    path = options.results / "scaling.json"
    report.write(path, {"environment": report.environment(), "growth": growth, "rows": rows})
    report.write_page(path, page)
    _print(rows, growth)
    _draw(rows, options.results / "scaling.png")


def _cases(options: Options) -> list[Case]:
    """All trees, by what grows."""
    fixed = 10**5 if options.smallest else 10**7
    return [
        *(Case("parameters", n, trees.dense(n, 20)) for n in options.parameters),
        *(Case("leaves", n, trees.dense(fixed, n), options.compiles if n <= 600 else 1) for n in options.leaves),
        *(Case("devices", n, trees.dense(4 * fixed // 10, 12), 1, _sharded(n)) for n in options.devices),
    ]


def _sharded(count: int) -> step.Placement:
    """Matrices are sharded over that many host devices by their first axis; all else is replicated."""
    mesh = jax.make_mesh((count,), ("shard",), devices=jax.devices("cpu")[:count])
    return lambda shape: NamedSharding(mesh, PartitionSpec("shard") if len(shape) == 2 else PartitionSpec())


def _measure(case: Case, options: Options) -> list[dict[str, Any]]:
    """One row for adamw and one for each method."""
    inner = methods.base("adamw")
    names = (methods.BASE, *options.methods)
    starts: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, step.Step] = {}
    for _ in range(case.compiles):
        for name in names:
            found[name] = step.compiled(methods.method(name, inner), case.shapes, case.placement, cold=True)
            starts[name].append(found[name].costs.startup_seconds)
    start = {name: statistics.median(seconds) for name, seconds in starts.items()}
    base, size = found[methods.BASE], trees.size(case.shapes) / (case.value if case.axis == "devices" else 1)
    limit = 0.0 if case.axis == "devices" else step.memory_limit(options.memory_gb)
    rows = []
    for name, other in found.items():
        time = timing.compare(base, other, options.runs, limit)
        row: dict[str, Any] = {"axis": case.axis, "value": case.value, "method": name}
        row |= {"parameters": trees.count(case.shapes), "leaves": len(jax.tree.leaves(case.shapes))}
        row |= {"bytes_accessed": other.costs.bytes_accessed, "streams": other.costs.bytes_accessed / size}
        row |= {"temporary": other.costs.temporary_bytes / size, "collectives": other.costs.collectives}
        row |= {"start_seconds": start[name], "start_over_base": start[name] / start[methods.BASE]}
        row |= {"all_start_seconds": starts[name], "time_over_base": time and dataclasses.asdict(time)}
        rows.append(row)
    return rows


def _seconds(row: dict[str, Any]) -> float | None:
    return row["time_over_base"] and row["time_over_base"]["seconds"]


QUANTITIES = (  # what grows, with what, on which device
    ("bytes", "parameters", lambda row: row["bytes_accessed"]),
    ("time", "parameters", _seconds),
    ("time", "leaves", _seconds),
    ("start", "leaves", lambda row: row["start_seconds"]),
    ("bytes", "devices", lambda row: row["bytes_accessed"]),
    ("collectives", "devices", lambda row: sum(row["collectives"].values())),
)
TITLES = {  # and the scale
    "bytes": ("MB accessed in a step", 1e-6),
    "time": ("ms a step", 1e3),
    "start": ("CPU seconds to trace and compile", 1),
    "collectives": ("collectives in a step", 1),
}


def _series(rows: Sequence[dict[str, Any]], axis: str, read: Any) -> dict[str, tuple[list[float], list[float]]]:
    """By method: what grows and the quantity, where it was measured."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if row["axis"] == axis and (found := read(row)) is not None:
            xs, ys = series.setdefault(row["method"], ([], []))
            xs.append(row["parameters"] if axis == "parameters" else row["value"])
            ys.append(found)
    return series


def _growth(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The least-squares exponents of power laws, by quantity and method."""
    growth: dict[str, dict[str, float]] = {}
    for name, axis, read in QUANTITIES[:-1]:
        for method, (xs, ys) in _series(rows, axis, read).items():
            if len(xs) > 1:
                exponent = np.polyfit(np.log(xs), np.log(ys), 1)[0]
                growth.setdefault(f"{name} against {axis}", {})[method] = float(exponent)
    return growth


def page(result: dict[str, Any]) -> str:
    """What the site shows: what the methods cost over adamw, and where it was measured."""
    rows = [row for row in result["rows"] if row["method"] != methods.BASE]
    columns = ("", "streams", "temporary", "start, s", "over adamw's", "collectives")
    picked = [[(cells := _cells(row))[0], *cells[3:]] for row in rows]
    return report.markdown(columns, picked) + "\n" + report.origin(result["environment"])


def _print(rows: Sequence[dict[str, Any]], growth: dict[str, dict[str, float]]) -> None:
    columns = ("method", "time", "10-90 %", "streams", "temporary", "start, s", "start", "collectives")
    for axis in dict.fromkeys(row["axis"] for row in rows):
        groups: dict[int, list[list[str]]] = {}
        for row in (row for row in rows if row["axis"] == axis):
            groups.setdefault(row["value"], []).append(_cells(row))
        report.print_table(f"Growth with {axis}, over adamw", "", columns, list(groups.values()))
    names = list(dict.fromkeys(row["method"] for row in rows))
    table = [[what, *(f"{by.get(name, float('nan')):.2f}" for name in names)] for what, by in growth.items()]
    report.print_table("Exponents of growth: 1 is linear", CAPTION, ("quantity", *names), [table])


def _cells(row: dict[str, Any]) -> list[str]:
    time = row["time_over_base"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items())
    return [
        f"{row['value']:,} {row['axis']}: {'adamw' if row['method'] == methods.BASE else row['method']}",
        *(("-", "-") if time is None else (f"{time['ratio']:.2f}", "{:.2f}-{:.2f}".format(*time["spread"]))),
        f"{row['streams']:.1f}",
        f"{row['temporary']:.3f}",
        f"{row['start_seconds']:.2f}",
        f"{row['start_over_base']:.1f}",
        kinds or "-",
    ]


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each quantity; both axes logarithmic, but for the collectives."""
    shown = [quantity for quantity in QUANTITIES if _series(rows, *quantity[1:])]  # times may not have been measured
    columns = (len(shown) + 1) // 2
    figure, panels = plt.subplots(2, columns, figsize=(3.5 * columns, 6), squeeze=False)
    for panel in panels.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, (name, axis, read) in zip(panels.flat, shown, strict=False):
        title, scale = TITLES[name]
        series = {m: (xs, [scale * y for y in ys]) for m, (xs, ys) in _series(rows, axis, read).items()}
        for method, (xs, ys) in series.items():
            colour, marker = style.METHODS[method]
            panel.plot(xs, ys, color=colour, marker=marker, ms=5, lw=1.2, label=method)
        if series and axis != "devices":
            xs, ys = next(iter(series.values()))
            panel.plot(xs, [ys[0] * x / xs[0] for x in xs], color="#888888", lw=0.8, ls=":", label="linear")
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        if series and axis != "parameters":
            ticks = next(iter(series.values()))[0]
            crowded = [before > tick / 1.8 for before, tick in zip([0.0, *ticks], ticks, strict=False)]
            labels = ["" if close else f"{tick:g}" for close, tick in zip(crowded, ticks, strict=True)]
            panel.set_xticks(ticks, labels, fontsize=8)
        if name != "collectives":
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(axis)
        panel.set_title(title + (", each device" if axis == "devices" else ""), fontsize=10)
        style.clean(panel)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    named = ["adamw" if label == methods.BASE else label for label in labels]
    figure.legend(handles, named, loc="outside lower center", ncols=len(named), frameon=False)
    figure.set_layout_engine("constrained")
    style.save(figure, path)


if __name__ == "__main__":
    main()
