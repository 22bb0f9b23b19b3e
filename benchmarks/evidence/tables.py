"""Tables as Markdown: of methods with their settings, of differences, and of methods by conditions."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from evidence import summary
from evidence.rows import Row
from evidence.summary import ENOUGH_SEEDS, Line, estimate, paired
from writer import markdown

PEERS = ("vanilla", "wise_ft")  # what every method is compared with

Columns = Mapping[str, str]  # columns of the rows, by heading

Values = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By method and by condition (the table's columns): one number, a share, for each seed."""


def setting(line: Line) -> str:
    """A method's hyper-parameters in words."""
    return ", ".join(f"{name} {value:g}" for name, value in line.hyperparameters.items())


def scores(lines: Sequence[Line], columns: Columns, cell: Callable[[Line, str], object] = Line.score) -> str:
    """Every method with its setting, its score on validation images, and its scores."""
    body = [
        [f"`{line.method}`", setting(line), str(len(line.rows)), f"{100 * line.validation:.1f}"]
        + [str(cell(line, column)) for column in columns.values()]
        for line in lines
    ]
    return markdown(("method", "setting", "seeds", "validation", *columns), body, left=2)


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
    """The difference as a table shows it; nothing without a common seed."""
    found = paired(line, peer, column)
    return found.difference if found else ""


def curve(found: Sequence[Row], columns: Columns) -> str:
    """WiSE-FT's interpolations of plain fine-tuning; nothing without any."""
    body = [
        [f"{line.alpha:g}", *(str(line.score(column)) for column in columns.values())] for line in summary.curve(found)
    ]
    return f"WiSE-FT's curve:\n\n{markdown(('alpha', *columns), body, left=0)}" if body else ""


def values(found: Sequence[Row], scores: Callable[[Row], Mapping[str, float]]) -> Values:
    """A row's scores, which are by condition, by method and seed; of several settings of a method the last one's."""
    made: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in found:
        for name, score in scores(row).items():
            made[row["method"]][name][row["seed"]] = score
    return made


def by_condition(values: Values) -> str:
    """A line for each method: mean and 95 % interval in percent; bold where it is told from plain fine-tuning."""

    def cell(method: str, column: str) -> str:
        mine, peers = (values[name].get(column, {}) for name in (method, "vanilla"))
        told = mine.keys() & peers.keys() and summary.gap(mine, peers).clear
        text = str(estimate(list(mine.values()))) if mine else ""
        return f"**{text}**" if told else text

    head = conditions(values)
    return markdown(("method", *head), [[f"`{name}`", *(cell(name, column) for column in head)] for name in values])


def conditions(values: Values) -> list[str]:
    """The columns' names, in the order in which they come up."""
    return list(dict.fromkeys(column for cells in values.values() for column in cells))
