"""Visual question answering: what fine-tuning on one style, wording and prior keeps of all others, by method.

An hour of one core for three seeds, resumable at any moment. npm fetches the emoji, the vision tower is the foundation
model of the robustness task; both are cached. Each run is a row of benchmarks/results/vqa.csv, and is not repeated;
trials are in vqa_trials.csv. How far each domain lies from the fine-tuning domain is in vqa_shifts.json. --smallest:
the embedded digits in place of emoji, little data, one seed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import jax
import numpy as np

import style
from evidence import summary, tables
from evidence.answerer import Answerer, EfficientNetTower, Embeddings, SmallTower
from evidence.ask import answers
from evidence.asked import FAR, NEAR, SOURCES, Asked, Sizes, asked, looks
from evidence.command import Evidence, stage
from evidence.emoji_task import emoji_task
from evidence.figures import frontier
from evidence.foundation import cached, flat, foundation
from evidence.methods import ALL
from evidence.protocol import Study
from evidence.rows import COLUMNS as MAIN_COLUMNS
from evidence.rows import File, Row
from evidence.summary import Line
from evidence.tasks import Run, Start, Task
from evidence.training import Knobs, OnStep, Recipe, in_batches, predictions, stacked, train
from evidence.wordings import KINDS, WORDINGS, vocabulary
from style import plt
from vision.cache import digest
from vision.data import Domain, steps_in
from vision.data import Task as Data
from vision.networks import Network, Params, split_model
from writer import markdown

COLUMNS = (*MAIN_COLUMNS[:8], "near_accuracy", "far_accuracy", *MAIN_COLUMNS[10:])
"""`domains`: for each test domain the accuracy in each kind of question, in the order of `evidence.wordings.KINDS`."""

SCORES = {"ID": "id_accuracy", "near": "near_accuracy", "far": "far_accuracy"}
METHODS = {
    name: ALL[name] for name in ("vanilla", "ftp", "digrap", "digrap_from_1", "ftp+digrap", "l2_sp", "spd")
}  # digrap_from_1 is the form that acts in short runs
SPACES = Embeddings._fields  # of the picture alone, of the question alone, and of both

Kinds = Sequence[float | None]  # accuracy in each kind of question; None where none was asked

_PICTURES = 80  # at a time; of one size, so that one compiled program serves all domains
_RATE = 1e-3  # of the foundation stage
_VERSION = 1  # to be raised when a change of the code, the composer's included, makes old cache entries stale


class Amounts(NamedTuple):
    """How much of everything."""

    pretrain: Sizes = Sizes(1000, 2600)  # pictures of the foundation stage
    pretrain_epochs: int = 2
    train: Sizes = Sizes(130, 270)
    validation: Sizes = Sizes(60, 100)
    test: Sizes = Sizes(60, 100)  # of each test domain


SMALLEST = Amounts(Sizes(16, 48), 1, Sizes(16, 48), Sizes(8, 24), Sizes(8, 24))


@dataclass(frozen=True)
class Options(Evidence):
    """Compares methods of robust fine-tuning on question answering; appends what the results lack, and reports."""

    methods: tuple[str, ...] = tuple(METHODS)  # Which methods; zero-shot and WiSE-FT's curve come with vanilla.
    seeds: int = 3  # Number of seeds, from 0: of split, scenes, foundation model and training.
    trials: int = 3  # Settings tried for each method, on the first seed; 1 for the defaults, untried.

    def fill(self) -> None:
        study = Study(
            task=questions_task(self.smallest),
            results=File(self.results / "vqa.csv", COLUMNS),
            tried=1 if self.smallest else self.trials,
            methods=METHODS,
            alphas=(0.3, 0.5, 0.7),
        )
        study.run_missing(self.methods, self.range(), stage, partial(_record_shifts, self.results / "vqa_shifts.json"))

    def tell(self) -> None:
        found, distances = self.read("vqa.csv", COLUMNS), read_shifts(self.results / "vqa_shifts.json")
        for name, text in pages(found, distances).items():
            self.write(f"vqa-{name}", text)
        _draw(found, distances, self.results / "vqa.png")


@dataclass(frozen=True, kw_only=True)
class Questions(Task):
    """Questions about the pictures of one source; what is left would be right in the mirror."""

    source: str
    amounts: Amounts

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        source, amounts = SOURCES[self.source], self.amounts
        make = lambda name, split, size: asked(source, name, looks(source)[name], split, seed, size)
        words, replies = vocabulary(source.world.classes), answers(source.world.classes)
        if self.source == "emoji":  # the classification benchmark's foundation model of this seed, without its head
            network, params = foundation(emoji_task(seed), seed, on_step)
            tower = EfficientNetTower(network.model(params))
        else:
            tower = SmallTower(seed)
        sizes = {"width": source.width, "depth": source.depth, "seed": seed}
        network, params = split_model(Answerer(tower, len(words), len(replies), **sizes))

        def trained() -> Params:
            domain = make("pretrain", "pretrain", amounts.pretrain)
            steps = steps_in(len(domain), self.batch_size, amounts.pretrain_epochs)
            same: Any = {"batch_size": self.batch_size, "seed": seed, "augment": False, "on_step": on_step}
            return train(network, params, Recipe(METHODS["vanilla"].build, steps), Knobs(_RATE), domain, **same).params

        config = [_VERSION, self.source, seed, amounts[0], amounts[1], WORDINGS, words, replies, _RATE]
        key = f"vqa-foundation-{digest(flat(params), json.dumps(config))[:32]}"
        data = Data(
            name=self.experiment,
            classes=replies,
            image_size=source.side,
            train=make("id", "train", amounts.train),
            validation=make("id", "validation", amounts.validation),
            id_test=make("id", "test", amounts.test),
            ood={name: make(name, "test", amounts.test) for name in NEAR + FAR},
            ood_groups={"near": NEAR, "far": FAR},
        )
        return Start(data, network, cached(key, params, trained))

    def score(self, start: Start, params: Params, domain: Domain) -> float:
        return overall(self.kinds(start, params, domain))

    def columns(self, start: Start, params: Params) -> Row:
        data = start.data
        every = {"id": data.id_test, **data.ood}
        domains = {name: self.kinds(start, params, domain) for name, domain in every.items()}
        groups = {"near_accuracy": NEAR, "far_accuracy": FAR}
        return {
            "validation_accuracy": self.score(start, params, data.validation),
            "id_accuracy": overall(domains["id"]),
            **{column: fmean(overall(domains[name]) for name in names) for column, names in groups.items()},
            "domains": domains,
        }

    def kinds(self, start: Start, params: Params, domain: Any) -> list[float | None]:
        """The share of right answers to each kind of question."""
        return by_kind(predictions(start.network, params, domain, _PICTURES), domain)


def questions_task(smallest: bool) -> Questions:
    """Of the emoji; smallest of the digits."""
    source = SOURCES["digits" if smallest else "emoji"]
    return Questions(
        experiment=f"vqa-{source.world.name}",
        id_domain=source.world.id_style,
        backbone="small-cnn" if smallest else "efficientnet-lite0",
        epochs=1 if smallest else 5,
        batch_size=16,  # of the foundation stage too: they share one compiled gradient
        smallest=smallest,
        source=source.world.name,
        amounts=SMALLEST if smallest else Amounts(),
    )


def by_kind(answers: np.ndarray, domain: Asked) -> list[float | None]:
    """The share of right answers to each kind of question."""
    right = answers == domain.labels
    chosen = (domain.kinds == kind for kind in range(len(KINDS)))
    return [float(right[which].mean()) if which.any() else None for which in chosen]


def overall(kinds: Kinds) -> float:
    """The mean over kinds of question, so that a domain that can ask more of one kind is not another test."""
    return fmean(kind for kind in kinds if kind is not None)


def loss(own: Kinds, other: Kinds) -> float:
    """How much accuracy a shift costs, over the kinds of question that both domains have."""
    return fmean(a - b for a, b in zip(own, other, strict=True) if a is not None and b is not None)


# how far a domain lies from the one that is fine-tuned on, by the foundation model's own embeddings


Shift = Mapping[str, float]
"""That distance by space."""


def _record_shifts(path: Path, method: str, seed: int, run: Run) -> None:
    """Writes each seed's shifts once."""
    present = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if str(seed) not in present:
        found = {name: {k: round(v, 5) for k, v in one.items()} for name, one in shifts(run.start).items()}
        path.write_text(json.dumps({**present, str(seed): found}, indent=1) + "\n", "utf-8")


def shifts(start: Start) -> dict[str, Shift]:
    """By test domain, how far it lies from the fine-tuning domain; of `id` itself, zero."""
    data = start.data
    embed = lambda domain: _embedded(start.network, start.params, domain)
    train, tests = embed(data.train), {"id": embed(data.id_test)}
    tests |= {name: embed(domain) for name, domain in data.ood.items()}
    return {
        name: {space: excess(own[space], tests["id"][space], train[space]) for space in SPACES}
        for name, own in tests.items()
    }


def excess(shifted: np.ndarray, own: np.ndarray, train: np.ndarray) -> float:
    """By how much points `(n, channels)` of a shifted domain lie further from the training points than in-domain ones.

    Distances are Mahalanobis' to the mean of the training points, divided by the root of the number of channels:

        d(z) = sqrt((z - mean)^T C^-1 (z - mean) / channels),    result = mean d(shifted) - mean d(own)

    with C their covariance, shrunk by a tenth towards a multiple of the identity: channels outnumber pictures.
    """
    mean, channels = train.mean(0), train.shape[1]
    spread = np.cov(train, rowvar=False)
    root = np.linalg.cholesky(0.9 * spread + 0.1 * np.trace(spread) / channels * np.eye(channels))
    far = lambda points: np.sqrt(np.square(np.linalg.solve(root, (points - mean).T)).mean(0)).mean()
    return float(far(shifted) - far(own))


def _embedded(network: Network, params: Params, domain: Any) -> dict[str, np.ndarray]:
    """The embeddings of a domain by space, float64, a row for each picture or question."""
    embed = lambda part: _embeddings(network.graphdef, network.rest, params, part)
    found = in_batches(embed, stacked(domain), _PICTURES)
    return {s: array.reshape(-1, array.shape[-1]).astype(np.float64) for s, array in found._asdict().items()}


@partial(jax.jit, static_argnums=0)
def _embeddings(graphdef: Any, rest: Any, params: Params, seen: Mapping[str, jax.Array]) -> Embeddings:
    return Network(graphdef, rest).model(params).embed(seen)


def read_shifts(path: Path) -> dict[str, Shift]:
    """Of every test domain, means over seeds."""
    by_seed: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    mean = lambda name, space: fmean(one[name][space] for one in by_seed.values())
    return {name: {space: mean(name, space) for space in SPACES} for name in ("id", *NEAR, *FAR)}


# tables and figure

_FORGOTTEN = {
    "names of untuned classes": ("untuned categories", "name"),
    "counting to four": ("more things", "count"),
    "colours in the seen styles": ("seen style", "colour"),
    "whether there is any, prior reversed": ("answer prior", "presence"),
    "left or right, new wording and style": ("new wording and style", "position"),
}
"""What the foundation model was taught and the fine-tuning pictures do not ask for: by a line's title, the domain and
the kind of question."""


def pages(found: Sequence[Row], distances: Mapping[str, Shift]) -> dict[str, str]:
    """Everything by name."""
    lines = summary.lines(found)
    names = [f"`{line.method}`" for line in lines]
    scores = tables.scores(lines, SCORES), tables.differences(lines, SCORES), tables.curve(found, SCORES)
    forgotten = [
        [title, *(f"{kind_mean(line, (d,), k):.1f}" for line in lines)] for title, (d, k) in _FORGOTTEN.items()
    ]
    kinds = []
    for title, domains in (("In domain", ("id",)), ("Mean over all shifts", NEAR + FAR)):
        cells = [[f"{kind_mean(line, domains, kind):.1f}" for kind in KINDS] for line in lines]
        body = [[name, *own] for name, own in zip(names, cells, strict=True)]
        kinds.append(f"{title}:\n\n{markdown(('method', *KINDS), body)}")
    degree = lambda name: "near" if name in NEAR else "far" if name in FAR else ""
    plain = lambda shift: [f"{value:.2f}" for value in shift.values()]
    body = [
        [name, degree(name), *plain(shift), *(f"{domain_mean(line, name):.1f}" for line in lines)]
        for name, shift in distances.items()
    ]
    correlated = [[f"`{line.method}`", *plain(correlations(line, distances))] for line in lines]
    return {
        "scores": "\n".join(part for part in scores if part),
        "forgotten": markdown(("", *names), forgotten),
        "kinds": "\n".join(kinds),
        "distances": markdown(("domain", "degree", *SPACES, *names), body, left=2),
        "correlations": markdown(("method", *SPACES), correlated),
    }


def domain_mean(line: Line, domain: str) -> float:
    """A method's mean accuracy in a test domain, in percent."""
    return 100 * fmean(overall(row["domains"][domain]) for row in line.rows.values())


def kind_mean(line: Line, domains: Sequence[str], kind: str) -> float:
    """A method's mean accuracy in one kind of question over some domains, in percent."""
    found = (row["domains"][domain][KINDS.index(kind)] for row in line.rows.values() for domain in domains)
    return 100 * fmean(value for value in found if value is not None)


def loss_mean(line: Line, domain: str) -> float:
    """How many points of accuracy a shift costs a method."""
    return 100 * fmean(loss(row["domains"]["id"], row["domains"][domain]) for row in line.rows.values())


def correlations(line: Line, found: Mapping[str, Shift]) -> Shift:
    """Pearson's correlation, over the shifted domains, of what a shift costs a method with how far it is."""
    losses = [loss_mean(line, name) for name in (*NEAR, *FAR)]
    columns = {space: [found[name][space] for name in (*NEAR, *FAR)] for space in SPACES}
    correlated = lambda column: float(np.corrcoef(column, losses)[0, 1]) if np.ptp(losses) else 0.0
    return {space: correlated(column) for space, column in columns.items()}


def _draw(rows: Sequence[Row], distances: Mapping[str, Shift], path: Path) -> None:
    """ID accuracy against that under near and far shifts; accuracy lost against distance, domain by domain.

    Only methods with all the seeds: a mean over other splits is no neighbour of theirs.
    """
    most = max(len(line.rows) for line in summary.lines(rows))
    whole = {line.method for line in summary.lines(rows) if len(line.rows) == most}
    found = [row for row in rows if row["method"] in whole]
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
    for axes, name in zip(panels, ("near", "far"), strict=False):
        frontier(axes, found, SCORES["ID"], SCORES[name])
        style.label(axes, "accuracy in domain (%)", f"mean accuracy under {name} shifts (%)")
    panels[0].legend(frameon=False, fontsize=8)
    axes, lines = panels[2], {line.method: line for line in summary.lines(found)}
    compared = [lines[name] for name in ("vanilla", "ftp") if name in lines]
    for line in compared:
        look = style.of(line.method)
        for names, face in ((NEAR, "none"), (FAR, look["color"])):
            far, lost = [distances[n]["fused"] for n in names], [loss_mean(line, n) for n in names]
            marks = {"edgecolors": look["color"], "facecolors": face, "marker": look["marker"]}
            axes.scatter(far, lost, s=36, label=line.method if names is FAR else None, **marks)
    for name in (*NEAR, *FAR):
        top = max(loss_mean(line, name) for line in compared)
        axes.annotate(name, (distances[name]["fused"], top), (4, 4), textcoords="offset points", fontsize=7)
    axes.axhline(0, color="#999999", lw=0.8)
    axes.margins(x=0.2)
    style.label(
        axes, "distance, picture and question fused (hollow: near, filled: far)", "accuracy lost to the shift (points)"
    )
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    style.save(figure, path)
