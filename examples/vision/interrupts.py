"""Ctrl-C at the moments that do not bear it, and the end of a process whose parent has ended."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["end_with_parent", "uninterrupted"]


def end_with_parent() -> None:
    """Ends this process when the one that started it has ended: one that is killed cannot end the others."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C off to the end of the block.

    For what is short and fails badly in the middle: the threads of a half-started checkpoint print a traceback each,
    and an extension module that is interrupted while it is imported turns the interrupt into an ImportError.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if received:
        raise KeyboardInterrupt
