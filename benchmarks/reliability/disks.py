"""The main job on a disk that fills up, and in a directory that is read-only: one line of error, and nothing lost."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from reliability import crashes

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


def _refused(out: Path, cache: Path, before: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Runs the job where it cannot write; it must end with status 2 and one line, what and where, no traceback."""
    fresh = not (out / "config.json").exists()
    args = (*crashes.SMALLEST, "--out", str(out)) if fresh else ("--out", str(out), "--resume")
    how: Any = {"env": crashes.environment(cache), "cwd": out.parent, "timeout": _HANGS}
    done = subprocess.run([*before, *crashes.JOB, *args], capture_output=True, text=True, check=False, **how)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert len(lines) == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert all(word in lines[0] for word in words), lines[0]
    assert not (out / "report.json").exists()
    assert not crashes.whole(out)
    return lines[0].replace(str(out), "RUN").replace(f"{crashes.ROOT}/", "")


def _whole_checkpoints(out: Path) -> dict[str, str]:
    """The finished checkpoints and a hash of each."""
    found = {}
    for path in sorted((out / "checkpoints").glob("*/*")):
        if path.name.isdigit():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            content = b"".join(str(p.relative_to(path)).encode() + p.read_bytes() for p in files)
            found[str(path)] = hashlib.sha256(content).hexdigest()
    return found


def _kill_after(out: Path, cache: Path, steps: int) -> None:
    process = crashes.start(out, cache)
    while crashes.progress(out) < steps and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()


def _chmod(root: Path, *, writable: bool) -> None:
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if writable else mode & ~0o222)


def survive(folder: Path, *, smallest: bool) -> dict[str, Any]:
    """Every way not to be able to write; each run is then finished, with the bits of an undisturbed one."""
    cache, errors, outs = crashes.cache_of(folder), {}, []
    status, complaint = crashes.finish(folder / "undisturbed", cache)
    assert status == 0, complaint
    expected = crashes.fingerprint(folder / "undisturbed")
    run = lambda name: folder / ("all" if smallest else name)

    def refused(case: str, out: Path, before: tuple[str, ...], *words: str) -> None:
        last = _whole_checkpoints(out)
        errors[case] = _refused(out, cache, before, words)
        assert _whole_checkpoints(out) == last, f"{case}: a checkpoint was touched"
        outs.append(out)

    weights = ("pretrained", "File too large", "--resume")
    refused("disk full at the first weights", run("weights"), _limited(NO_WEIGHTS), *weights)
    full = ("File too large", "checkpoints", "--resume")
    if not smallest:
        refused("disk full at the first checkpoint", run("first"), _limited(NO_CHECKPOINT), *full)
    out = run("later")
    _kill_after(out, cache, 4)
    refused("disk full at a later checkpoint", out, _limited(NO_CHECKPOINT), *full)
    _chmod(out, writable=False)
    try:
        refused("run directory read-only", out, _obedient(), "Permission denied")
    finally:
        _chmod(out, writable=True)
    for out in dict.fromkeys(outs):
        status, complaint = crashes.finish(out, cache)
        assert status == 0, complaint
        assert crashes.fingerprint(out) == expected, out
    return {"errors": errors, "runs_that_ended_with_the_same_bits": len(dict.fromkeys(outs))}
