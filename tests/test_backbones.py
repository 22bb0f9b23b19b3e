"""Methods on several networks: tables that compare what belongs together, and say what the rows say."""

import re
from pathlib import Path

import numpy as np

from breadth import backbones_report
from robust import rows, summary
from robust.summary import SCORES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def test_networks_are_compared_where_there_are_several_of_one_experiment():
    same = {"hyperparameters": {}, "method": "vanilla", "seed": 0, "id_domain": "photo"}
    made = [("digits", "small-cnn"), ("digits", "vit"), ("emoji", "efficientnet-lite0")]
    found = backbones_report.experiments([same | {"experiment": name, "backbone": net} for name, net in made])
    assert {name: [group.backbone for group in groups] for name, groups in found.items()} == {
        "digits": ["small-cnn", "vit"]
    }


def test_the_recorded_tables_are_the_recorded_rows(tmp_path):
    (tmp_path / "robustness.csv").write_bytes((RESULTS / "robustness.csv").read_bytes())
    backbones_report.write(tmp_path)
    found = backbones_report.experiments(rows.read(RESULTS / "robustness.csv"))
    page = (ROOT / "docs" / "backbones.md").read_text()
    said = set(re.findall(r"\d+\.\d", page))
    for experiment, groups in found.items():
        text = (RESULTS / f"backbones-{experiment}.md").read_text()
        assert text == (tmp_path / f"backbones-{experiment}.md").read_text()
        assert f"backbones-{experiment}.md" in page
        said -= set(re.findall(r"\d+\.\d", text))
        for group, mine in groups.items():
            vanilla = next(line for line in summary.lines(mine) if line.method == "vanilla")
            own = [row[SCORES["ID"]] for row in vanilla.rows.values()]
            table = text.split(f"{group.backbone}, {len(own)} seeds:")[1]
            assert f"| `vanilla` | {100 * np.mean(own):.1f} ±" in table
    assert not said
