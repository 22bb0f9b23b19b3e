"""What the papers leave open, measured: radii without a unit, better hyper-gradients, a DiGraP that acts."""

import sys
from pathlib import Path

# data, models and evaluation are the main job's
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
