"""How grain reads batches: in threads of this process or in others, one example after the other."""

import itertools
import pickle
import signal
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import grain
from absl import flags

from vision.errors import UserError
from vision.interrupts import end_with_parent

__all__ = ["read"]


def read(batches: grain.MapDataset, *, threads: int, workers: int) -> Iterator[Any]:
    """The elements of a data set, in order, whatever reads them.

    Args:
        batches: The data set.
        threads: That read ahead, in each process.
        workers: Processes; 0 for this one.

    Raises:
        UserError: That of a data set as it is, in another process too; or a process came to an end.
    """
    elements = _elements(batches, threads, workers)
    # One that is left behind is closed before Python's end, not in it, when half of Python is gone.
    weakref.finalize(elements, _close, weakref.ref(elements))
    return elements


def _close(elements: "weakref.ref[Generator[Any, None, None]]") -> None:
    if (still := elements()) is not None:
        still.close()


def _elements(batches: grain.MapDataset, threads: int, workers: int) -> Generator[Any, None, None]:
    if workers:
        # As bytes, for grain would send arrays through shared memory: containers have little of it, and a run that is
        # interrupted leaves it behind with a page of warnings.
        batches = batches.map(pickle.dumps)
    # The queues are short because batches of photographs are large.
    elements = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    if workers:
        if not flags.FLAGS.is_parsed():  # grain asks for flags of its own, which no command of ours has
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        elements = elements.mp_prefetch(options, worker_init_fn=_start_worker)
    with _ctrl_c_blocked() if workers else nullcontext():
        iterator = iter(elements)
    try:
        for _ in range(workers):  # each starts a process
            with _ctrl_c_blocked():
                first = list(itertools.islice(iterator, 1))
            yield from map(pickle.loads, first)
        yield from map(pickle.loads, iterator) if workers else iterator
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise UserError(
            "--workers: a process that decodes images was ended, perhaps for want of memory; try fewer, or 0."
        ) from None
    finally:
        iterator.close()  # its processes and threads end here, and not at some later collection


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Threads and processes that start here never see Ctrl-C: it is for the main process, which ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(index: int, count: int) -> None:
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
