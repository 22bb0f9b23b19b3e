"""What one optimizer step costs, each method over its base optimizer: time, bytes, memory, compile time.

The parameters have the shapes of real models; no model runs. A method and its base run in turn in one process. The row
of the base alone compares it with itself: how far that is from 1 is the noise. What does not fit into 0.6 of the memory
twice is compiled and analysed, but not run. On an accelerator the same command measures that.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import style
from cost import compiled, methods, trees
from cost.methods import BASES, METHODS, BaseName, MethodName
from cost.part import Part, Row, distinct, spread
from cost.trees import TREES, TreeName
from style import plt

_LOOKS = dict(zip(TREES, (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True))


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Measures what one optimizer step costs, each method over its base optimizer."""

    trees: tuple[TreeName, ...] = TREES  # Models that give the parameters' shapes.
    bases: tuple[BaseName, ...] = tuple(BASES)  # Base optimizers.
    methods: tuple[MethodName, ...] = METHODS  # Methods round each of them.
    runs: int = 30  # Rounds; each runs the base and the method once.

    name = "step_time"
    at_smallest: ClassVar = {"runs": 3}
    columns: ClassVar = {
        "parameters": lambda row: row["tree"],
        "step": lambda row: methods.label(row["method"], row["base"]),
        "time": lambda row: _time(row, "ratio"),
        "10-90 %": lambda row: spread(row["time_over_base"]),
        "least": lambda row: _time(row, "ratio_of_minima"),
        "streams": lambda row: f"{row['streams']:.1f}",
        "temporary": lambda row: f"{row['temporary']:.3f}",
        "flops": lambda row: f"{row['flops_per_parameter']:.0f}",
        "arguments": lambda row: f"{row['arguments']:.2f}",
    }

    def plan(self) -> Iterable[tuple[str, ...]]:
        return itertools.product(self.trees, self.bases)

    def measure(self, tree: TreeName, base: BaseName) -> list[Row]:
        shapes = trees.tree(tree, smallest=self.smallest)
        rows = compiled.over_base(shapes, base, self.methods, self.runs)
        return [{"tree": tree, "base": base} | row for row in rows]

    @staticmethod
    def draw(result: dict[str, Any], path: Path) -> None:
        """Time and bytes over the base's: a column for each base, a line for each method, a marker for each tree."""
        rows = result["rows"]
        bases, names, present = (distinct(rows, column) for column in ("base", "method", "tree"))
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
                panel.axvline(1, color="#444444", lw=0.8)
                panel.set_ylim(-0.6, len(names) - 0.4)
                panel.set_xlabel(f"{what} over {base}'s")
                panel.set_yticks(range(len(names)), names)
                style.clean(panel)
        for tree in present:
            grid[0, 0].plot([], [], color=_LOOKS[tree][0], marker=_LOOKS[tree][1], ls="", label=tree)
        figure.legend(loc="outside lower center", ncols=len(present), frameon=False)
        figure.suptitle("One optimizer step over its base optimizer's; lines: 10-90 % of the rounds", fontsize=9)
        figure.set_layout_engine("constrained")
        style.save(figure, path)


def _time(row: Row, which: str) -> str:
    return "-" if row["time_over_base"] is None else f"{row['time_over_base'][which]:.2f}"
