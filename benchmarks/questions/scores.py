"""How well some weights answer: accuracy by domain and kind of question."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from questions.domains import FAR, NEAR, Asked
from questions.start import Start
from questions.wordings import KINDS
from vision.networks import Network, Params

__all__ = ["Scores", "by_kind", "loss", "overall", "predicted", "scores"]

_PICTURES = 80  # at a time; of one size, so that one compiled program serves all domains

Kinds = Sequence[float | None]
"""Accuracy in each kind of question, in the order of `KINDS`; None where none was asked."""


class Scores(NamedTuple):
    """Accuracies, as shares; a domain's is the mean over its kinds of question.

    Attributes:
        validation: On in-domain pictures that choose settings.
        id: On in-domain test pictures.
        near: Mean over the near shifts.
        far: Mean over the far shifts.
        domains: By test domain, its accuracy in each kind.
    """

    validation: float
    id: float
    near: float
    far: float
    domains: Mapping[str, Kinds]

    def columns(self) -> dict[str, Any]:
        """As a row of the results."""
        groups = {"id_accuracy": self.id, "near_accuracy": self.near, "far_accuracy": self.far}
        return {"validation_accuracy": self.validation, **groups, "domains": dict(self.domains)}


def scores(start: Start, params: Params) -> Scores:
    """Accuracy of some weights everywhere."""
    domains = {name: by_kind(predicted(start.network, params, asked), asked) for name, asked in start.tests.items()}
    mean = lambda names: float(np.mean([overall(domains[name]) for name in names]))
    validation = overall(by_kind(predicted(start.network, params, start.validation), start.validation))
    return Scores(validation, overall(domains["id"]), mean(NEAR), mean(FAR), domains)


def by_kind(answers: np.ndarray, domain: Asked) -> list[float | None]:
    """The share of right answers to each kind of question."""
    right = answers == domain.labels
    chosen = (domain.kinds == kind for kind in range(len(KINDS)))
    return [float(right[which].mean()) if which.any() else None for which in chosen]


def overall(kinds: Kinds) -> float:
    """The mean over kinds of question, so that a domain that can ask more of one kind is not another test."""
    return float(np.mean([kind for kind in kinds if kind is not None]))


def loss(own: Kinds, other: Kinds) -> float:
    """How much accuracy a shift costs, over the kinds of question that both domains have."""
    both = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
    return float(np.mean([a - b for a, b in both]))


def predicted(network: Network, params: Params, domain: Asked) -> np.ndarray:
    """The answer to every question of a domain, `(n, PER_PICTURE)`."""
    return np.concatenate([_answers(network.graphdef, network.rest, params, part) for part in parts(domain)])[
        : len(domain)
    ]


def parts(domain: Asked) -> list[dict[str, np.ndarray]]:
    """What the model sees of a domain, in parts of one size, the last one filled up with zeros."""
    missing = -len(domain) % _PICTURES
    pad = lambda array: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    pixels, words = pad(domain.pixels), pad(domain.words)
    cuts = range(0, len(pixels), _PICTURES)
    return [{"pixels": pixels[i : i + _PICTURES], "words": words[i : i + _PICTURES]} for i in cuts]


@partial(jax.jit, static_argnums=0)
def _answers(graphdef: Any, rest: Any, params: Params, seen: Mapping[str, jax.Array]) -> jax.Array:
    return Network(graphdef, rest).model(params)(seen).argmax(-1)
