"""What the tasks' commands share: options, the progress of a run, and a user's mistake told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import writer
from evidence.rows import File, Row
from evidence.training import OnStep
from vision.cache import keep_compiled_programs
from vision.errors import UserError
from vision.progress import make_console, track


@dataclass(frozen=True)
class Evidence(writer.Recorded):
    """The options of every task."""

    methods: tuple[str, ...] = ()  # Which methods.
    seeds: int = 5  # Number of seeds, from 0: of split, foundation model and training.

    def run(self) -> None:
        """Runs what has no row yet, then reports."""
        keep_compiled_programs()
        with told_in_one_line():
            if not self.report:
                self.fill()
            self.tell()

    def fill(self) -> None:
        """Runs what is missing."""
        raise NotImplementedError

    def tell(self) -> None:
        """Writes tables and figures of what is there."""
        raise NotImplementedError

    def range(self) -> range:
        """The seeds."""
        return range(1 if self.smallest else self.seeds)

    def read(self, name: str, columns: tuple[str, ...]) -> list[Row]:
        """The rows of a file of the results.

        Raises:
            UserError: There is nothing to compare with.
        """
        found = File(self.results / name, columns).read()
        if "vanilla" not in {row["method"] for row in found}:
            raise UserError(f"{name}: vanilla has no rows yet, and everything is compared with it")
        return found

    def write(self, name: str, text: str) -> None:
        """Prints some Markdown and writes it, for the site to include."""
        writer.show(self.results / f"{name}.md", text)


@contextmanager
def stage(name: str) -> Iterator[OnStep]:
    """Shows the progress of one training run."""
    with track(make_console(), name) as update:
        yield lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total)


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Ends the command with status 2 at a user's mistake, having said what it is."""
    try:
        yield
    except UserError as error:
        make_console().print(f"error: {error}", style="red", soft_wrap=True)
        raise SystemExit(2) from error
