"""The main job over several seeds: the README's table and figure.

    python benchmarks/digits.py                # five seeds, about five minutes on two cores
    python benchmarks/digits.py --smallest     # seconds; what CI runs

Every seed is a run of examples/finetune.py with its defaults: another split, another pre-training, another order of the
images. A run that is there already is not repeated, one that was stopped goes on.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[1]
COLUMNS = ("ID", "OOD seen", "OOD held out")
COLOURS = {"vanilla": "#E69F00", "ftp": "#0072B2", "digrap": "#009E73", "ftp+digrap": "#CC79A7"}
MARKERS = {"vanilla": "o", "ftp": "s", "digrap": "^", "ftp+digrap": "D"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Runs the main job over several seeds and draws the README's table and figure."""

    seeds: int = 5
    """Number of seeds, from 0."""

    runs: Path = ROOT / "runs" / "digits"
    """Where the runs are kept."""

    results: Path = ROOT / "benchmarks" / "results"
    """Where digits.json and digits.png are written."""

    smallest: bool = False
    """One tiny run; its numbers mean nothing."""


def main() -> None:
    """Runs what is missing, then tabulates and draws."""
    options = tyro.cli(Options)
    seeds = range(1 if options.smallest else options.seeds)
    reports = [_report(options, seed) for seed in seeds]
    rows = _rows(reports)
    options.results.mkdir(parents=True, exist_ok=True)
    result = {"versions": reports[0]["versions"], "config": reports[0]["config"], "seeds": list(seeds), "rows": rows}
    (options.results / "digits.json").write_text(json.dumps(result, indent=1) + "\n")
    _print(rows, len(reports))
    _draw(reports, options.results / "digits.png")


def _report(options: Options, seed: int) -> dict[str, Any]:
    """The report of one seed's run, which is made or finished if need be."""
    run = options.runs / f"seed-{seed}"
    if not (run / "report.json").exists():
        command = [sys.executable, str(ROOT / "examples" / "finetune.py"), "--out", str(run)]
        start = ["--resume"] if (run / "config.json").exists() else ["--seed", str(seed)]
        subprocess.run([*command, *start, *(["--smallest"] if options.smallest else [])], check=True)
    return json.loads((run / "report.json").read_text())


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


def _print(rows: list[dict[str, Any]], seeds: int) -> None:
    title = f"Digits on photographs: accuracy in %, mean and standard deviation over {seeds} seed(s)"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        cells = (f"{row['mean'][c]:.1f} ± {row['standard_deviation'][c]:.1f}" for c in COLUMNS)
        table.add_row(row["name"], *cells)
    Console().print(table)


def _draw(reports: list[dict[str, Any]], path: Path) -> None:
    """The frontier: ID against mean OOD accuracy, WiSE-FT paths, standard errors at the fine-tuned ends."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for method in reports[0]["methods"]:
        curves = [[_point(p) for p in report["methods"][method]["wise_path"]] for report in reports]
        mean = [tuple(statistics.fmean(c[i][k] for c in curves) for k in (0, 1)) for i in range(len(curves[0]))]
        axes.plot(*zip(*mean, strict=True), color=COLOURS[method], lw=1.2, marker=MARKERS[method], ms=3.5, mfc="white")
        errors = [
            statistics.stdev(c[-1][k] for c in curves) / len(curves) ** 0.5 if len(curves) > 1 else 0.0 for k in (0, 1)
        ]
        end = mean[-1]
        axes.errorbar(*end, xerr=errors[0], yerr=errors[1], ecolor=COLOURS[method], capsize=3, ls="", **_marker(method))
        axes.plot([], [], ls="", label=method, **_marker(method))
    starts = [_point(next(iter(report["methods"].values()))["wise_path"][0]) for report in reports]
    start = [statistics.fmean(s[k] for s in starts) for k in (0, 1)]
    axes.plot(*start, marker="*", ms=16, color="#444444", ls="", label="pre-trained")
    axes.set_xlabel("accuracy on the domain fine-tuned on (%)")
    axes.set_ylabel("mean accuracy on 8 other domains (%)")
    axes.set_title(f"Digits on photographs, mean of {len(reports)} seed(s); bars: standard error", fontsize=10)
    axes.grid(color="#dddddd", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="lines: WiSE-FT to the pre-trained weights", title_fontsize=8, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _marker(method: str) -> dict[str, Any]:
    """Methods with DiGraP often end where the same without it does: theirs are larger and hollow."""
    hollow = "digrap" in method
    face = "none" if hollow else COLOURS[method]
    return {"marker": MARKERS[method], "ms": 14 if hollow else 9, "mfc": face, "mec": COLOURS[method], "mew": 2}


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return 100 * row["id"], 100 * statistics.fmean(row["ood"].values())


if __name__ == "__main__":
    main()
