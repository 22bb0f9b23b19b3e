"""What the papers leave open, measured: radii without a unit, better hyper-gradients, a DiGraP that acts.

    python benchmarks/past_the_papers.py                    # the digits task, about half an hour on two cores
    python benchmarks/past_the_papers.py --task emoji       # the emoji benchmark, some hours
    python benchmarks/past_the_papers.py --smallest         # seconds; what CI runs

Every trial is a row of benchmarks/results/past_the_papers.csv; one that is there is not run again.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from past import figures
from past.grids import EXPERIMENTS
from past.runs import Trial
from past.tasks import Start, digits_start, emoji_start, shortened
from past.trials import Row, run_missing
from vision.cache import keep_compiled_programs
from vision.progress import make_console, track

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures what the papers leave open."""

    experiments: tuple[Literal["scale", "judges", "strengths"], ...] = ("scale", "judges", "strengths")
    """Which questions: do settings carry over, which hyper-gradient, when does DiGraP act."""

    task: Literal["digits", "emoji"] = "digits"
    """The embedded task, or the emoji benchmark, whose drawings npm fetches."""

    seeds: int = 3
    """Number of seeds, from 0."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where past_the_papers.csv and the figures are written."""

    smallest: bool = False
    """A few tiny runs; their numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then tabulates and draws."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    for name in options.experiments:
        trials = list(EXPERIMENTS[name](options.task, range(options.seeds)))
        if options.smallest:
            trials = [t for t in trials if t == Trial(t.task, t.method, t.knob, 0, judge_every=t.judge_every)][:4]
        start_of = lambda trial: _start(trial, options.smallest)
        path = options.results / "past_the_papers.csv"
        with track(console, f"{name} on {options.task}", len(trials), "trials") as update:
            rows = run_missing(trials, path, start_of, lambda done, row: update(done, _note(row)))
        figures.show(name, rows, options.task, options.results, console)


def _start(trial: Trial, smallest: bool) -> Start:
    start = emoji_start(trial.seed) if trial.task == "emoji" else digits_start(trial.seed, trial.width, smallest)
    return shortened(start, 64) if smallest else start


def _note(row: Row) -> str:
    return f"{row.method} {row.knob:g}: ID {100 * row.id_accuracy:.1f}"


if __name__ == "__main__":
    main()
