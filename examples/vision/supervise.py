"""A process beside that of a run over several hosts, for what that one cannot do: say in one line that it was ended.

When a host is lost, the next sum over hosts never ends. JAX notices by missing signs of life and aborts the process
from a thread of its own, with a page of C++.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vision.interrupts import end_with_parent

__all__ = ["supervised"]

_INTERRUPTED = 130
_LOST = ("CoordinationService", "JAX distributed service", "Connection closed by peer", "Connection reset by peer")


def supervised(run: Callable[[Sequence[str]], int], args: Sequence[str], how_to_go_on: Callable[[], str]) -> int:
    """Runs a command in a process of its own, which ends with this one.

    Args:
        run: A function of a module that gives the exit status.
        args: Its argument.
        how_to_go_on: What to say after the loss of a host.

    Returns:
        The exit status; 2 after the loss of a host.
    """
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "stderr")
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(run, tuple(args), said))
        process.start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the other process too, which tells of it
        process.join()
        errors = said.read_text(errors="replace") if said.exists() else ""
    status = process.exitcode or 0
    if status not in (0, _INTERRUPTED) and any(sign in errors for sign in _LOST):
        print(f"error: another host was lost. {how_to_go_on()}", file=sys.stderr)
        return 2
    sys.stderr.write(errors)
    return status if status >= 0 else 128 - status


def _work(run: Callable[[Sequence[str]], int], args: Sequence[str], said: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with_parent()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 2)
    status = run(args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without a shutdown that would wait for a host that is gone
