"""Progress that suits where it goes: a bar on a terminal, a few plain lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Update", "make_console", "track"]

# Of a stage, and not faster than that; a short stage has one, at its end.
_LINES_IN_A_LOG = 5
_SECONDS_BETWEEN_LINES = 2
_LOG_WIDTH = 200
_NAME_WIDTH = 14


class Update(Protocol):
    """Tells how far a stage is: `update(steps_done, "loss 0.123")`; `total` if it was not known before."""

    def __call__(self, done: int, note: str = "", /, *, total: int | None = None) -> None: ...


def make_console() -> Console:
    """Standard output. In a log, where nobody's window sets a width, lines are as long as they need to be."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


@contextmanager
def track(console: Console, name: str, total: int = 1, unit: str = "steps") -> Iterator[Update]:
    """Shows the progress of one stage, from its first update on.

    Args:
        console: Where to.
        name: Of the stage.
        total: Steps in it, those done before a resumption included.
        unit: What a step is called in the speed.

    Yields:
        The function to call as steps are done.
    """
    if console.is_terminal:
        with _bar(console, name, total, unit) as update:
            yield update
    else:
        yield _lines(console, name, total, unit)


@contextmanager
def _bar(console: Console, name: str, total: int, unit: str) -> Iterator[Update]:
    columns = (
        TextColumn(f"{name:<{_NAME_WIDTH}}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    speed = _Speed()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, note="", visible=False)

        def update(done: int, note: str = "", /, *, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total, note=_joined(note, speed(done), unit), visible=True)

        yield update


def _lines(console: Console, name: str, total: int, unit: str) -> Update:
    speed = _Speed()
    default_total, shown, since = total, 0, time.perf_counter()

    def update(done: int, note: str = "", /, *, total: int | None = None) -> None:
        nonlocal shown, since
        steps = total or default_total
        rate = speed(done)
        share = done * _LINES_IN_A_LOG // steps
        if share > shown and (done == steps or time.perf_counter() - since > _SECONDS_BETWEEN_LINES):
            shown, since = share, time.perf_counter()
            console.print(_joined(f"{name:<{_NAME_WIDTH}} {done}/{steps}", note, rate, unit))

    return update


def _joined(*parts: str | float) -> str:
    *notes, speed, unit = parts
    shown = [str(note) for note in notes if note]
    # Three digits: 47.3 steps a second, or 0.126 of a large model.
    return "  ".join([*shown, f"{speed:.3g} {unit}/s"] if speed else shown)


class _Speed:
    """Steps a second since the first call, which comes after compilation."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int) -> float:
        now = time.perf_counter()
        if self._first is None:
            self._first = (done, now)
        first_done, started = self._first
        return (done - first_done) / max(now - started, 1e-9)
