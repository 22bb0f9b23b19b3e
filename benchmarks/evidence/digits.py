"""The main job over several seeds: the README's table and figure; five minutes on two cores.

Every seed is a run of examples/finetune.py with its defaults: another split, another pre-training, another order of the
images. A run that is there already is not repeated, one that was stopped goes on. --smallest: one tiny run.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import style
from evidence.command import Evidence
from style import plt
from writer import markdown, say

ROOT = Path(__file__).parents[2]
COLUMNS = ("ID", "OOD seen", "OOD held out")


@dataclass(frozen=True)
class Options(Evidence):
    """Runs the main job over several seeds and draws the README's table and figure."""

    runs: Path = ROOT / "runs" / "digits"  # Where the runs are kept.
    methods: tuple[str, ...] = ()  # Which methods; by default the main job's.

    def fill(self) -> None:
        for seed in self.range():
            run = self.runs / f"seed-{seed}"
            if not (run / "report.json").exists():
                command = [sys.executable, str(ROOT / "examples" / "finetune.py"), "--out", str(run)]
                start = ["--resume"] if (run / "config.json").exists() else ["--seed", str(seed)]
                flags = ["--smallest"] * self.smallest + (["--methods", ",".join(self.methods)] if self.methods else [])
                subprocess.run([*command, *start, *flags], check=True)

    def tell(self) -> None:
        reports = [json.loads((self.runs / f"seed-{seed}" / "report.json").read_text()) for seed in self.range()]
        result = {key: reports[0][key] for key in ("versions", "config")}
        result |= {"seeds": list(self.range()), "rows": (rows := _rows(reports))}
        self.results.mkdir(parents=True, exist_ok=True)
        (self.results / "digits.json").write_text(json.dumps(result, indent=1) + "\n")
        cell = lambda row, column: f"{row['mean'][column]:.1f} ± {row['standard_deviation'][column]:.1f}"
        say(markdown(("", *COLUMNS), [[row["name"], *(cell(row, c) for c in COLUMNS)] for row in rows]))
        _draw(reports, self.results / "digits.png")


def _scores(report: dict[str, Any], row: dict[str, Any]) -> dict[str, float]:
    """ID accuracy and the mean accuracy of each group of OOD domains, in percent."""
    groups = {f"OOD {name}": domains for name, domains in report["task"]["ood_groups"].items()}
    means = {name: 100 * statistics.fmean(row["ood"][d] for d in domains) for name, domains in groups.items()}
    return {"ID": 100 * row["id"], **means}


def _rows(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every row of the main job's table: mean, standard deviation and the seeds' own numbers."""
    rows = []
    for i, first in enumerate(reports[0]["rows"]):
        scores = [_scores(report, report["rows"][i]) for report in reports]
        each = {column: [round(s[column], 2) for s in scores] for column in COLUMNS}
        spread = {c: statistics.stdev(v) if len(v) > 1 else 0.0 for c, v in each.items()}
        mean = {c: statistics.fmean(v) for c, v in each.items()}
        rows.append({"name": first["name"], "mean": mean, "standard_deviation": spread, "seeds": each})
    return rows


def _draw(reports: list[dict[str, Any]], path: Path) -> None:
    """The frontier: ID against mean OOD accuracy, WiSE-FT paths, standard errors at the fine-tuned ends."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    count, methods, start = len(reports), reports[0]["methods"], (0.0, 0.0)
    for method in methods:
        # by report, point of the path, and axis
        curves = [[_point(p) for p in report["methods"][method]["wise_path"]] for report in reports]
        mean = [tuple(map(statistics.fmean, zip(*points, strict=True))) for points in zip(*curves, strict=True)]
        ends = list(zip(*(curve[-1] for curve in curves), strict=True))
        errors = [statistics.stdev(values) / count**0.5 if count > 1 else 0.0 for values in ends]
        look = style.of(method)
        axes.plot(*zip(*mean, strict=True), lw=1.2, **look | {"ms": 3.5, "mfc": "white"})
        # methods with DiGraP often end where the same without it does: theirs are larger and hollow
        look |= {"ms": 14, "mfc": "none", "mew": 2} if "digrap" in method else {"ms": 9}
        axes.errorbar(*mean[-1], xerr=errors[0], yerr=errors[1], capsize=3, ls="", label=method, **look)
        start = mean[0]
    axes.plot(*start, label="pre-trained", **style.of("zero_shot") | {"ms": 16, "ls": ""})
    style.label(axes, "accuracy on the domain fine-tuned on (%)", "mean accuracy on 8 other domains (%)")
    seeds = f"mean of {count} seeds; bars: standard error" if count > 1 else "one seed"
    axes.set_title(f"Digits on photographs, {seeds}", fontsize=10)
    axes.legend(frameon=False, title="lines: WiSE-FT to the pre-trained weights", title_fontsize=8, loc="lower left")
    style.save(figure, path)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return 100 * row["id"], 100 * statistics.fmean(row["ood"].values())
