"""One recipe for all tasks: what is compared, on what, what chooses, and the report (`results/recipe_plan.md`)."""

import sys
from pathlib import Path

# data, models and evaluation are the main job's
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
