"""The main job killed with SIGKILL, again and again, and resumed: it must end with the bits of a run that was not."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reliability.job import STEPS_OF_ALL, Job

# What a run is doing when it is killed: still starting, between steps, writing a checkpoint, or evaluating and drawing.
AIMS = ("step", "saving", "start", "saving", "step", "saving", "end", "saving")


class Kill(NamedTuple):
    """One SIGKILL: what the run was to be doing, and whether it was writing a checkpoint."""

    aim: str
    writing: bool


def _moment(job: Job, aim: str, rng: random.Random, startup: float) -> Iterator[None]:
    """Yields until the moment to kill at has come."""
    far = STEPS_OF_ALL if aim == "end" else min(job.progress() + rng.randrange(0, 12), STEPS_OF_ALL - 2)
    while aim != "start" and job.progress() < far:
        yield
    while aim == "saving" and not job.unfinished():
        yield
    until = time.monotonic() + rng.uniform(0, {"start": startup, "step": 1.0, "saving": 0.03, "end": startup / 2}[aim])
    while time.monotonic() < until:
        yield


def kill_once(job: Job, rng: random.Random, aim: str, startup: float) -> Kill | None:
    """Starts or resumes the job and kills it; None if it ended before its time had come."""
    status, errors = job.kill(_moment(job, aim, rng, startup))
    if status == 0:
        return None
    assert status < 0, f"a resumed run failed by itself: {errors}"
    job.require_whole()
    return Kill(aim, bool(job.unfinished()))


def _startup(job: Job) -> float:
    """Seconds to the first checkpoint of a run whose compiled programs are cached."""
    began = time.monotonic()
    job.kill(iter(lambda: job.progress() > 0, True))
    return time.monotonic() - began


def survive(folder: Path, kills: int) -> dict[str, object]:
    """Kills and resumes until so many kills have fallen, over as many runs as that takes, each then run to its end."""
    rng, done, runs = random.Random(0), [], 0
    expected = Job(folder / "undisturbed").result()
    startup = _startup(Job(folder / "timed")) if kills > 1 else 0.0
    while len(done) < kills:
        runs += 1
        job = Job(folder / f"killed-{runs}")
        for _ in range(min(5, kills - len(done))):
            kill = kill_once(job, rng, AIMS[len(done) % len(AIMS)], startup)
            if kill is None:
                break
            done.append(kill)
        assert job.result() == expected, job.out
    return {
        "kills": len(done),
        "kills_while_a_checkpoint_was_written": sum(kill.writing for kill in done),
        "moments": {aim: sum(kill.aim == aim for kill in done) for aim in dict.fromkeys(AIMS)},
        "runs": runs,
        "runs_that_ended_with_the_same_bits": runs,
    }
