"""Other networks: does the ranking of the methods hold? Tables and a figure of the rows of robustness.csv.

    python benchmarks/robustness.py --experiment digits --backbone vit --methods vanilla ftp digrap   # fills rows
    python benchmarks/robustness.py --experiment digits --backbone resnet --methods vanilla ftp digrap
    python benchmarks/backbones.py                                                                    # tabulates them

The same with `--experiment emoji`: networks of some three million parameters, pre-trained in fifteen epochs.
"""

import dataclasses
from pathlib import Path

import tyro

from breadth import backbones_report


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the methods' ranking across networks."""

    results: Path = Path(__file__).parent / "results"
    """Where robustness.csv is, and where the tables and figures are written."""


if __name__ == "__main__":
    backbones_report.write(tyro.cli(Options).results)
