"""Natural corruptions: accuracy on corrupted ID test images, by method. Fifteen kinds at five severities.

Settings are those that the robustness task chose on clean ID validation images; no method has seen a corruption. Each
seed's run of a method is a row of benchmarks/results/corruptions.csv, and is not repeated. The digits take minutes.
--smallest: the digits with little data, one seed, one severity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Literal

import style
from evidence import summary, tables
from evidence.command import Evidence, stage
from evidence.corruptions import CORRUPTIONS, SEVERITIES, corrupted_domain
from evidence.figures import above_plain, legend
from evidence.protocol import Study, main_study
from evidence.rows import KEY, File, Row
from evidence.tasks import Classification, Start, classification
from evidence.training import OnStep
from style import plt
from vision.networks import Params

COLUMNS = (*KEY, "clean_accuracy", "corrupted_accuracy", "kinds")  # `kinds`: accuracy by kind, in the order of severity

FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}  # ImageNet-C's

ALPHA = 0.7  # of the interpolations: where the main benchmark's validation images put it on the digits


@dataclass(frozen=True)
class Options(Evidence):
    """Measures accuracy under natural corruptions."""

    # The embedded digits, emoji in the main ID style, or Fashion-MNIST, which is Debian's dataset-fashion-mnist.
    experiment: Literal["digits", "emoji", "fashion"] = "digits"
    # Which methods; the foundation model and interpolations come with them.
    methods: tuple[str, ...] = ("vanilla", "ftp", "digrap")

    def fill(self) -> None:
        task = classification(self.experiment, smallest=self.smallest)
        study = Study(
            task=Corrupted(**vars(task), severities=SEVERITIES[2:3] if self.smallest else SEVERITIES),
            results=File(self.results / "corruptions.csv", COLUMNS),
            alphas=(ALPHA,),
            few_alphas=(ALPHA,),
            like=main_study(task),
        )
        study.run_missing(self.methods, self.range(), stage)

    def tell(self) -> None:
        for group, found in summary.groups(self.read("corruptions.csv", COLUMNS)).items():
            seeds = len({row["seed"] for row in found})
            title = f"{group.experiment}, {seeds} seed{'s' if seeds > 1 else ''}"
            self.write(f"corruptions-{group.experiment}", f"{title}:\n\n{tables.by_condition(by_family(found))}")
            _draw(found, self.results / f"corruptions-{group.experiment}.png")


@dataclass(frozen=True, kw_only=True)
class Corrupted(Classification):
    """With ID test images under every corruption, at some severities, in place of the OOD domains."""

    severities: tuple[int, ...]

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        start = super().start(seed, on_step)
        ood = {
            f"{kind} {severity}": corrupted_domain(start.data.id_test, kind, severity, seed)
            for kind in CORRUPTIONS
            for severity in self.severities
        }
        return replace(start, data=replace(start.data, ood=ood))

    def columns(self, start: Start, params: Params) -> Row:
        data = start.data
        accuracy = {name: self.score(start, params, domain) for name, domain in data.ood.items()}
        return {
            "clean_accuracy": self.score(start, params, data.id_test),
            "corrupted_accuracy": fmean(accuracy.values()),
            "kinds": {kind: [accuracy[f"{kind} {severity}"] for severity in self.severities] for kind in CORRUPTIONS},
        }


def by_family(found: Sequence[Row]) -> tables.Values:
    """Accuracy on clean images, under all corruptions, and by family."""
    family = lambda row, kinds: fmean(fmean(row["kinds"][kind]) for kind in kinds)
    return tables.values(
        found,
        lambda row: (
            {"clean": row["clean_accuracy"], "corrupted": row["corrupted_accuracy"]}
            | {name: family(row, kinds) for name, kinds in FAMILIES.items()}
        ),
    )


def _draw(found: Sequence[Row], path: Path) -> None:
    """Accuracy by severity; and what each method adds to plain fine-tuning, kind by kind, paired by seed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 5.4), layout="constrained", width_ratios=(2, 3))
    names = list(dict.fromkeys(row["method"] for row in found))
    for method in names:
        mine = [row for row in found if row["method"] == method]
        severities = zip(*(values for row in mine for values in row["kinds"].values()), strict=True)
        clean = fmean(row["clean_accuracy"] for row in mine)
        means = [100 * clean, *(100 * fmean(values) for values in severities)]
        left.plot(means, label=method, lw=1, **style.of(method))
    kinds = [kind for family in FAMILIES.values() for kind in family]
    by_kind = tables.values(found, lambda row: {kind: fmean(row["kinds"][kind]) for kind in kinds})
    above_plain(right, by_kind, "points above plain fine-tuning")
    names = [kind.replace("_", " ") for kind in kinds]
    right.set_xticks(range(len(kinds)), names, fontsize=9, rotation=90)
    style.label(left, "severity, 0 for clean images", "accuracy, mean over kinds (%)")
    legend(left)
    style.save(figure, path)
