"""What methods gain: tasks (data, network, scores) and one protocol over them, with tables and figures of its rows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # data, models and evaluation are the main job's
