"""What one optimizer step costs, each method over its base optimizer: time, bytes, memory, compile time.

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

import style
import writer
from cost import compiled, methods, trees
from cost.methods import BASES, METHODS, BaseName, MethodName
from cost.trees import TREES, TreeName
from style import plt

COLUMNS = ("parameters", "step", "time", "10-90 %", "least", "streams", "temporary", "flops", "arguments")
_ORDER = (*TREES, *BASES, methods.BASE, *METHODS)
_LOOKS = dict(zip(TREES, (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True))


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Measures what one optimizer step costs, each method over its base optimizer."""

    trees: tuple[TreeName, ...] = TREES  # Models that give the parameters' shapes.
    bases: tuple[BaseName, ...] = BASES  # Base optimizers.
    methods: tuple[MethodName, ...] = METHODS  # Methods round each of them.
    runs: int = 30  # Rounds; each runs the base and the method once.
    # Run what fits into this much memory, analyse the rest; by default 0.6 of the device's.
    memory_gb: float | None = None
    resume: bool = False  # Keep the rows that an earlier run on this machine left, and add what is missing.

    def run(self) -> None:
        """Measures, then tabulates and draws."""
        path = self.results / "step_time.json"
        if not self.report:
            self.measure(path)
        _draw(writer.write_page(path, page)["rows"], path.with_suffix(".png"))

    def measure(self, path: Path) -> None:
        """Adds what is missing to the rows."""
        limit, runs = compiled.memory_limit(self.memory_gb), 3 if self.smallest else self.runs
        names, rows = (methods.BASE, *self.methods), writer.recorded(path, self.resume)
        done = {_key(row) for row in rows}
        compiled.compiled(methods.base("sgd"), trees.dense(10**4, 2))  # the first compilation of a process is slow
        with writer.progress() as progress:
            task = progress.add_task("", total=len(self.trees) * len(self.bases) * len(names))
            for tree, base_name in itertools.product(self.trees, self.bases):
                missing = [name for name in names if (tree, base_name, name) not in done]
                progress.advance(task, len(names) - len(missing))
                if not missing:
                    continue
                shapes, inner = trees.tree(tree, smallest=self.smallest), methods.base(base_name)
                base = compiled.compiled(inner, shapes, cold=True)
                for name in missing:
                    progress.update(task, description=f"{tree} {base_name} {name}")
                    other = compiled.compiled(methods.method(name, inner), shapes, cold=True)
                    time = compiled.compare(base, other, runs, limit)
                    rows.append({"tree": tree, "base": base_name, "method": name, **_facts(base, other, time)})
                    rows.sort(key=lambda row: [_ORDER.index(part) for part in _key(row)])
                    facts = {"environment": writer.environment(), "held_out_loss": methods.HELD_OUT}
                    writer.write(path, facts | {"rows": rows})
                    progress.advance(task)


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["tree"], row["base"], row["method"]


def _facts(base: compiled.Step, other: compiled.Step, time: dict[str, Any] | None) -> dict[str, Any]:
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
        "time_over_base": time,
        "costs": dataclasses.asdict(other.costs),
    }


def page(result: dict[str, Any]) -> str:
    """All rows, and where they were measured."""
    return (
        f"{writer.markdown(COLUMNS, [_cells(row) for row in result['rows']])}\n{writer.origin(result['environment'])}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    time, times = row["time_over_base"], ["-"] * 3
    if time is not None:
        low, high = time["spread"]
        times = [f"{time['ratio']:.2f}", f"{low:.2f}-{high:.2f}", f"{time['ratio_of_minima']:.2f}"]
    label = row["base"] if row["method"] == methods.BASE else row["method"]
    numbers = f"{row['streams']:.1f}", f"{row['temporary']:.3f}", f"{row['flops_per_parameter']:.0f}"
    return [row["tree"], label, *times, *numbers, f"{row['arguments']:.2f}"]


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and bytes over the base's: a column for each base, a line for each method, a marker for each tree."""
    bases, names, present = (list(dict.fromkeys(row[key] for row in rows)) for key in ("base", "method", "tree"))
    names = names[::-1]
    size = (2.4 + 2.8 * len(bases), 1.6 + 0.62 * len(names))
    figure, grid = plt.subplots(2, len(bases), figsize=size, sharey=True, sharex="row", squeeze=False)
    for row in rows:
        time_panel, bytes_panel = grid[:, bases.index(row["base"])]
        place = names.index(row["method"]) + 0.18 * ((len(present) - 1) / 2 - present.index(row["tree"]))
        colour, marker = _LOOKS[row["tree"]]
        if (time := row["time_over_base"]) is not None:
            time_panel.plot(time["ratio"], place, color=colour, marker=marker, ms=4.5, ls="")
            time_panel.plot(time["spread"], [place] * 2, color=colour, lw=1)
        bytes_panel.plot(row["bytes_over_base"], place, color=colour, marker=marker, ms=4.5, ls="")
    for panels, what in zip(grid, ("time", "bytes accessed"), strict=True):
        for panel, base in zip(panels, bases, strict=True):
            style.clean(panel)
            panel.axvline(1, color="#444444", lw=0.8)
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(-0.6, len(names) - 0.4)
            panel.set_xlabel(f"{what} over {base}'s")
    for tree in present:
        grid[0, 0].plot([], [], color=_LOOKS[tree][0], marker=_LOOKS[tree][1], ls="", label=tree)
    figure.legend(loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle("One optimizer step over its base optimizer's; lines: 10-90 % of the rounds", fontsize=9)
    figure.set_layout_engine("constrained")
    style.save(figure, path)
