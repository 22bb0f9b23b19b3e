"""Few labels: does a method that holds the model back help more, or less, the fewer images there are to learn from?

1, 5, 10, 50 and 100 % of the fine-tuning images, nested and stratified, each trained on for as many STEPS as all of
them are. Settings are those that the robustness task chose with all labels; nothing is chosen here. The digits take
minutes, the emoji two hours of one core. Each run is a row of benchmarks/results/low_label.csv, and is not repeated.
--smallest: the digits with little data, one seed, two shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import style
from evidence import summary, tables
from evidence.command import Evidence, stage
from evidence.figures import legend
from evidence.protocol import Study, main_study
from evidence.rows import COLUMNS as MAIN_COLUMNS
from evidence.rows import KEY, File, Row
from evidence.summary import SCORES
from evidence.tasks import classification
from style import plt

COLUMNS = (*MAIN_COLUMNS[:3], "share", "images", *MAIN_COLUMNS[3:])
"""Those of the main benchmark; share of the fine-tuning labels, and their number."""


@dataclass(frozen=True)
class Options(Evidence):
    """Compares methods on shares of the fine-tuning labels."""

    experiment: Literal["digits", "emoji"] = "digits"  # The embedded digits, or emoji in the main ID style.
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 0.5, 1.0)  # Shares of the fine-tuning images.
    # Which methods; zero-shot and WiSE-FT come with vanilla.
    methods: tuple[str, ...] = ("vanilla", "l2_sp", "ftp", "ftp_scale_free", "digrap")

    def fill(self) -> None:
        file = File(self.results / "low_label.csv", COLUMNS, key=(*KEY, "share"))
        for share in (0.1, 1.0) if self.smallest else self.shares:
            task = classification(self.experiment, smallest=self.smallest, share=share)
            study = Study(task=task, results=file, alphas=(0.5, 0.7), like=main_study(task))
            study.run_missing(self.methods, self.range(), stage)

    def tell(self) -> None:
        for group, found in summary.groups(self.read("low_label.csv", COLUMNS)).items():
            by_score = {title: by_share(found, column) for title, column in SCORES.items()}
            texts = [f"{title}:\n\n{tables.by_condition(values)}" for title, values in by_score.items()]
            self.write(f"low_label-{group.name}", "\n".join(texts))
            _draw(by_score, self.results / f"low_label-{group.name}.png")


def by_share(found: Sequence[Row], column: str) -> tables.Values:
    """One score by method, share and seed; a later row of the same run replaces an earlier one."""
    named = [
        row | ({"method": f"{row['method']} {alpha:g}"} if (alpha := row["hyperparameters"].get("alpha")) else {})
        for row in sorted(found, key=lambda row: (row["method"] not in ("zero_shot", "vanilla"), row["share"]))
    ]
    return tables.values(named, lambda row: {_share(row, found): row[column]})


def _share(row: Row, found: Sequence[Row]) -> str:
    """`5 % (15)`, or `5 % (9-10)` where the seeds' splits differ in size."""
    counts = sorted({other["images"] for other in found if other["share"] == row["share"]})
    images = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"{100 * row['share']:g} % ({images})"


def _draw(by_score: dict[str, tables.Values], path: Path) -> None:
    """Bars are those of `summary.gap`: intervals of the differences to plain fine-tuning."""
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 4.8), layout="constrained")
    for axes, (title, values) in zip(panels, by_score.items(), strict=True):
        places = tables.conditions(values)
        for i, (method, cells) in enumerate(values.items()):
            x = [places.index(name) + 0.04 * (i - len(values) / 2) for name in cells]  # bars must not hide bars
            means = [summary.estimate(list(seeds.values())).mean for seeds in cells.values()]
            # the foundation model has no bars: how far it is from plain fine-tuning is what the lines say
            halves = [summary.gap(seeds, values["vanilla"][name]).half or 0.0 for name, seeds in cells.items()]
            bars = [0.0] * len(x) if method == "zero_shot" else halves
            ls = ":" if method.startswith("wise_ft") else "-"
            axes.errorbar(x, means, bars, label=method, lw=1, elinewidth=0.6, ls=ls, **style.of(method))
        axes.set_xticks(range(len(places)), [place.partition(" (")[0] for place in places], fontsize=9)
        style.label(axes, f"share of the {places[-1].partition('(')[2].rstrip(')')} labels", f"accuracy, {title} (%)")
    legend(panels[-1])
    style.save(figure, path)
