"""One recipe for all tasks? Every candidate with one setting, chosen on validation images, on twelve tasks.

    python benchmarks/recipe.py                                # seven hours of two cores, resumable at any moment
    python benchmarks/recipe.py --tasks digits fashion         # a part of it: two may run side by side, on one file
    python benchmarks/recipe.py --stage choose                 # seeds 0 to 2 alone, whose rows have no test score
    python benchmarks/recipe.py --stage report --seeds 3 4 5   # with what they chose
    python benchmarks/recipe.py --stage table                  # tables and figure of what is there
    python benchmarks/recipe.py --smallest                     # a minute: the digits with little data; what CI runs

What is asked, what chooses and what counts as success was written down before: benchmarks/results/recipe_plan.md. Each
run is a line of benchmarks/results/recipe.jsonl, and is not repeated. The emoji come from npm, the clothes from
Debian's package dataset-fashion-mnist.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from choice import problems, report
from choice.grid import METHODS, SMALLEST
from choice.rows import Row
from choice.study import Study
from robust.command import told_in_one_line
from vision.cache import keep_compiled_programs
from vision.errors import UserError
from vision.progress import make_console, track

FILE = "recipe.jsonl"


@dataclasses.dataclass(frozen=True)
class Options:
    """Chooses one setting for all tasks, and reports on other seeds."""

    tasks: tuple[str, ...] = tuple(problems.PROBLEMS)
    """Which tasks to run; the choice and the tables are over all of them."""

    stage: Literal["all", "choose", "report", "table"] = "all"
    """choose runs the grid on the seeds that choose, report what they chose on the others; table runs nothing."""

    seeds: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 9)
    """Seeds of the report. 0 to 2 choose."""

    results: Path = Path(__file__).parent / "results"
    """Where the rows, the tables and the figure are written."""

    smallest: bool = False
    """The digits with little data, three methods, one seed that chooses and two reported; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then reports."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    small = options.smallest
    study = Study(
        problems.SMALLEST if small else problems.PROBLEMS,
        SMALLEST if small else tuple(METHODS),
        choosing=(0,) if small else (0, 1, 2),
        reporting=(1, 2) if small else options.seeds,
        file=options.results / FILE,
    )
    tasks = tuple(study.problems) if small else options.tasks

    def note(row: Row) -> str:
        return f"{row.task} {row.seed}: {row.setting.method}, {row.seconds:.0f} s"

    with told_in_one_line(console):
        if unknown := [task for task in tasks if task not in study.problems]:
            raise UserError(f"--tasks {unknown[0]}: unknown; the tasks are {', '.join(study.problems)}")
        if options.stage in ("all", "choose"):
            with track(console, "choose", unit="runs") as update:
                study.run_grid(tasks, lambda done, total, row: update(done, note(row), total=total))
        if options.stage == "choose":
            return
        choice = study.choice()
        if options.stage != "table":
            with track(console, "report", unit="runs") as update:
                study.run_chosen(choice, tasks, lambda done, total, row: update(done, note(row), total=total))
        report.write(study.results(choice), options.results)


if __name__ == "__main__":
    main()
