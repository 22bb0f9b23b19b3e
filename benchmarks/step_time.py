"""What one optimizer step costs, each method over its base optimizer: time, bytes, memory, compile time.

    python benchmarks/step_time.py                                       # everything
    python benchmarks/step_time.py --trees vit-b16 --methods ftp digrap  # part of it
    python benchmarks/step_time.py --smallest                            # tiny models; its timings mean nothing

The step is jitted and donated, `step(params, state, grads) -> (params, state)`, on trees of the shapes of real models;
no model runs. Times are those of a method and its base run in turn in one process, and their ratio alone is told. The
row of the base alone compares it with itself: how far that is from 1 is the noise. What does not fit into memory twice
is compiled and analysed, but not run. On an accelerator the same command measures that.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import tyro
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from measure import methods, report, step, style, timing, trees
from measure.methods import BASES, METHODS, BaseName, MethodName
from measure.trees import TREES, TreeName

CAPTION = (
    "Time: the median over the base's, measured in turn; 10-90 %: of the ratios round by round; least: of the minima. "
    "Streams: bytes accessed, temporary: XLA's buffers beside arguments and results, "
    "arguments: parameters, state and gradients, all three over the parameters' size. Flops: a parameter. "
    "Compile: CPU time, tracing included, over the base's. -: not run, too large. " + methods.HELD_OUT
)
COLUMNS = ("step", "time", "10-90 %", "least", "streams", "temporary", "flops", "arguments", "compile")
_ORDER = (*TREES, *BASES, methods.BASE, *METHODS)
TREE_MARKERS = dict(zip(TREES, "os^D", strict=True))
TREE_COLOURS = dict(zip(TREES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True))


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures what one optimizer step costs, each method over its base optimizer."""

    trees: tuple[TreeName, ...] = TREES
    """Models that give the parameters' shapes."""

    bases: tuple[BaseName, ...] = BASES
    """Base optimizers."""

    methods: tuple[MethodName, ...] = METHODS
    """Methods round each of them."""

    runs: int = 30
    """Rounds; each runs the base and the method once."""

    memory_gb: float | None = None
    """Run what fits into this much memory, analyse the rest; by default 0.6 of the device's."""

    results: Path = report.RESULTS
    """Where step_time.json and step_time.png are written."""

    resume: bool = False
    """Keep the rows of step_time.json that an earlier run on this machine left, and add what is missing."""

    smallest: bool = False
    """Narrow models of one block and three rounds."""


def main() -> None:
    """Measures, then tabulates and draws."""
    options = tyro.cli(Options)
    limit, runs = step.memory_limit(options.memory_gb), 3 if options.smallest else options.runs
    names = (methods.BASE, *options.methods)
    path = options.results / "step_time.json"
    rows = report.recorded(path, options.resume)
    done = {_key(row) for row in rows}
    step.compiled(methods.base("sgd"), trees.dense(10**4, 2))  # the first compilation of a process is slow
    with report.progress() as progress:
        task = progress.add_task("", total=len(options.trees) * len(options.bases) * len(names))
        for tree, base_name in itertools.product(options.trees, options.bases):
            missing = [name for name in names if (tree, base_name, name) not in done]
            shapes, inner = trees.tree(tree, smallest=options.smallest), methods.base(base_name)
            progress.advance(task, len(names) - len(missing))
            if not missing:
                continue
            base = step.compiled(inner, shapes, cold=True)
            for name in missing:
                progress.update(task, description=f"{tree} {base_name} {name}")
                other = step.compiled(methods.method(name, inner), shapes, cold=True)
                time = timing.compare(base, other, runs, limit)
                rows.append({"tree": tree, "base": base_name, "method": name, **_facts(base, other, time)})
                rows.sort(key=lambda row: [_ORDER.index(part) for part in _key(row)])
                environment = report.environment()
                report.write(path, {"environment": environment, "held_out_loss": methods.HELD_OUT, "rows": rows})
                progress.advance(task)
    report.write_page(path, page)
    _print(rows)
    _draw(rows, options.results / "step_time.png")


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["tree"], row["base"], row["method"]


def _facts(base: step.Step, other: step.Step, time: timing.Ratio | None) -> dict[str, Any]:
    """One row: what the step costs, alone and over its base."""
    parameters, size = trees.count(base.params), trees.size(base.params)
    return {
        "parameters": parameters,
        "leaves": len(jax.tree.leaves(base.params)),
        "streams": other.costs.bytes_accessed / size,
        "arguments": other.costs.argument_bytes / size,
        "temporary": other.costs.temporary_bytes / size,
        "flops_per_parameter": other.costs.flops / parameters,
        "bytes_over_base": other.costs.bytes_accessed / base.costs.bytes_accessed,
        "compile_over_base": other.costs.startup_seconds / base.costs.startup_seconds,
        "time_over_base": None if time is None else dataclasses.asdict(time),
        "costs": dataclasses.asdict(other.costs),
    }


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows by tree and base optimizer."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["tree"], row["base"]), []).append(row)
    return groups


def page(result: dict[str, Any]) -> str:
    """What the site shows: a table of all rows, and where they were measured."""
    cells = [[row["tree"], *_cells(row)[:-1]] for row in result["rows"]]  # compile time is in scaling.md
    return report.markdown(("parameters", *COLUMNS[:-1]), cells) + "\n" + report.origin(result["environment"])


def _print(rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["tree"] for row in rows))
    for tree in names:
        groups = [group for (name, _), group in _groups(rows).items() if name == tree]
        first = groups[0][0]
        title = f"{tree}: {first['parameters'] / 1e6:.1f} M parameters in {first['leaves']} leaves, one optimizer step"
        caption = CAPTION if tree == names[-1] else ""
        report.print_table(title, caption, COLUMNS, [[_cells(row) for row in group] for group in groups])


def _cells(row: dict[str, Any]) -> list[str]:
    time, label = row["time_over_base"], row["base"] if row["method"] == methods.BASE else f"  {row['method']}"
    times = ["-"] * 3
    if time is not None:
        low, high = time["spread"]
        times = [f"{time['ratio']:.2f}", f"{low:.2f}-{high:.2f}", f"{time['ratio_of_minima']:.2f}"]
    return [
        label,
        *times,
        f"{row['streams']:.1f}",
        f"{row['temporary']:.3f}",
        f"{row['flops_per_parameter']:.0f}",
        f"{row['arguments']:.2f}",
        f"{row['compile_over_base']:.1f}",
    ]


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and bytes over the base's: a column for each base, a line for each method, a marker for each tree."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))[::-1]
    present = list(dict.fromkeys(row["tree"] for row in rows))
    size = (2.4 + 2.8 * len(bases), 1.6 + 0.62 * len(names))
    figure, grid = plt.subplots(2, len(bases), figsize=size, sharey=True, sharex="row", squeeze=False)
    for row in rows:
        column = grid[:, bases.index(row["base"])]
        place = names.index(row["method"]) + 0.18 * ((len(present) - 1) / 2 - present.index(row["tree"]))
        look: Any = {"color": TREE_COLOURS[row["tree"]], "marker": TREE_MARKERS[row["tree"]], "ms": 4.5, "ls": ""}
        if (time := row["time_over_base"]) is not None:
            column[0].plot(time["ratio"], place, **look)
            column[0].plot(time["spread"], [place] * 2, color=look["color"], lw=1)
        column[1].plot(row["bytes_over_base"], place, **look)
    for axes, what in zip(grid, ("time", "bytes accessed"), strict=True):
        for panel, base in zip(axes, bases, strict=True):
            style.clean(panel)
            panel.axvline(1, color="#444444", lw=0.8)
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(-0.6, len(names) - 0.4)
            panel.set_xlabel(f"{what} over {base}'s")
    handles = [Line2D([], [], color=TREE_COLOURS[t], marker=TREE_MARKERS[t], ls="", label=t) for t in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle("One optimizer step over its base optimizer's; lines: 10-90 % of the rounds", fontsize=9)
    figure.set_layout_engine("constrained")
    style.save(figure, path)


if __name__ == "__main__":
    main()
