"""How far a domain lies from the one that is fine-tuned on, by the foundation model's own embeddings."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from questions.model import Embeddings
from questions.scores import parts
from questions.start import Start
from vision.networks import Network, Params

__all__ = ["SPACES", "embedded", "excess", "shifts"]

SPACES = Embeddings._fields
"""Of the picture alone, of the question alone, and of both."""

_SHRINKAGE = 0.1
"""Of the covariance towards its diagonal's mean: there are more channels than pictures."""


def shifts(start: Start) -> dict[str, dict[str, float]]:
    """By test domain and space, how far it lies from the fine-tuning domain; of `id` itself, zero."""
    train = embedded(start.network, start.params, start.train)
    tests = {name: embedded(start.network, start.params, domain) for name, domain in start.tests.items()}
    return {
        name: {space: excess(own[space], tests["id"][space], train[space]) for space in SPACES}
        for name, own in tests.items()
    }


def excess(shifted: np.ndarray, own: np.ndarray, train: np.ndarray) -> float:
    """By how much points of a shifted domain lie further from the training points than in-domain ones do.

    Distances are Mahalanobis' to the mean of the training points, divided by the root of the number of channels:

        d(z) = sqrt((z - mean)^T C^-1 (z - mean) / channels),    result = mean d(shifted) - mean d(own)

    with C their covariance, shrunk by a tenth towards a multiple of the identity.

    Args:
        shifted: Embeddings `(n, channels)`.
        own: In-domain ones that were not trained on.
        train: Those of the fine-tuning domain.
    """
    mean, channels = train.mean(0), train.shape[1]
    spread = np.cov(train, rowvar=False)
    shrunk = (1 - _SHRINKAGE) * spread + _SHRINKAGE * np.trace(spread) / channels * np.eye(channels)
    root = np.linalg.cholesky(shrunk)
    far = lambda points: np.sqrt(np.square(np.linalg.solve(root, (points - mean).T)).mean(0)).mean()
    return float(far(shifted) - far(own))


def embedded(network: Network, params: Params, domain: Any) -> dict[str, np.ndarray]:
    """The embeddings of a domain by space, float64, a row for each picture or question."""
    found = [_embeddings(network.graphdef, network.rest, params, part) for part in parts(domain)]
    joined = {space: np.concatenate([getattr(one, space) for one in found])[: len(domain)] for space in SPACES}
    return {space: array.reshape(-1, array.shape[-1]).astype(np.float64) for space, array in joined.items()}


@partial(jax.jit, static_argnums=0)
def _embeddings(graphdef: Any, rest: Any, params: Params, seen: Mapping[str, jax.Array]) -> Embeddings:
    return Network(graphdef, rest).model(params).embed(seen)
