"""What all parts share: they measure case by case, record the rows, and make a table and a figure of them."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import writer

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part(writer.Recorded):
    """One part of the cost: a subclass says what its cases are, and measures one of them."""

    name: ClassVar[str]  # of its files
    at_smallest: ClassVar[dict[str, Any]] = {}  # the options that `smallest` sets
    columns: ClassVar[Mapping[str, Callable[[Row], str]]]  # how a cell is written, by its column's title
    measure: ClassVar[Callable[..., list[Row]]]  # the rows of one case

    def run(self) -> None:
        """Measures, then tabulates and draws."""
        path = self.results / f"{self.name}.json"
        if not self.report:
            (dataclasses.replace(self, **self.at_smallest) if self.smallest else self).record(path)
        result = json.loads(path.read_text())  # which is rounded
        writer.show(path.with_suffix(".md"), self.page(result))
        self.draw(result, path.with_suffix(".png"))

    def record(self, path: Path) -> None:
        """Measures case by case, and writes the rows."""
        self.prepare()
        rows, cases = [], list(self.plan())
        for number, case in enumerate(cases, 1):
            print(f"{number} of {len(cases)}:", *case, flush=True)
            rows += self.measure(*case)
        writer.write(path, {"environment": writer.environment(), **self.facts(rows), "rows": rows})

    def prepare(self) -> None:
        """Sets up JAX, before it is used."""

    def plan(self) -> Iterable[tuple[Any, ...]]:
        """The arguments of `measure`, case by case."""
        raise NotImplementedError

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        """What is recorded beside the rows."""
        del rows
        return {}

    @classmethod
    def table(cls, rows: Iterable[Row], left: int = 1) -> str:
        """The columns of these rows."""
        return writer.markdown(list(cls.columns), [[cell(row) for cell in cls.columns.values()] for row in rows], left)

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """What the site shows of the result: by default all rows, and where they were measured."""
        return f"{cls.table(result['rows'])}\n{writer.origin(result['environment'])}"

    @staticmethod
    def draw(result: dict[str, Any], path: Path) -> None:
        """Draws the figure, if the part has one."""


def distinct(rows: Iterable[Row], column: str) -> list[Any]:
    """The values of a column, each once."""
    return list(dict.fromkeys(row[column] for row in rows))


def spread(time: dict[str, Any] | None) -> str:
    """The percentiles of a ratio of times."""
    return "-" if time is None else "{:.2f}-{:.2f}".format(*time["spread"])
