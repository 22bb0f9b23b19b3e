"""Visual question answering: what fine-tuning on one style, wording and prior keeps of all others, by method.

An hour of one core for three seeds, resumable at any moment. npm fetches the emoji, the vision tower is the foundation
model of the robustness task; both are cached. Each run is a row of benchmarks/results/vqa.csv, and is not repeated;
trials are in vqa_trials.csv. --smallest: the embedded digits in place of emoji, little data, one seed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

import style
from evidence import summary, tables
from evidence.answerer import Answerer, EfficientNetTower, SmallTower
from evidence.ask import answers
from evidence.asked import FAR, NEAR, SOURCES, Asked, Sizes, asked, looks
from evidence.command import Evidence, stage
from evidence.emoji_task import emoji_task
from evidence.figures import frontiers
from evidence.foundation import cached, flat, foundation
from evidence.methods import ALL
from evidence.protocol import Study
from evidence.rows import COLUMNS as MAIN_COLUMNS
from evidence.rows import File, Row
from evidence.summary import Line
from evidence.tasks import Start, Task
from evidence.training import Knobs, OnStep, Recipe, predictions, train
from evidence.wordings import KINDS, WORDINGS, vocabulary
from vision.cache import digest
from vision.data import Domain, steps_in
from vision.data import Task as Data
from vision.networks import Params, split_model
from writer import markdown

COLUMNS = (*MAIN_COLUMNS[:8], "near_accuracy", "far_accuracy", *MAIN_COLUMNS[10:])
"""`domains`: for each test domain the accuracy in each kind of question, in the order of `evidence.wordings.KINDS`."""

SCORES = {"ID": "id_accuracy", "near": "near_accuracy", "far": "far_accuracy"}
METHODS = {
    name: ALL[name] for name in ("vanilla", "ftp", "digrap", "digrap_from_1", "ftp+digrap", "l2_sp", "spd")
}  # digrap_from_1 is the form that acts in short runs

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

    def fill(self) -> None:
        study = Study(
            task=questions_task(self.smallest),
            results=File(self.results / "vqa.csv", COLUMNS),
            tried=1 if self.smallest else 3,
            methods=METHODS,
            alphas=(0.3, 0.5, 0.7),
        )
        study.run_missing(self.methods, self.range(), stage)

    def tell(self) -> None:
        found = self.read("vqa.csv", COLUMNS)
        for name, text in pages(found).items():
            self.write(f"vqa-{name}", text)
        ups = {SCORES[degree]: f"mean accuracy under {degree} shifts (%)" for degree in ("near", "far")}
        figure = frontiers(found, (SCORES["ID"], "accuracy in domain (%)"), ups, (9, 5.2))
        style.save(figure, self.results / "vqa.png")


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


# tables

_FORGOTTEN = {
    "names of untuned classes": ("untuned categories", "name"),
    "counting to four": ("more things", "count"),
    "colours in the seen styles": ("seen style", "colour"),
    "whether there is any, prior reversed": ("answer prior", "presence"),
    "left or right, new wording and style": ("new wording and style", "position"),
}
"""What the foundation model was taught and the fine-tuning pictures do not ask for: by a line's title, the domain and
the kind of question."""


def pages(found: Sequence[Row]) -> dict[str, str]:
    """Everything by name."""
    lines = summary.lines(found)
    names = [f"`{line.method}`" for line in lines]
    scores = tables.scores(lines, SCORES), tables.differences(lines, SCORES), tables.curve(found, SCORES)
    forgotten = [[title, *of_kind(lines, (domain,), kind)] for title, (domain, kind) in _FORGOTTEN.items()]
    kinds = []
    for title, domains in (("In domain", ("id",)), ("Mean over all shifts", NEAR + FAR)):
        columns = (of_kind(lines, domains, kind) for kind in KINDS)
        kinds.append(f"{title}:\n\n{markdown(('method', *KINDS), [*zip(names, *columns, strict=True)])}")
    degrees = {"id": "", **dict.fromkeys(NEAR, "near"), **dict.fromkeys(FAR, "far")}
    body = [[name, degree, *of_domain(lines, name)] for name, degree in degrees.items()]
    return {
        "scores": "\n".join(part for part in scores if part),
        "forgotten": markdown(("", *names), forgotten),
        "kinds": "\n".join(kinds),
        "domains": markdown(("domain", "degree", *names), body, left=2),
    }


def of_domain(lines: Sequence[Line], domain: str) -> list[str]:
    """Each method's mean accuracy in a test domain, in percent."""
    means = (fmean(overall(row["domains"][domain]) for row in line.rows.values()) for line in lines)
    return [f"{100 * mean:.1f}" for mean in means]


def of_kind(lines: Sequence[Line], domains: Sequence[str], kind: str) -> list[str]:
    """Each method's mean accuracy in one kind of question over some domains, in percent."""
    place = KINDS.index(kind)
    found = ([row["domains"][name][place] for row in line.rows.values() for name in domains] for line in lines)
    return [f"{100 * overall(values):.1f}" for values in found]
