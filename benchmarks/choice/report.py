"""The report: tables as Markdown, everything as JSON, and a figure."""

from pathlib import Path
from statistics import fmean

# first style, which chooses the backend
from matplotlib import pyplot as plt

from choice.decide import RULES, Candidate, candidates
from choice.results import BASE, COLUMNS, Results
from robust.summary import Estimate
from robust.tables import ENOUGH_SEEDS
from style import clean, save
from writer import environment, markdown, print_table
from writer import write as write_json

__all__ = ["NAME", "write"]

NAME = "recipe"

_COLOURS = {
    "plain": ("#444444", "*"),
    "ftp": ("#0072B2", "s"),
    "ftp_exact": ("#56B4E9", "P"),
    "ftp_scale_free": ("#0072B2", "d"),
    "l2_sp": ("#999999", "h"),
    "tpgm": ("#D55E00", "v"),
    "digrap_from_1": ("#009E73", "^"),
    "digrap_fixed": ("#009E73", "<"),
    "digrap_window": ("#117733", ">"),
    "digrap_held_out": ("#CC79A7", "D"),
}


def write(found: Results, folder: Path) -> None:
    """Prints the table of all candidates; writes recipe.md, recipe.json and recipe.png."""
    every = [*candidates(dict.fromkeys(method for method, _ in found.choice.settings))]
    head, lines = _all(found, every)
    short = lambda line: [line[0].strip("`"), *(cell.strip("*") for cell in line[3:7])]
    title = f"Points above {BASE}, seeds {_seeds(found)}"
    print_table(title, f"primary: {found.choice.primary}", short(head), [[short(line) for line in lines]])
    parts = [
        f"Seeds {_seeds(found)}. Points above `{BASE}` on the mean over tasks, paired by seed, with the 95 % interval; "
        "bold where it excludes zero, not\ncorrected for the number of comparisons. *Worst*: the task and score on "
        "which a candidate is worst, mean over seeds.\n",
        markdown(head, lines, left=3),
        f"The primary candidate is `{found.choice.primary}`:\n",
        markdown(
            ("success", "found", "holds"),
            [[one.words, one.found, "yes" if one.holds else "no"] for one in found.criteria()],
            left=3,
        ),
        "By task:\n",
        *(_by_task(found, one) for one in dict.fromkeys((found.choice.primary, Candidate("plain", True, "none")))),
        "Means of the learned strengths or radii over layers and the second half of the runs:\n",
        _strengths(found),
    ]
    (folder / f"{NAME}.md").write_text("\n".join(parts), "utf-8")
    write_json(folder / f"{NAME}.json", {"environment": environment(), **_data(found, every)})
    _draw(found, every, folder / f"{NAME}.png")


def _seeds(found: Results) -> str:
    return ", ".join(map(str, found.seeds))


def _shown(found: Results, gap: Estimate) -> str:
    told = gap.clear and len(found.seeds) >= ENOUGH_SEEDS
    return f"**{gap:+}**" if told else f"{gap:+}"


def _all(found: Results, every: list[Candidate]) -> tuple[list[str], list[list[str]]]:
    """A line for each candidate."""
    lines = []
    for one in every:
        setting, kind = found.choice.settings[one[:2]]
        knob = f", knob {setting.knob:g}" if setting.knob else ""
        words = (
            f"{setting.rate:g}, {'cosine' if setting.decay else 'constant'}{knob}{f', {kind}' if one.averaged else ''}"
        )
        least, most = found.share(one)
        gaps = [found.difference(one, column) for column in range(3)]
        worst = min(
            (found.difference(one, c, task).mean, task, COLUMNS[c]) for task in found.problems for c in range(3)
        )
        above = [found.gap(one, column) for column in (1, 2)]
        lines.append(
            [
                f"`{one}`",
                words,
                f"{least:g}" if least == most else f"{least:g} to {most:g}",
                f"{100 * found.choice.scores[one]:.1f}",
                *(_shown(found, gap) for gap in (*gaps, *above)),
                f"{worst[0]:+.1f} `{worst[1]}`, {worst[2]}",
            ]
        )
    frontier = ("seen above the frontier", "held out above the frontier")
    return ["candidate", "setting", "share", "validation", *COLUMNS, *frontier, "worst"], lines


def _by_task(found: Results, one: Candidate) -> str:
    lines = [
        [f"`{task}`", *(_shown(found, found.difference(one, column, task)) for column in range(3))]
        for task in found.problems
    ]
    return f"`{one}`:\n\n{markdown(('task', *COLUMNS), lines)}"


def _strengths(found: Results) -> str:
    lines = []
    for (method, averaged), (setting, _) in found.choice.settings.items():
        rows = [found.runs[task, seed, setting] for task in found.problems for seed in found.seeds]
        known = [row.strength for row in rows if row.strength is not None]
        if known and not averaged:
            lines.append([f"`{method}`", f"{fmean(known):.3g}", f"{min(known):.3g}", f"{max(known):.3g}"])
    return markdown(("method", "mean", "least", "most"), lines)


def _data(found: Results, every: list[Candidate]) -> dict[str, object]:
    choice = found.choice
    return {
        "seeds": list(found.seeds),
        "primary": str(choice.primary),
        "criteria": [one._asdict() for one in found.criteria()],
        "candidates": {
            str(one): {
                "setting": choice.settings[one[:2]][0]._asdict(),
                "weights": choice.settings[one[:2]][1],
                "share": found.share(one),
                "validation": 100 * choice.scores[one],
                "minus": {title: found.difference(one, c)._asdict() for c, title in enumerate(COLUMNS)},
                "above_the_frontier": {title: found.gap(one, c)._asdict() for c, title in enumerate(COLUMNS) if c},
            }
            for one in every
        },
    }


def _draw(found: Results, every: list[Candidate], path: Path) -> None:
    """ID against OOD, each minus the peer: open markers are last weights, filled ones averages; the line is the path of
    plain fine-tuning averaged and interpolated."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharex=True)
    base = [fmean(found.mean(BASE, seed)[column] for seed in found.seeds) for column in range(3)]
    paths = [found.path(seed) for seed in found.seeds]
    for axes, column in zip(panels, (1, 2), strict=True):
        at = lambda point, column: 100 * (fmean(own[point][column] for own in paths) - base[column])
        points = range(1, len(paths[0]))  # without the foundation model, which is far away
        axes.plot([at(p, 0) for p in points], [at(p, column) for p in points], "-", color="#444444", lw=1)
        for one in every:
            colour, marker = _COLOURS[one.method]
            across, up = (found.difference(one, c) for c in (0, column))
            bars = {"xerr": across.half, "yerr": up.half} if one == found.choice.primary and up.half else {}
            size = {"none": 8, "own": 4, "fixed": 6}[one.rule]
            label = one.method if one.averaged and one.rule == "none" else None
            fill = colour if one.averaged else "white"
            axes.errorbar(across.mean, up.mean, **bars, fmt=marker, color=colour, mfc=fill, ms=size, lw=1, label=label)
        axes.axhline(0, color="#bbbbbb", lw=0.7)
        axes.axvline(0, color="#bbbbbb", lw=0.7)
        axes.set_xlabel(f"ID, points above {BASE}")
        axes.set_ylabel(f"{COLUMNS[column]}, points above {BASE}")
        clean(axes)
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    sizes = ", ".join(f"{rule} {size}" for rule, size in zip(RULES, ("large", "small", "middle"), strict=True))
    figure.suptitle(
        f"One setting for all tasks, {len(found.seeds)} seeds. Filled: averaged. WiSE-FT: {sizes}", fontsize=10
    )
    save(figure, path)
