"""The main job as a newcomer runs it: the site's first figure; a minute and a half on two cores.

It is examples/finetune.py with its defaults. A run that is there already is not repeated, one that was stopped goes on.
--smallest: tiny runs.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import writer
from vision.config import CONFIG_FILE, load_config
from vision.run_dir import RunDir
from vision.table import print_report

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options(writer.Recorded):
    """Runs the main job and keeps what it reports."""

    runs: Path = ROOT / "runs" / "digits"  # Where the run is kept.

    def run(self) -> None:
        """Runs what is left of it, then keeps it."""
        run = RunDir(self.runs)
        if not self.report and not run.report.exists():
            command = [sys.executable, str(ROOT / "examples" / "finetune.py"), "--out", str(self.runs)]
            start = ["--resume"] if (self.runs / CONFIG_FILE).exists() else ["--smallest"] * self.smallest
            subprocess.run([*command, *start], check=True)
        config = load_config(self.runs)
        all_labels = run.part(config, None, config.seed_list[0])
        self.results.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.figure("gains"), self.results / "digits.png")
        shutil.copy(all_labels.figure("radii"), self.results / "digits_radii.png")
        report = json.loads(run.report.read_text())
        (self.results / "digits.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print_report(report, Console())
