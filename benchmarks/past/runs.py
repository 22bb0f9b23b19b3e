"""One fine-tuning run as one row of numbers: what it reached, how far it went, how hard it was held."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from past.methods import METHODS, Factory
from past.tasks import Arrays, Start
from robust.training import gradient, learned, predictions
from vision.data import Domain, Example
from vision.metrics import accuracy

__all__ = ["Outcome", "Trial", "run"]


@dataclass(frozen=True)
class Trial:
    """What is varied in an experiment.

    Attributes:
        task: What is learned.
        method: A name in `METHODS`.
        knob: Its hyper-parameter.
        seed: Of the foundation model and of the order of the images.
        rate: Peak learning rate: linear warm-up over the first tenth, then cosine decay to zero.
        epochs: Passes over the training images at a batch of 32; other batches take as many steps.
        batch: Images in a step.
        judge_every: Steps between two held-out gradients for the radii; 0 for none at all.
        width: Of the network, as a multiple.
    """

    task: str
    method: str
    knob: float
    seed: int
    rate: float = 1e-3
    epochs: float = 15
    batch: int = 32
    judge_every: int = 0
    width: float = 1.0


class Outcome(NamedTuple):
    """What a run ended with.

    Attributes:
        validation: ID accuracy on the images for choosing.
        accuracy: Test accuracy by domain.
        params: The fine-tuned parameters.
        state: The optimizer's last state.
        history: Radii or strengths after every step, `(steps, n)`; empty where the method learns none.
    """

    validation: float
    accuracy: dict[str, float]
    params: Any
    state: Any
    history: np.ndarray


def run(start: Start, trial: Trial) -> Outcome:
    """Fine-tunes and evaluates. Trials that differ in numbers alone share one compiled update."""
    factory, rate, knob = METHODS[trial.method], jnp.float32(trial.rate), jnp.float32(trial.knob)
    steps = max(2, round(trial.epochs * len(start.train[1]) / 32))
    rates = optax.warmup_cosine_decay_schedule(0.0, trial.rate, max(1, steps // 10), steps)
    update = _update(factory, jax.tree.structure(start.params))
    params, key = jax.tree.map(jnp.copy, start.params), jax.random.key(trial.seed)
    state = factory(rate, knob).init(params)
    # the program of the other benchmarks, which the cache of compiled ones has
    slope = lambda arrays, batch, key: gradient(
        start.network.graphdef, start.network.rest, params, _taken(arrays, batch), key if start.augmented else None
    )[1]
    history = []
    for number, batch in enumerate(_batches(len(start.train[1]), trial.batch, steps, trial.seed)):
        grads = slope(start.train, batch, jax.random.fold_in(key, number))
        judges = grads
        if trial.judge_every and number % trial.judge_every == 0:
            everyone = np.arange(len(start.judge[1]), dtype=np.int32)
            judges = slope(start.judge, everyone, jax.random.fold_in(key, steps + number))
        params, state, scalars = update(params, state, grads, judges, jnp.float32(rates(number)), knob)
        history.append(scalars)
    test = {name: _accuracy(start, params, domain) for name, domain in start.tests.items()}
    return Outcome(_accuracy(start, params, start.validation), test, params, state, np.asarray(jax.device_get(history)))


def _batches(examples: int, batch: int, steps: int, seed: int) -> np.ndarray:
    """Indices `(steps, batch)` of shuffled epochs joined together."""
    rng = np.random.default_rng((seed, 7))
    epochs = -(-steps * batch // examples)
    order = np.concatenate([rng.permutation(examples) for _ in range(epochs)])
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)


def _taken(arrays: Arrays, batch: np.ndarray) -> Example:
    return {"image": arrays[0][batch], "label": arrays[1][batch]}


@functools.cache
def _update(factory: Factory, structure: Any) -> Callable[..., Any]:
    """The jitted update. Numbers are its arguments, so that a grid of them compiles once."""
    del structure  # part of the key: other parameters are another program

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(
        params: Any, state: Any, grads: Any, judges: Any, rate: jax.Array, knob: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        tx = optax.with_extra_args_support(factory(rate, knob))
        updates, state = tx.update(grads, state, params, held_out_grads=judges)
        return optax.apply_updates(params, updates), state, next(iter(learned(state).values()), jnp.zeros(0))

    return update


def _accuracy(start: Start, params: Any, domain: Domain) -> float:
    return accuracy(predictions(start.network, params, domain), domain.labels)
