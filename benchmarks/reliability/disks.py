"""The main job on a disk that fills up, and in a directory that is read-only: one line of error, and nothing lost."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from reliability.job import ROOT, Job

# Bytes that one file may have, as `ulimit -f` has it: every larger write fails as it does where the disk is full, in
# Python and in the threads of Orbax, without a disk of one's own. The weights have 600 kB, a checkpoint more.
NO_WEIGHTS, NO_CHECKPOINT = 100_000, 700_000
_HANGS = 200  # seconds after which a job that should have ended is taken to hang; Orbax's threads waited 300 and more
_DROP_CAPABILITY, _OVERRIDE_PERMISSIONS = 24, 1  # Linux: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


# Small programs that change their own process and become the job: nothing may run between fork and exec in this one,
# which has JAX's threads.
_LIMITED = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
_OBEDIENT = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_DROP_CAPABILITY}, {_OVERRIDE_PERMISSIONS}, 0, 0, 0); "
_BECOME = "os.execv(sys.argv[2], sys.argv[2:])"


def _limited(size: int) -> tuple[str, ...]:
    return (sys.executable, "-c", _LIMITED + _BECOME, str(size))


def _obedient() -> tuple[str, ...]:
    """Makes a process of root's obey file permissions as everybody's does; no change for others."""
    return (sys.executable, "-c", _OBEDIENT + _BECOME, "")


def _refused(job: Job, through: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Runs the job where it cannot write; it must end with status 2 and one line, what and where, no traceback."""
    before = _contents(job.checkpoints())
    process = job.start(*through)
    _, errors = process.communicate(timeout=_HANGS)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2, (process.returncode, errors[-2000:])
    assert len(lines) == 1, errors[-2000:]
    assert "Traceback" not in errors, errors[-2000:]
    assert all(word in lines[0] for word in words), lines[0]
    assert not (job.out / "report.json").exists()
    job.require_whole()
    assert _contents(job.checkpoints()) == before, f"a checkpoint was touched: {lines[0]}"
    return lines[0].replace(str(job.out), "RUN").replace(f"{ROOT}/", "")


def _contents(folders: list[Path]) -> dict[str, str]:
    """A hash of every file in these folders."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _chmod(root: Path, *, writable: bool) -> None:
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if writable else mode & ~0o222)


def survive(folder: Path, *, smallest: bool) -> dict[str, Any]:
    """Every way not to be able to write; each run is then finished, with the bits of an undisturbed one."""
    expected = Job(folder / "undisturbed").result()
    first, checkpoint, later = (Job(folder / ("all" if smallest else name)) for name in ("weights", "first", "later"))
    weights = ("pretrained", "File too large", "--resume")
    full = ("File too large", "checkpoints", "--resume")
    errors = {"disk full at the first weights": _refused(first, _limited(NO_WEIGHTS), weights)}
    if not smallest:
        errors["disk full at the first checkpoint"] = _refused(checkpoint, _limited(NO_CHECKPOINT), full)
    later.kill(iter(lambda: later.progress() >= 4, True))
    errors["disk full at a later checkpoint"] = _refused(later, _limited(NO_CHECKPOINT), full)
    _chmod(later.out, writable=False)
    try:
        errors["run directory read-only"] = _refused(later, _obedient(), ("Permission denied",))
    finally:
        _chmod(later.out, writable=True)
    jobs = dict.fromkeys((first, checkpoint, later))
    for job in jobs:
        assert job.result() == expected, job.out
    return {"errors": errors, "runs_that_ended_with_the_same_bits": len(jobs)}
