"""Few labels: does a method that holds the model back help more, or less, the fewer images there are to learn from?

    python benchmarks/low_label.py                       # the embedded digits: minutes on one core
    python benchmarks/low_label.py --experiment emoji    # the emoji benchmark: two hours of one core, resumable
    python benchmarks/low_label.py --report              # tables and figures of what is there
    python benchmarks/low_label.py --smallest            # seconds; what CI runs

1, 5, 10, 50 and 100 % of the fine-tuning images, nested and stratified, each trained on for as many STEPS as all of
them are. Settings are those that benchmarks/robustness.py chose with all labels; nothing is chosen here, and 100 % is
that benchmark's own run. Each run is a row of benchmarks/results/low_label.csv, and is not repeated.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import tyro

from breadth import low_label_report
from breadth.low_label_report import COLUMNS, FILE
from breadth.shares import few_labels, images_kept
from robust import rows
from robust.command import stage, told_in_one_line
from robust.experiments import Experiment, standard
from robust.finetune import Run, Start
from robust.protocol import Classification, origin_of, recorded
from robust.study import Settings, points
from robust.training import OnStep
from vision.cache import keep_compiled_programs
from vision.progress import make_console

RESULTS = Path(__file__).parent / "results"
ALPHAS = (0.5, 0.7)  # of WiSE-FT, from vanilla fine-tuning


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
    seeds = range(1 if options.smallest else options.seeds)
    file = rows.File(options.results / FILE, COLUMNS, also=("share",))
    for share in (0.1, 1.0) if options.smallest else options.shares:
        study = FewLabels(results=file, experiment=experiment, share=share)
        if share == 1 and not experiment.smallest:
            study.take_main_runs(options.methods, seeds)
        study.run_missing(options.methods, seeds, stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewLabels(Classification):
    """The main benchmark's runs, with a share of the labels.

    Attributes:
        share: Of the fine-tuning images.
    """

    share: float

    def title(self) -> str:
        return f"{self.experiment.name}, {100 * self.share:g} % of the labels"

    def known(self, name: str, knobs: Settings, seed: int) -> rows.Row:
        return super().known(name, knobs, seed) | {"share": self.share}

    def start(self, seed: int, on_step: OnStep) -> Start:
        return few_labels(super().start(seed, on_step), self.share, seed)

    def default(self, name: str) -> Settings:
        return recorded(self.experiment).chosen(name)

    def alphas(self, name: str) -> tuple[float, ...]:
        return ALPHAS if name == "vanilla" else ()

    def measured(self, origin: Start, run: Run[Start], name: str, knobs: Settings, seed: int) -> Iterator[rows.Row]:
        for row in super().measured(origin, run, name, knobs, seed):
            yield row | {"images": images_kept(len(origin.task.train), self.share)}

    def take_main_runs(self, names: Sequence[str], seeds: Sequence[int]) -> None:
        """With all labels a run is the main benchmark's: takes what is recorded there and is not here."""
        there = {rows.key_of(row): row for row in recorded(self.experiment).results.read()}
        for seed, name in itertools.product(seeds, names):
            knobs = self.chosen(name)
            if self.known(name, knobs, seed) in self.results:
                continue
            wanted = [self.known(label, own, seed) for label, own, _ in points(name, knobs, self.alphas(name))]
            if all(rows.key_of(row) in there for row in wanted):
                images = len(origin_of(self.experiment, seed).task.train)
                for row in wanted:
                    self.results.append(there[rows.key_of(row)] | row | {"images": images})


if __name__ == "__main__":
    main()
