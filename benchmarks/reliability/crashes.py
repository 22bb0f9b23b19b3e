"""The main job killed with SIGKILL, again and again, and resumed: it must end with the bits of a run that was not."""

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
JOB = (sys.executable, str(ROOT / "examples" / "finetune.py"))
# Two methods, so that a kill may fall between them; a checkpoint every second step.
SMALLEST = (
    *("--smallest", "--seed", "0", "--labels", "all", "--epochs", "12", "--methods", "ftp,digrap"),
    *("--save-every", "2", "--validate-every", "2"),
)
METHODS = ("ftp", "digrap")
_UNFINISHED = "*orbax-checkpoint-tmp*"


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL: what the run was doing."""

    aim: str
    checkpoints: int
    unfinished: int


def cache_of(folder: Path) -> Path:
    """The user's cache if there is one by name, or one beside the runs: the pre-trained network is made once."""
    return Path(os.environ.get("FTP_OPTAX_CACHE", folder / "cache"))


def environment(cache: Path) -> dict[str, str]:
    """The user's, with a cache of the benchmark's own: the pre-trained network is made once."""
    return {**os.environ, "FTP_OPTAX_CACHE": str(cache), "PYTHONWARNINGS": "default"}


def start(out: Path, cache: Path, *flags: str) -> subprocess.Popen[str]:
    """Starts the job, or goes on with it if its directory is there."""
    args = ("--out", str(out), "--resume") if (out / "config.json").exists() else (*SMALLEST, "--out", str(out))
    line = [*JOB, *args, *flags]
    return subprocess.Popen(
        line, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=out.parent
    )


def finish(out: Path, cache: Path) -> tuple[int, str]:
    """Runs the job to its end; its status and what it complained of."""
    process = start(out, cache)
    _, errors = process.communicate(timeout=1800)
    return process.returncode, errors


def fingerprint(out: Path) -> str:
    """A hash of all weights and of the report, but for how long it took."""
    sha = hashlib.sha256()
    for path in sorted((out / "weights").iterdir()):
        sha.update(path.name.encode() + path.read_bytes())
    report = json.loads((out / "report.json").read_text())
    del report["timing"]
    sha.update(json.dumps(report, sort_keys=True).encode())
    return sha.hexdigest()


def whole(out: Path) -> list[str]:
    """What must hold at every moment: under its final name every file is whole. Returns those that are not."""
    return [str(path) for path in (*out.glob("*.json"), *out.glob("weights/*.safetensors")) if not _is_whole(path)]


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


# What a run is doing when it is killed: still starting, between steps, writing a checkpoint, or evaluating and drawing.
AIMS = ("step", "saving", "start", "saving", "step", "saving", "end", "saving")
STEPS_OF_ALL = 24 * len(METHODS)


def progress(out: Path) -> int:
    """Steps that are in whole checkpoints, of all methods."""
    return sum(
        max((int(p.name) for p in (out / "checkpoints" / m).glob("*") if p.name.isdigit()), default=0) for m in METHODS
    )


def _moment(out: Path, aim: str, rng: random.Random, startup: float) -> Iterator[None]:
    """Yields until the moment to kill at has come."""
    far = STEPS_OF_ALL if aim == "end" else min(progress(out) + rng.randrange(0, 12), STEPS_OF_ALL - 2)
    while aim != "start" and progress(out) < far:
        yield
    while aim == "saving" and not any(out.glob(f"checkpoints/*/{_UNFINISHED}")):
        yield
    until = time.monotonic() + rng.uniform(0, {"start": startup, "step": 1.0, "saving": 0.03, "end": startup / 2}[aim])
    while time.monotonic() < until:
        yield


def kill_once(out: Path, cache: Path, rng: random.Random, aim: str, startup: float) -> Kill | None:
    """Starts or resumes the job and kills it; None if it ended before its time had come."""
    process = start(out, cache)
    for _ in _moment(out, aim, rng, startup):
        if process.poll() is not None:
            break
        time.sleep(0.001)
    process.kill()
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode > 0:
        raise AssertionError(f"a resumed run failed by itself: {errors}")
    if wrong := whole(out):
        raise AssertionError(f"half-written after SIGKILL: {wrong}")
    unfinished = len(list(out.glob(f"checkpoints/*/{_UNFINISHED}")))
    finished = len([p for p in out.glob("checkpoints/*/*") if p.name.isdigit()])
    return Kill(aim, finished, unfinished)


def _startup(out: Path, cache: Path) -> float:
    """Seconds to the first checkpoint of a run whose compiled programs are cached."""
    began, process = time.monotonic(), start(out, cache)
    while progress(out) == 0 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    return time.monotonic() - began


def survive(folder: Path, kills: int, seed: int = 0) -> dict[str, object]:
    """Kills and resumes until so many kills have fallen, over as many runs as that takes, each then run to its end."""
    cache, rng, done = cache_of(folder), random.Random(seed), []
    status, errors = finish(folder / "undisturbed", cache)
    assert status == 0, errors
    startup = _startup(folder / "timed", cache) if kills > 1 else 0.0
    expected, same, runs = fingerprint(folder / "undisturbed"), 0, 0
    while len(done) < kills:
        runs += 1
        out = folder / f"killed-{runs}"
        for _ in range(min(5, kills - len(done))):
            kill = kill_once(out, cache, rng, AIMS[len(done) % len(AIMS)], startup)
            if kill is None:
                break
            done.append(kill)
        status, errors = finish(out, cache) if not (out / "report.json").exists() else (0, "")
        assert status == 0, errors
        same += fingerprint(out) == expected
    return {
        "kills": len(done),
        "kills_while_a_checkpoint_was_written": sum(kill.unfinished > 0 for kill in done),
        "kills_before_the_first_checkpoint": sum(kill.checkpoints == 0 for kill in done),
        "moments": {aim: sum(kill.aim == aim for kill in done) for aim in dict.fromkeys(AIMS)},
        "runs": runs,
        "runs_that_ended_with_the_same_bits": same,
    }
