"""The robustness benchmark's parts: ten artists' emoji as domains, the foundation model, fine-tuning, results."""

import sys
from pathlib import Path

# data, models and evaluation are the main job's
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
