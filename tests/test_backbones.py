"""Methods on several networks: tables that compare what belongs together, and say what the rows say."""

import numpy as np
from recorded import RESULTS, numbers_beyond_the_tables

from breadth import backbones_report
from robust import rows, summary
from robust.summary import SCORES


def test_networks_are_compared_where_there_are_several_of_one_experiment():
    same = {"hyperparameters": {}, "method": "vanilla", "seed": 0, "id_domain": "photo"}
    made = [("digits", "small-cnn"), ("digits", "vit"), ("emoji", "efficientnet-lite0")]
    found = backbones_report.experiments([same | {"experiment": name, "backbone": net} for name, net in made])
    assert {name: [group.backbone for group in groups] for name, groups in found.items()} == {
        "digits": ["small-cnn", "vit"]
    }


def test_the_recorded_tables_are_the_recorded_rows(tmp_path):
    assert not numbers_beyond_the_tables("backbones", "robustness.csv", backbones_report.write, tmp_path)
    found = backbones_report.experiments(rows.read(RESULTS / "robustness.csv"))
    for experiment, groups in found.items():
        text = (RESULTS / f"backbones-{experiment}.md").read_text()
        for group, mine in groups.items():
            vanilla = next(line for line in summary.lines(mine) if line.method == "vanilla")
            own = [row[SCORES["ID"]] for row in vanilla.rows.values()]
            table = text.split(f"{group.backbone}, {len(own)} seeds:")[1]
            assert f"| `vanilla` | {100 * np.mean(own):.1f} ±" in table
