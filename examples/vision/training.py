"""Fine-tuning with one method: the jitted step, the loop round it, and checkpoints that lose nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.checkpoints import checkpoint_manager, restore, save
from vision.data import Domain, Example, steps_in, train_batches
from vision.networks import Network, Params

__all__ = ["OnStep", "Trained", "fine_tune", "make_step", "num_steps"]

OnStep = Callable[[int, float, float], None]
"""Called with the number of steps done, the last loss and the last accuracy."""

Step = Callable[[Params, Any, Example], tuple[Params, Any, dict[str, jax.Array]]]

LEARNED = ("radii", "strengths")

_MAX_STEPS_BETWEEN_CHECKPOINTS = 200
# Metrics stay on the device for a few steps, so that the host can run ahead of it.
_STEPS_BETWEEN_READS = 10


@dataclass(frozen=True, eq=False)
class Trained:
    """What one method ended with.

    Attributes:
        params: The fine-tuned parameters.
        opt_state: The optimizer's last state.
        history: By name one array with a row for each step: `loss`, `accuracy`, and where the method has them `radii`
            and `strengths` with a column for each layer; `seconds` and `timed_steps` are totals.
    """

    params: Params
    opt_state: Any
    history: dict[str, np.ndarray]


def make_step(network: Network, tx: optax.GradientTransformationExtraArgs) -> Step:
    """The jitted training step `(params, opt_state, batch) -> (params, opt_state, metrics)`.

    Parameters and optimizer state are donated: with arguments and results in this same order XLA updates both in
    place, and the anchor inside the state passes through without a copy.
    """

    def loss_fn(params: Params, batch: Example) -> tuple[jax.Array, jax.Array]:
        logits = network.logits(params, batch["image"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, (logits.argmax(-1) == batch["label"]).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any, dict[str, jax.Array]]:
        (loss, accuracy), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
        updates, opt_state = tx.update(gradients, opt_state, params)
        metrics = {"loss": loss, "accuracy": accuracy, **_learned_scalars(opt_state)}
        return optax.apply_updates(params, updates), opt_state, metrics

    return step


def num_steps(train: Domain, batch_size: int, epochs: int) -> int:
    """Length of a training run."""
    return steps_in(len(train), batch_size, epochs)


def fine_tune(
    network: Network,
    pretrained: Params,
    tx: optax.GradientTransformationExtraArgs,
    train: Domain,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    checkpoints: Path,
    on_step: OnStep,
) -> Trained:
    """Fine-tunes with one method, going on from the last checkpoint if there is one.

    Everything that the rest of the run depends on is in the checkpoint or a function of the arguments, so that a run
    killed at any moment ends with the very bits of one that was not.

    Args:
        network: The fixed part of the model.
        pretrained: Parameters to start from; left untouched.
        tx: The method.
        train: Images to train on.
        batch_size: Images in a step.
        epochs: Passes over `train`.
        seed: Of the order of the images.
        checkpoints: Directory of this method's checkpoints.
        on_step: Progress.
    """
    total = num_steps(train, batch_size, epochs)
    every = min(steps_in(len(train), batch_size, 1), _MAX_STEPS_BETWEEN_CHECKPOINTS)
    step = make_step(network, tx)
    # The first step donates its arguments, and every method starts from the same arrays.
    params = jax.tree.map(jnp.copy, pretrained)
    opt_state = tx.init(params)
    history = _new_history(total, opt_state)
    with checkpoint_manager(checkpoints) as manager:
        first = manager.latest_step() or 0
        if first:
            content = restore(manager, first, {"params": params, "opt_state": opt_state, "history": history})
            params, opt_state = jax.tree.map(jnp.asarray, (content["params"], content["opt_state"]))
            history = content["history"]
        clock = _Clock(history)
        unread: list[dict[str, jax.Array]] = []
        batches = train_batches(train, batch_size, seed=seed, first_step=first, num_steps=total)
        for done, batch in enumerate(batches, start=first + 1):
            params, opt_state, metrics = step(params, opt_state, batch)
            unread.append(metrics)
            at_checkpoint = done % every == 0 or done == total
            if at_checkpoint or not clock.running or len(unread) == _STEPS_BETWEEN_READS:
                _read(history, unread, done)
                clock.read(len(unread))
                unread.clear()
                on_step(done, float(history["loss"][done - 1]), float(history["accuracy"][done - 1]))
            if at_checkpoint:
                save(manager, done, {"params": params, "opt_state": opt_state, "history": history})
    return Trained(params, opt_state, history)


class _Clock:
    """Counts the seconds of training, and the steps in them, without the first step of a process, which compiles."""

    def __init__(self, history: dict[str, np.ndarray]) -> None:
        self.running = False
        self._history = history
        self._since = 0.0

    def read(self, steps: int) -> None:
        now = time.perf_counter()
        if self.running:
            self._history["seconds"] += now - self._since
            self._history["timed_steps"] += steps
        self.running, self._since = True, now


def _learned_scalars(opt_state: Any) -> dict[str, jax.Array]:
    """The radii and the strengths, where the method has them, in the order in which `ftp_optax.radii` tells them.

    Of all parts of an `optax.partition`: each has an array of its own.
    """
    parts = {name: [array for _, array in optax.tree.get_all_with_path(opt_state, name)] for name in LEARNED}
    return {name: jnp.concatenate(arrays) for name, arrays in parts.items() if arrays}


def _new_history(steps: int, opt_state: Any) -> dict[str, np.ndarray]:
    history: dict[str, np.ndarray] = {name: np.zeros(steps, np.float32) for name in ("loss", "accuracy")}
    for name, scalars in _learned_scalars(opt_state).items():
        history[name] = np.zeros((steps, *scalars.shape), np.float32)
    return history | {"seconds": np.zeros(()), "timed_steps": np.zeros((), np.int32)}


def _read(history: dict[str, np.ndarray], metrics: list[dict[str, jax.Array]], done: int) -> None:
    for index, row in enumerate(metrics, start=done - len(metrics)):
        for name, value in row.items():
            history[name][index] = np.asarray(value)
