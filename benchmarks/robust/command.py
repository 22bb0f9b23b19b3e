"""What the commands of the benchmarks share: the progress of a run, and a user's mistake told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from robust.training import OnStep
from vision.errors import UserError
from vision.progress import make_console, track

__all__ = ["stage", "told_in_one_line"]


@contextmanager
def stage(name: str) -> Iterator[OnStep]:
    """Shows the progress of one training run."""
    with track(make_console(), name) as update:
        yield lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total)


@contextmanager
def told_in_one_line(console: Console) -> Iterator[None]:
    """Ends the command with status 2 at a user's mistake, having said what it is."""
    try:
        yield
    except UserError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        raise SystemExit(2) from error
