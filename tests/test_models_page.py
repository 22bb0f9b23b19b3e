"""The page on models shows what was recorded."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/models.md").read_text()


def test_the_run_of_a_real_model_is_what_was_recorded():
    report = json.loads((ROOT / "benchmarks/results/dinov2_emoji.json").read_text())
    domains = report["config"]["ood"][0]
    shown = dict(re.findall(r"^\| ([\w+. ]+?) \| (\d+\.\d \|.*) \|$", PAGE, flags=re.MULTILINE))
    recorded = {
        row["name"]: [row["id"], *(row["ood"][name] for name in domains), row["ood_mean"]] for row in report["rows"]
    }
    assert shown == {name: " | ".join(f"{100 * v:.1f}" for v in values) for name, values in recorded.items()}
    assert f"{report['task']['train_images']} training images" in PAGE
    assert report["config"]["seed"] == 0
    assert f"--ood {' '.join(domains)} --image-size {report['config']['image_size']}" in PAGE
