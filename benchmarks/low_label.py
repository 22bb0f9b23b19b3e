"""Few labels: does a method that holds the model back help more, or less, the fewer images there are to learn from?

    python benchmarks/low_label.py                                # the embedded digits: minutes on one core
    python benchmarks/low_label.py --experiment emoji --seeds 3   # the emoji benchmark: hours, resumable at any moment
    python benchmarks/low_label.py --report                       # tables and figures of what is there
    python benchmarks/low_label.py --smallest                     # seconds; what CI runs

1, 5, 10, 50 and 100 % of the fine-tuning images, nested and stratified, each trained on for as many STEPS as all of
them are. Settings are those that benchmarks/robustness.py chose with all labels; nothing is chosen here, and 100 % is
that benchmark's own run. Each run is a row of benchmarks/results/low_label.csv, and is not repeated.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

from breadth import low_label_report
from breadth.low_label_report import COLUMNS, FILE
from breadth.shares import few_labels
from robust import protocol, rows
from robust.command import stage, told_in_one_line
from robust.experiments import Experiment, standard
from robust.finetune import Start
from robust.methods import METHODS
from vision.cache import keep_compiled_programs
from vision.progress import make_console

RESULTS = Path(__file__).parent / "results"
ALPHAS = (0.5, 0.7)  # of WiSE-FT, from vanilla fine-tuning

Knobs = dict[str, float]
Subset = dict[str, float]  # share and images


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares methods on shares of the fine-tuning labels."""

    experiment: Literal["digits", "emoji"] = "digits"
    """The embedded digits, or emoji in the main ID style."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.5, 1.0)
    """Shares of the fine-tuning images."""

    methods: tuple[str, ...] = ("vanilla", "l2_sp", "ftp", "ftp_scale_free", "digrap")
    """Which methods; zero-shot and WiSE-FT come with vanilla."""

    seeds: int = 5
    """Number of seeds, from 0: of split, foundation model, subset and training."""

    results: Path = RESULTS
    """Where low_label.csv, its tables and figures are written."""

    report: bool = False
    """Run nothing; make tables and figures of the rows that are there."""

    smallest: bool = False
    """The digits with little data, one seed, two shares; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then reports."""
    options, console = tyro.cli(Options), make_console()
    keep_compiled_programs()
    if not options.report:
        with told_in_one_line(console):
            _run(options, standard(options.experiment, smallest=options.smallest))
    low_label_report.write(options.results)


def _run(options: Options, experiment: Experiment) -> None:
    shares = (0.1, 1.0) if options.smallest else options.shares
    for seed in range(1 if options.smallest else options.seeds):
        with stage(f"{experiment.name}, foundation model {seed}") as on_step:
            whole = protocol.origin_of(experiment, seed, on_step)
        for share in shares:
            origin, images = few_labels(whole, share, seed)
            for method in options.methods:
                _fill(options, experiment, method, seed, origin, {"share": share, "images": images})


def _fill(options: Options, experiment: Experiment, method: str, seed: int, origin: Start, subset: Subset) -> None:
    """Fine-tunes on a subset if its row is missing; the run's own row comes last, after those that are made from it."""
    file, knobs = options.results / FILE, protocol.chosen(experiment, RESULTS / "robustness_trials.csv", method)
    own = protocol.blank_row(experiment, method, knobs, seed) | subset
    if _key(own) in {_key(row) for row in rows.read(file, COLUMNS)}:
        return
    found = (
        [] if experiment.smallest or subset["share"] < 1 else _of_the_main_benchmark(experiment, method, knobs, seed)
    )
    if not found:
        with stage(f"{experiment.name}, {method}, {subset['images']} images, seed {seed}") as on_step:
            run = protocol.fine_tuned(experiment, METHODS[method], knobs, seed, on_step, origin)
        found = [
            protocol.blank_row(experiment, name, settings, seed)
            | protocol.measured(run.interpolated(part), part * run.drift, run.trained.seconds)
            for name, settings, part in _points(method, knobs)
        ]
    for row in found:
        rows.append(file, row | subset, COLUMNS)


def _of_the_main_benchmark(experiment: Experiment, method: str, knobs: Knobs, seed: int) -> list[rows.Row]:
    """What benchmarks/robustness.py has of the same run with all labels; nothing if anything is missing."""
    there = {rows.key_of(row): row for row in rows.read(RESULTS / "robustness.csv")}
    wanted = [rows.key_of(protocol.blank_row(experiment, name, also, seed)) for name, also, _ in _points(method, knobs)]
    return [there[key] for key in wanted] if there.keys() >= set(wanted) else []


def _points(method: str, knobs: Knobs) -> Iterator[tuple[str, Knobs, float]]:
    """Each model to measure: its name, its settings, its place between the foundation model and the run's end."""
    if method == "vanilla":
        yield "zero_shot", {}, 0.0
        for alpha in ALPHAS:
            yield "wise_ft", knobs | {"alpha": alpha}, alpha
    yield method, knobs, 1.0


def _key(row: rows.Row) -> tuple[Any, ...]:
    return rows.key_of(row), row["share"]


if __name__ == "__main__":
    main()
