"""The page docs/vqa.md: every number of it comes from the rows and the distances."""

from collections.abc import Sequence
from pathlib import Path

from questions import tables
from questions.domains import FAR, NEAR, PER_PICTURE
from questions.protocol import COLUMNS
from questions.start import Amounts
from questions.tables import SCORES, Shift, correlations, domain_mean, kind_mean
from questions.wordings import KINDS
from robust import rows, summary
from robust.summary import Line
from robust.tables import curve, differences, figure, scores
from writer import markdown

__all__ = ["vqa"]

_AMOUNTS = Amounts()

_INTRODUCTION = f"""# Visual question answering

DiGraP's second half: a picture and a question, one of a fixed set of answers. What does fine-tuning on one artist's
style, one way of asking and one prior of the answers keep of all others? Every number on this page is from a row of
[vqa.csv](../benchmarks/results/vqa.csv) or a distance in [vqa_shifts.json](../benchmarks/results/vqa_shifts.json);
`python benchmarks/vqa.py` appends what is missing, `--report` writes this page.

**Questions.** A third of the pictures is the emoji classification benchmark recast: one drawing on white, *what is
this?* The others are composed scenes, one to three drawings on a photograph. What is asked (the name, what is furthest
to a side, how many, whether there is any, which colour, left or right) is read off the scene's layout, so the answer is
true by construction; where the layout leaves a doubt nothing is asked. {PER_PICTURE} questions a picture. Colour is a
special case: the style that is fine-tuned on is black and white.

**Model.** EfficientNet-Lite0, the foundation model of [Evidence](evidence.md) without its head, gives 4x4 cells of
features; one transformer block reads the question, two attend to words and cells together, a linear layer answers. The
foundation stage trains everything on {sum(_AMOUNTS.pretrain):,} pictures in six colour styles, both photographs, one to
four things, general wordings and answers without a skew. Fine-tuning, of everything again, takes
{sum(_AMOUNTS.train)} pictures in `fluent-high-contrast`, wordings of its own, one photograph, one to three things,
twelve of the sixteen classes, and a prior under which half of the answers are four times as likely as the others.

**Shifts.** Near: a wording that the foundation model knows, or one that nothing was trained on (of known words); the
reversed prior; another style; two at once. Far: four things, another photograph, the four classes that fine-tuning did
not show, and everything at once (but the classes). Test emoji are in no training picture. A domain's accuracy is the
mean over its kinds of question, on {sum(_AMOUNTS.test)} pictures.

**Protocol.** That of [Evidence](evidence.md): AdamW, warm-up and cosine decay, gradients clipped to norm 1; each method
has one knob, three settings of it are tried on the first seed
([vqa_trials.csv](../benchmarks/results/vqa_trials.csv)) and judged by in-domain validation pictures only. The learning
rate is the one that vanilla fine-tuning chose. `digrap` is learned from 0 as released, `digrap_from_1` starts at full
strength, the form that [acts in short runs](past_the_papers.md). A seed is another split, other scenes, another
foundation model and another order. Intervals are 95 %, by Student's t over seeds.
"""

_ABOUT_KINDS = """## By kind of question

The model is small and its foundation stage short, and it shows: whether there is any, tuned models answer by the prior
alone (right in domain, wrong where the prior is reversed, above), and what is furthest to a side is right little more
often than a guess among the classes. Names, counts, colours and positions carry the comparison.
"""

_DISTANCES = """## Distance and loss

How far a domain lies from the fine-tuning domain, in the foundation model's own embeddings of the picture, of the
question, and of both after fusion: the mean Mahalanobis distance to the fine-tuning pictures' mean, less that of
in-domain test pictures, over the root of the number of channels; 0 is no shift. Beside it the accuracy.
"""

_CORRELATIONS = f"""Pearson's correlation of those distances with the points of accuracy lost, over the
{len(NEAR + FAR)} shifted domains. With so few, correlations below 0.6 are not told from none.
"""


_FORGOTTEN = {
    "names of untuned classes": ("untuned categories", "name"),
    "counting to four": ("more things", "count"),
    "colours in the seen styles": ("seen style", "colour"),
    "whether there is any, prior reversed": ("answer prior", "presence"),
    "left or right, new wording and style": ("new wording and style", "position"),
}
"""What the foundation model was taught and the fine-tuning pictures do not ask for: by a line's title, the domain and
the kind of question."""

_ABOUT_FORGOTTEN = """## What is forgotten

Accuracy in what the foundation stage taught and the fine-tuning pictures never ask for, or ask for with other answers.
"""


def vqa(results: Path) -> str:
    """The page."""
    found, shifts = rows.read(results / "vqa.csv", COLUMNS), tables.shifts(results)
    lines = summary.lines(found)
    parts = [
        _INTRODUCTION,
        "## What fine-tuning keeps\n",
        figure(
            "vqa.png",
            "Accuracy in domain against shifted accuracy by method; loss against distance.",
            "Bars: 95 % intervals of the differences to `vanilla`, paired by seed.",
        ),
        scores(lines, SCORES),
        differences(lines, SCORES),
        curve(found, SCORES),
        _ABOUT_FORGOTTEN,
        _forgotten(lines),
        _ABOUT_KINDS,
        _kinds(lines),
        _DISTANCES,
        _domains(lines, list(shifts), list(shifts.values())),
        _CORRELATIONS,
        markdown(("method", *Shift._fields), [[_code(line), *_plain(correlations(line, shifts))] for line in lines]),
    ]
    return "\n".join(part for part in parts if part)


def _forgotten(lines: Sequence[Line]) -> str:
    body = [
        [title, *(f"{kind_mean(line, (domain,), kind):.1f}" for line in lines)]
        for title, (domain, kind) in _FORGOTTEN.items()
    ]
    return markdown(("", *map(_code, lines)), body)


def _kinds(lines: Sequence[Line]) -> str:
    parts = []
    for title, domains in (("In domain", ("id",)), ("Mean over all shifts", NEAR + FAR)):
        body = [[_code(line), *(f"{kind_mean(line, domains, kind):.1f}" for kind in KINDS)] for line in lines]
        parts.append(f"{title}:\n\n{markdown(('method', *KINDS), body)}")
    return "\n".join(parts)


def _domains(lines: Sequence[Line], names: Sequence[str], shifts: Sequence[Shift]) -> str:
    head = ("domain", "degree", *Shift._fields, *(_code(line) for line in lines))
    degree = lambda name: "near" if name in NEAR else "far" if name in FAR else ""
    body = [
        [name, degree(name), *_plain(shift), *(f"{domain_mean(line, name):.1f}" for line in lines)]
        for name, shift in zip(names, shifts, strict=True)
    ]
    return markdown(head, body, left=2)


def _code(line: Line) -> str:
    return f"`{line.method}`"


def _plain(shift: Shift) -> list[str]:
    return [f"{value:.2f}" for value in shift]
