"""Accuracy in every domain, of every method and of its interpolations with the pre-trained weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftp_optax import wise_ft
from vision.data import Domain, eval_batches, steps_in
from vision.methods import not_head
from vision.networks import Network, Params

__all__ = ["Candidate", "Predictions", "accuracy", "evaluate", "num_batches"]


class Candidate(NamedTuple):
    """Weights to evaluate: a method's, on the straight line from the pre-trained (0) to the fine-tuned ones (1)."""

    method: str
    alpha: float


Predictions = dict[Candidate, dict[str, np.ndarray]]
"""The predicted class of every image, by candidate and name of the set of images."""


def evaluate(
    network: Network,
    pretrained: Params,
    tuned: Mapping[str, Params],
    candidates: Sequence[Candidate],
    domains: Mapping[str, Domain],
    *,
    allowed: Mapping[str, np.ndarray],
    start: Candidate | None,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predicts the class of every image of every domain with every candidate.

    Every image is read once, for all candidates: with folders of photographs, decoding is what costs.

    Args:
        network: The fixed part of the model.
        pretrained: Parameters that all methods started from.
        tuned: Fine-tuned parameters by method.
        candidates: What to evaluate.
        domains: Sets of images by name.
        allowed: The classes to choose from, bool `(classes,)`, by name of the set; all where there is no entry.
        start: The candidate that all methods started from; None where its head is random, which then stays as tuned.
        batch_size: Images at a time; does not affect the result.
        on_batch: Called after each batch, for progress.
    """

    @jax.jit
    def predict(
        tuned: Params, pretrained: Params, alpha: jax.Array, allowed: jax.Array, images: jax.Array
    ) -> jax.Array:
        # the random start of a new head is nothing to go back to
        params = wise_ft(tuned, pretrained, alpha, mask=None if start else not_head)
        return jnp.where(allowed, network.logits(params, images), -jnp.inf).argmax(-1)

    # the end of a path that is the start of all methods is evaluated once, as that
    at_start = lambda candidate: start is not None and candidate.alpha == 0
    predictions: Predictions = {candidate: {} for candidate in candidates if not at_start(candidate)}
    for name, domain in domains.items():
        parts: dict[Candidate, list[np.ndarray]] = {candidate: [] for candidate in predictions}
        among = jnp.asarray(allowed.get(name, True))
        for batch in eval_batches(domain, batch_size):
            images, real = jnp.asarray(batch["image"]), batch["weight"] > 0
            for candidate, part in parts.items():
                # A typed scalar: every candidate shares the one compiled program.
                alpha = jnp.asarray(candidate.alpha, jnp.float32)
                part.append(np.asarray(predict(tuned[candidate.method], pretrained, alpha, among, images))[real])
            on_batch()
        for candidate, part in parts.items():
            predictions[candidate][name] = np.concatenate(part)
    return {candidate: predictions[start if start and at_start(candidate) else candidate] for candidate in candidates}


def num_batches(domains: Mapping[str, Domain], batch_size: int) -> int:
    """How many batches `evaluate` reads."""
    return sum(steps_in(len(domain), batch_size, 1) for domain in domains.values())


def accuracy(predicted: np.ndarray, domain: Domain) -> float:
    """The share of right predictions."""
    return float((predicted == domain.labels).mean())
