"""What the threads that write checkpoints say when they fail, kept off the terminal: the job says it in one line."""

import sys
from typing import Any

from absl import logging

__all__ = ["quiet_writers"]


def quiet_writers() -> None:
    """Silences Orbax's and TensorStore's own reports of a checkpoint that cannot be written.

    The error itself reaches the job, which tells it. Beside it Orbax logs the traceback of every thread, and those of
    TensorStore, which find the event loop gone that they would report to, print some thirty more: hundreds of lines, at
    any moment, also in the middle of the job's own line.
    """
    logging.set_verbosity(logging.FATAL)
    hook = sys.unraisablehook
    if not hasattr(hook, "inner"):
        sys.unraisablehook = _Passing(hook)


class _Passing:
    """Hands on everything but TensorStore's reports to a loop that is closed."""

    def __init__(self, inner: Any):
        self.inner = inner

    def __call__(self, unraisable: Any, /) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self.inner(unraisable)
