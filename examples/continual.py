"""Continual learning: five tasks in sequence, with `reanchor` between them.

    python examples/continual.py [--smallest]

Each task has the same digits in another domain. It has few images, and none of the earlier tasks. After each task the
current parameters become the anchor, so the next task stays near the model that has learned all tasks so far.
The mean accuracy on validation images of all tasks chooses the learning rates. The tables show test accuracy.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ftp_optax import ftp, reanchor
from recipes import show
from recipes.digits import Digits
from vision.data import ArrayDomain, Domain, Example, eval_batches, train_batches
from vision.digits import digits_task
from with_pytrees import Params, apply, init

IMAGES = 100  # of each task but the first
TASKS = ("clean", "inverted", "noisy", "rotated", "coloured")
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
RADII_RATES = (0.03, 0.1, 0.3)  # a task has forty steps, so the radii must grow fast


class Rates(NamedTuple):
    """The settings that validation images choose."""

    weights: float
    radii: float


def plain(learning_rate: float, radii_rate: float) -> optax.GradientTransformation:
    del radii_rate
    return optax.adam(learning_rate)


def trust_region(learning_rate: float, radii_rate: float) -> optax.GradientTransformationExtraArgs:
    return ftp(optax.adam(learning_rate), hyper_optimizer=optax.adam(radii_rate))


# injected, so that one compiled step serves all rates
METHODS = {"plain": plain, "ftp, one anchor": trust_region, "ftp, reanchored": trust_region}
INJECTED = {name: optax.inject_hyperparams(make)(learning_rate=0.0, radii_rate=0.0) for name, make in METHODS.items()}


@partial(jax.jit, static_argnames="name")
def step(name: str, params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
    def loss_fn(params: Params) -> jax.Array:
        logits = apply(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    updates, opt_state = INJECTED[name].update(jax.grad(loss_fn)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def learn(name: str, rates: Rates, params: Params, tasks: Sequence[Sequence[Example]]) -> Params:
    """The parameters after all tasks."""
    opt_state: Any = INJECTED[name].init(params)
    opt_state.hyperparams.update(learning_rate=jnp.float32(rates.weights), radii_rate=jnp.float32(rates.radii))
    for number, batches in enumerate(tasks):
        if number and name == "ftp, reanchored":
            opt_state = reanchor(opt_state, params)
        for batch in batches:
            params, opt_state = step(name, params, opt_state, batch)
    return params


@jax.jit
def accuracy(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    return (apply(params, images).argmax(-1) == labels).mean()


def accuracies(params: Params, domains: Iterable[Domain]) -> np.ndarray:
    whole = (next(eval_batches(domain, len(domain))) for domain in domains)
    return np.array([accuracy(params, batch["image"], batch["label"]) for batch in whole])


class Tasks(NamedTuple):
    """Batches of the first task and of the later ones, and validation and test images of all tasks."""

    first: list[Example]
    later: list[list[Example]]
    validation: list[Domain]
    test: list[Domain]

    @classmethod
    def load(cls, seed: int, smallest: bool) -> "Tasks":
        digits = Digits(digits_task(seed, smallest), smallest)
        domains = digits.domains()
        kept = len(domains["clean"]) // 4  # the last quarter of the digits, the same of each domain, is for validation
        part = lambda name, which: ArrayDomain(name, domains[name].images[which], domains[name].labels[which])
        batches = lambda name, images, size, steps: list(
            train_batches(part(name, slice(images)), size, seed=seed, num_steps=steps)
        )
        return cls(
            first=batches(TASKS[0], 3 * kept, 64, 40 if smallest else 300),
            later=[batches(name, IMAGES, IMAGES // 5, 10 if smallest else 40) for name in TASKS[1:]],
            validation=[part(name, slice(-kept, None)) for name in TASKS],
            test=[digits.task.ood[name] for name in TASKS],
        )


def grid(name: str, radii_rates: Sequence[float], smallest: bool) -> list[Rates]:
    """The settings to try: equally many for each method."""
    if name == "plain":
        return [Rates(float(rate), 0.0) for rate in ([1e-3] if smallest else np.geomspace(1e-4, 1e-2, 9))]
    rates = itertools.product(LEARNING_RATES, radii_rates)
    return [Rates(1e-3, 0.1)] if smallest else [Rates(*pair) for pair in rates]


def spread(values: np.ndarray) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def main(*, seeds: int = 5, radii_rates: tuple[float, ...] = RADII_RATES, smallest: bool = False) -> None:
    """Learns the tasks in sequence: with plain Adam, with one anchor for all tasks, and with `reanchor`.

    Args:
        seeds: Number of seeds. Each has its own split, initial network and image order.
        radii_rates: Learning rates of the radii to choose from.
        smallest: A quick run, to test that the script works.
    """
    results: dict[str, list[np.ndarray]] = {name: [] for name in ("after the first task", *METHODS)}
    chosen = {name: [] for name in METHODS}
    for seed in range(1 if smallest else seeds):
        tasks = Tasks.load(seed, smallest)
        start = learn("plain", Rates(1e-3, 0.0), init(jax.random.key(seed)), [tasks.first])
        results["after the first task"].append(accuracies(start, tasks.test))
        for name in METHODS:
            ends = {rates: learn(name, rates, start, tasks.later) for rates in grid(name, radii_rates, smallest)}
            best = max(ends, key=lambda rates: accuracies(ends[rates], tasks.validation).mean())
            results[name].append(accuracies(ends[best], tasks.test))
            chosen[name].append(f"{best.weights:g}, {best.radii:g}")

    rows = [
        (name, *map(spread, np.transpose(found)), spread(np.mean(found, axis=1))) for name, found in results.items()
    ]
    title = f"Accuracy in % on all tasks after the last one, mean and deviation over {len(results['plain'])} seeds"
    show.table(title, ("method", *TASKS, "mean"), rows)
    header = ("method", "rates of weights and radii, by seed")
    show.table("Chosen on validation", header, [(name, "; ".join(rates)) for name, rates in chosen.items()])


if __name__ == "__main__":
    tyro.cli(main)
