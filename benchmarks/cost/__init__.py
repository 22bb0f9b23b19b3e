"""What a step costs: one part a file, each with its options, its rows, its table and its figure."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # the main job's packages
