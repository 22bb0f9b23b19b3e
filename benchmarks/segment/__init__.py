"""Dense prediction: the class and the boundary of every pixel of a scene, by a small decoder on a backbone."""

import sys
from pathlib import Path

# data, models and evaluation are the main job's
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
