"""Lines as tables: Markdown for the site, a table for the terminal."""

from collections.abc import Mapping, Sequence

from robust import summary
from robust.rows import Row
from robust.summary import PEERS, Line, paired
from writer import markdown, print_table

__all__ = ["ENOUGH_SEEDS", "curve", "differences", "figure", "gap", "print_lines", "scores", "setting"]

ENOUGH_SEEDS = 3
"""From how many on an interval is taken at its word: that of two differences that happen to be equal is nothing."""

_UNEVEN = """Methods with fewer seeds are unfinished. Their means are over other splits: compare them by the paired
differences below.
"""

Columns = Mapping[str, str]
"""Columns of the rows, by heading."""


def setting(line: Line) -> str:
    """A method's hyper-parameters in words."""
    return ", ".join(f"{name} {value:g}" for name, value in line.hyperparameters.items())


def print_lines(title: str, lines: Sequence[Line], columns: Columns) -> None:
    """On the terminal: every method with its setting and its scores."""
    body = [
        [line.method, setting(line), str(len(line.rows)), *(str(line.score(column)) for column in columns.values())]
        for line in lines
    ]
    print_table(title, "", ("method", "setting", "seeds", *columns), [body])


def scores(lines: Sequence[Line], columns: Columns) -> str:
    """Every method with its setting, its score on validation images, and its scores; a warning if seeds are missing."""
    body = [
        [
            f"`{line.method}`",
            setting(line),
            str(len(line.rows)),
            f"{100 * line.validation:.1f}",
            *(str(line.score(column)) for column in columns.values()),
        ]
        for line in lines
    ]
    table = markdown(("method", "setting", "seeds", "validation", *columns), body, left=2)
    even = len({tuple(sorted(line.rows)) for line in lines}) == 1
    return table if even else f"{table}\n{_UNEVEN}"


def differences(lines: Sequence[Line], columns: Columns) -> str:
    """Each method minus plain fine-tuning and minus WiSE-FT, paired by seed."""
    parts, by_method = [], {line.method: line for line in lines}
    for peer in (by_method[name] for name in PEERS if name in by_method):
        body = []
        for line in lines:
            common = line.rows.keys() & peer.rows.keys()
            if line.method not in (peer.method, "zero_shot") and common:
                body.append([f"`{line.method}`", str(len(common)), *(gap(line, peer, c) for c in columns.values())])
        head = (
            f"Points above `{peer.method}`, paired by seed; bold where the interval excludes zero and\n"
            f"there are {ENOUGH_SEEDS} seeds or more, not corrected for the number of comparisons.\n"
        )
        parts.append(f"{head}\n{markdown(('method', 'seeds', *columns), body)}")
    return "\n".join(parts)


def gap(line: Line, peer: Line, column: str) -> str:
    """`+1.2 ± 0.3`, bold where it is told from zero; nothing without a common seed."""
    found = paired(line, peer, column)
    if found is None:
        return ""
    told = found.clear and len(line.rows.keys() & peer.rows.keys()) >= ENOUGH_SEEDS
    return f"**{found:+}**" if told else f"{found:+}"


def curve(found: Sequence[Row], columns: Columns) -> str:
    """WiSE-FT's interpolations of plain fine-tuning; nothing without any."""
    body = [
        [f"{line.alpha:g}", *(str(line.score(column)) for column in columns.values())]
        for line in summary.curve(found, "wise_ft")
    ]
    return f"WiSE-FT's curve:\n\n{markdown(('alpha', *columns), body, left=0)}" if body else ""


def figure(name: str, alternative: str, caption: str = "") -> str:
    """A figure of the results."""
    told = f"\n{caption}\n" if caption else ""
    return f"```{{figure}} ../benchmarks/results/{name}\n:class: on-white\n:alt: {alternative}\n{told}```\n"
