"""Where all runs of a seed start from: the domains, and a foundation model that answers questions in seen styles."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from questions.ask import answers
from questions.domains import FAR, NEAR, Asked, Sizes, asked, looks
from questions.methods import METHODS
from questions.model import Answerer, EfficientNetTower, SmallTower, Tower
from questions.sources import SOURCES, Source
from questions.wordings import WORDINGS, vocabulary
from robust.foundation import foundation as classifier
from robust.splits import emoji_task
from robust.training import Knobs, OnStep, Recipe, train
from vision.cache import digest, load_arrays, store_arrays
from vision.data import steps_in
from vision.networks import Network, Params, path_of, split_model

__all__ = ["BATCH_SIZE", "Amounts", "Start", "start"]

BATCH_SIZE = 16
"""Pictures in a step, in the foundation stage and in fine-tuning: they share one compiled gradient."""

_RATE = 1e-3  # of the foundation stage

# To be raised when a change of the code, the composer's included, makes old cache entries stale.
_VERSION = 1


class Amounts(NamedTuple):
    """How much of everything.

    Attributes:
        pretrain: Pictures of the foundation stage.
        pretrain_epochs: Passes over them.
        train: Pictures that are fine-tuned on.
        validation: Pictures that choose settings.
        test: Pictures of each test domain.
    """

    pretrain: Sizes = Sizes(1000, 2600)
    pretrain_epochs: int = 2
    train: Sizes = Sizes(130, 270)
    validation: Sizes = Sizes(60, 100)
    test: Sizes = Sizes(60, 100)


SMALLEST = Amounts(Sizes(16, 48), 1, Sizes(16, 48), Sizes(8, 24), Sizes(8, 24))
"""To see that everything works."""


@dataclass(frozen=True)
class Start:
    """Where all runs of one seed start from.

    Attributes:
        network: The fixed part of the foundation model.
        params: Its parameters.
        source: The drawings.
        seed: Of the split and of everything random.
        amounts: How much of everything.
    """

    network: Network
    params: Params
    source: Source
    seed: int
    amounts: Amounts

    @cached_property
    def train(self) -> Asked:
        """What is fine-tuned on."""
        return self._own("train", self.amounts.train)

    @cached_property
    def validation(self) -> Asked:
        """What chooses settings; in domain."""
        return self._own("validation", self.amounts.validation)

    @cached_property
    def tests(self) -> Mapping[str, Asked]:
        """`id`, and every shift of it."""
        found, size = looks(self.source), self.amounts.test
        names = ("id", *NEAR, *FAR)
        return {name: asked(self.source, name, found[name], "test", self.seed, size) for name in names}

    def _own(self, split: str, sizes: Sizes) -> Asked:
        return asked(self.source, "id", looks(self.source)["id"], split, self.seed, sizes)


def start(name: str, seed: int, *, smallest: bool = False, on_step: OnStep | None = None) -> Start:
    """The domains and the foundation model of one seed; trained once, then kept in the cache.

    Args:
        name: Of a source in `questions.sources.SOURCES`.
        seed: Of the split and of the foundation model.
        smallest: A few pictures and one pass over them.
        on_step: Progress, if the foundation model must be trained.

    Raises:
        UserError: A package or a program that is needed is missing.
    """
    source, amounts = SOURCES[name], SMALLEST if smallest else Amounts()
    words, replies = vocabulary(source.classes), answers(source.classes)
    network, params = split_model(
        Answerer(
            _tower(name, seed, on_step),
            len(words),
            len(replies),
            width=source.width,
            depth=source.depth,
            seed=seed,
        )
    )
    config = [_VERSION, name, seed, amounts.pretrain, amounts.pretrain_epochs, WORDINGS, words, replies, _RATE]
    key = f"vqa-foundation-{digest(_flat(params), json.dumps(config))[:32]}"
    weights = load_arrays(key)
    if weights is None:
        pretrain = asked(source, "pretrain", looks(source)["pretrain"], "pretrain", seed, amounts.pretrain)
        recipe = Recipe(METHODS["vanilla"].build, steps_in(len(pretrain), BATCH_SIZE, amounts.pretrain_epochs))
        trained = train(
            network, params, recipe, Knobs(_RATE), pretrain,
            batch_size=BATCH_SIZE, seed=seed, augment=False, on_step=on_step,
        )  # fmt: skip
        weights = _flat(trained.params)
        store_arrays(key, weights)
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_of(path)]), params)
    return Start(network, filled, source, seed, amounts)


def _tower(name: str, seed: int, on_step: OnStep | None) -> Tower:
    """The classification benchmark's foundation model of this seed, without its head; for digits, an untrained one."""
    if name == "emoji":
        network, params = classifier(emoji_task(seed), seed, on_step)
        return EfficientNetTower(network.model(params))
    return SmallTower(seed)


def _flat(params: Params) -> dict[str, np.ndarray]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {path_of(path): np.asarray(leaf) for path, leaf in leaves}
