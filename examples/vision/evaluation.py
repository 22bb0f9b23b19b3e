"""What every method, and its interpolations with the pre-trained weights, predict in every domain."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ftp_optax import wise_ft
from vision.data import Domain, eval_batches, steps_in
from vision.devices import Devices
from vision.methods import not_head
from vision.networks import Network, Weights

__all__ = ["Candidate", "Predicted", "Predictions", "evaluate", "num_batches"]


class Candidate(NamedTuple):
    """Weights to evaluate: a method's, on the straight line from the pre-trained (0) to the fine-tuned ones (1)."""

    method: str
    alpha: float


class Predicted(NamedTuple):
    """What one candidate says of a set of images, a row for each image in the set's order.

    Attributes:
        labels: The predicted classes.
        confidence: Their probabilities among the classes to choose from, float32.
        counted: False for an image that could not be read and was passed over: its row says nothing.
    """

    labels: np.ndarray
    confidence: np.ndarray
    counted: np.ndarray


Predictions = dict[Candidate, dict[str, Predicted]]
"""By candidate and name of the set of images."""


def evaluate(
    network: Network,
    pretrained: Weights,
    tuned: Mapping[str, Weights],
    candidates: Sequence[Candidate],
    domains: Mapping[str, Domain],
    *,
    allowed: Mapping[str, np.ndarray],
    start: Candidate | None,
    batch_size: int,
    devices: Devices,
    on_batch: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predicts the class of every image of every domain with every candidate.

    Every image is read once, for all candidates: with folders of photographs, decoding is what costs. Of several
    processes each reads its share of every batch, and all have all the predictions.

    Args:
        network: The fixed part of the model.
        pretrained: Weights that all methods started from.
        tuned: Fine-tuned weights by method.
        candidates: What to evaluate.
        domains: Sets of images by name.
        allowed: The classes to choose from, bool `(classes,)`, by name of the set; all where there is no entry.
        start: The candidate that all methods started from; None where its head is random, which then stays as tuned.
        batch_size: Images at a time, over all devices; does not affect the result.
        devices: Where.
        on_batch: Called after each batch, for progress.
    """
    # the end of a path that is the start of all methods is evaluated once, as that
    at_start = lambda candidate: start is not None and candidate.alpha == 0
    predictions: Predictions = {candidate: {} for candidate in candidates if not at_start(candidate)}
    for name, domain in domains.items():
        parts: dict[Candidate, list[tuple[np.ndarray, np.ndarray]]] = {candidate: [] for candidate in predictions}
        weight: list[np.ndarray] = []
        among = np.asarray(allowed.get(name, True))
        for read in eval_batches(domain, batch_size, reading=devices.reading):
            batch = devices.place(read)
            weight.append(devices.gather(batch["weight"]))
            for candidate, part in parts.items():
                # An array: every candidate shares the one compiled program. NumPy's, which all processes may pass.
                alpha = np.asarray(candidate.alpha, np.float32)
                weights = tuned[candidate.method]
                found = _predict(network, weights, pretrained, alpha, among, batch["image"], keep_head=start is None)
                part.append((devices.gather(found[0]), devices.gather(found[1])))
            on_batch()
        # rows in the order of the images, and filling after the last of them
        counted = np.concatenate(weight)[: len(domain)] > 0
        for candidate, part in parts.items():
            labels, confidence = (np.concatenate(column)[: len(domain)] for column in zip(*part, strict=True))
            predictions[candidate][name] = Predicted(labels, confidence, counted)
    return {candidate: predictions[start if start and at_start(candidate) else candidate] for candidate in candidates}


@partial(jax.jit, static_argnames="keep_head")
def _predict(
    network: Network,
    tuned: Weights,
    pretrained: Weights,
    alpha: Any,
    allowed: Any,
    images: jax.Array,
    *,
    keep_head: bool,
) -> tuple[jax.Array, jax.Array]:
    """Classes and their probabilities."""
    params, stats = _between(pretrained, tuned, alpha, keep_head=keep_head)
    logits = jnp.where(allowed, network.logits(params, images, stats).astype(jnp.float32), -jnp.inf)
    return logits.argmax(-1), jax.nn.softmax(logits).max(-1)


def _between(pretrained: Weights, tuned: Weights, alpha: Any, *, keep_head: bool) -> Weights:
    """The weights so far on the way; the random start of a new head is nothing to go back to."""
    (start, start_stats), (params, stats) = pretrained, tuned
    mask = not_head(params) if keep_head else None
    if mask is None or any(jax.tree.leaves(mask)):
        params = wise_ft(params, start, alpha, mask=mask)
    return Weights(params, wise_ft(stats, start_stats, alpha))


def num_batches(domains: Mapping[str, Domain], batch_size: int) -> int:
    """How many batches `evaluate` reads."""
    return sum(steps_in(len(domain), batch_size, 1) for domain in domains.values())
