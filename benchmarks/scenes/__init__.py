"""Scenes: several drawings on a photograph, with the truth about every pixel and every object."""

import sys
from pathlib import Path

# data, models and evaluation are the main job's
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
