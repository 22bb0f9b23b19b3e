"""The main job at its smallest, which the reliability benchmark kills and keeps from writing."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
# Two methods, so that a kill may fall between them; a checkpoint every second step.
METHODS = ("ftp", "digrap")
STEPS_OF_ALL = 24 * len(METHODS)
_SMALLEST = (
    *("--smallest", "--seed", "0", "--labels", "all", "--epochs", "12", "--methods", ",".join(METHODS)),
    *("--save-every", "2", "--validate-every", "2"),
)


class Job(NamedTuple):
    """The main job in a directory."""

    out: Path

    def start(self, *through: str) -> subprocess.Popen[str]:
        """Starts the job, or goes on with it if its directory is there; through another program if one is given."""
        flags = ("--resume",) if (self.out / "config.json").exists() else _SMALLEST
        # the user's cache if there is one by name, or one beside the runs: the pre-trained network is made once
        cache = os.environ.get("FTP_OPTAX_CACHE", str(self.out.parent / "cache"))
        how: Any = {"env": {**os.environ, "FTP_OPTAX_CACHE": cache, "PYTHONWARNINGS": "default"}, "text": True}
        line = [*through, sys.executable, str(ROOT / "examples" / "finetune.py"), *flags, "--out", str(self.out)]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.out.parent, **how)

    def kill(self, until: Iterable[Any]) -> tuple[int, str]:
        """Starts or resumes the job and kills it when the iteration ends; its status and what it complained of."""
        process = self.start()
        for _ in until:
            if process.poll() is not None:
                break
            time.sleep(0.001)
        process.kill()
        _, errors = process.communicate()
        return process.returncode, errors

    def result(self) -> str:
        """A hash of all weights and of the report, but for how long it took, of the job run to its end."""
        if not (self.out / "report.json").exists():
            process = self.start()
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors
        sha = hashlib.sha256()
        for path in sorted((self.out / "weights").iterdir()):
            sha.update(path.name.encode() + path.read_bytes())
        report = json.loads((self.out / "report.json").read_text())
        del report["timing"]
        sha.update(json.dumps(report, sort_keys=True).encode())
        return sha.hexdigest()

    def checkpoints(self) -> list[Path]:
        """The finished ones, of all methods."""
        return sorted(path for path in self.out.glob("checkpoints/*/*") if path.name.isdigit())

    def unfinished(self) -> list[Path]:
        """The checkpoints that are being written, or were."""
        return list(self.out.glob("checkpoints/*/*orbax-checkpoint-tmp*"))

    def progress(self) -> int:
        """Steps that are in whole checkpoints, of all methods."""
        steps = lambda method: [int(path.name) for path in self.checkpoints() if path.parent.name == method]
        return sum(max(steps(method), default=0) for method in METHODS)

    def require_whole(self) -> None:
        """Raises unless under its final name every file is whole, as must hold at every moment."""
        files = (*self.out.glob("*.json"), *self.out.glob("weights/*.safetensors"))
        assert not (broken := [str(path) for path in files if not _is_whole(path)]), broken


def _is_whole(path: Path) -> bool:
    data = path.read_bytes()
    try:
        if path.suffix == ".json":
            return json.loads(data) is not None
        end = 8 + int.from_bytes(data[:8], "little")
        tensors = {name: entry for name, entry in json.loads(data[8:end]).items() if name != "__metadata__"}
    except ValueError:
        return False
    return len(data) == end + max(entry["data_offsets"][1] for entry in tensors.values())
