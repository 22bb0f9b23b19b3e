"""Fine-tuning with one method: the loop round the jitted step, which loses nothing."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import CheckpointManager
from PIL import Image

import ftp_optax
from vision.augment import augmentation
from vision.checkpoints import checkpoint_manager, of_each, restore, save
from vision.config import Config
from vision.data import Domain, Example, Task, eval_batches, steps_in, train_batches
from vision.devices import Devices
from vision.errors import UserError
from vision.history import Clock, Plan, new_history
from vision.methods import Method
from vision.networks import Network, Params, Weights
from vision.step import Targets, cross_entropy, make_step

__all__ = ["Best", "OnStep", "Trained", "fine_tune", "num_steps"]

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called with the number of steps done and what was last measured: `loss`, `accuracy`, ..."""

# Metrics stay on the device for a few steps, so that the host can run ahead of it.
_STEPS_BETWEEN_READS = 10


class Best(NamedTuple):
    """The weights of the best validation accuracy, where those are not the last."""

    step: int
    accuracy: float
    weights: Weights


@dataclass(frozen=True, eq=False)
class Trained:
    """What one method ended with. Its optimizer's state is freed: what it learned is told here.

    Attributes:
        weights: The last weights.
        best: The best weights, where they are others.
        radii: As `ftp_optax.radii` tells them at the end.
        strengths: As `ftp_optax.strengths` does.
        history: By name one array with a row for each step: `loss`, `accuracy`, and where the method has them `radii`
            and `strengths` with a column for each layer. `seconds`, `waited_seconds`, `timed_steps` and `bad_images`
            are totals.
        validations: Step, accuracy and loss of each look at the validation images.
        stopped_early: Whether the accuracy had not become better for so long as was asked for.
    """

    weights: Weights
    best: Best | None
    radii: Mapping[str, Any]
    strengths: Mapping[str, Any]
    history: dict[str, np.ndarray]
    validations: list[tuple[int, float, float]]
    stopped_early: bool

    def selected(self, which: str) -> Weights:
        """The weights to report: the `last` or the `best`."""
        return self.best.weights if which == "best" and self.best is not None else self.weights

    def mapped(self, function: Callable[[Weights], Weights]) -> "Trained":
        """With the last and best weights changed."""
        best = None if self.best is None else self.best._replace(weights=function(self.best.weights))
        return dataclasses.replace(self, weights=function(self.weights), best=best)


def num_steps(task: Task, config: Config) -> int:
    """Length of a training run."""
    return steps_in(task.epoch, config.batch_size, config.epochs)


def fine_tune(
    name: str,
    method: Method,
    network: Network,
    pretrained: Params,
    task: Task,
    config: Config,
    *,
    devices: Devices,
    checkpoints: Path,
    best_checkpoints: Path,
    on_step: OnStep,
) -> Trained:
    """Fine-tunes with one method, going on from the last checkpoint if there is one.

    Everything that the rest of the run depends on is in the checkpoint or a function of the arguments, so that a run
    killed at any moment ends with the very bits of one that was not.

    Args:
        name: What errors call it.
        method: How.
        network: The fixed part of the model.
        pretrained: Parameters to start from; left untouched.
        task: Images to train on, to validate on, and to learn TPGM's radii on.
        config: Everything else.
        devices: Where.
        checkpoints: Directory of this method's checkpoints.
        best_checkpoints: Directory of its best weights.
        on_step: Progress.

    Raises:
        UserError: A loss that is not finite, an image that cannot be read, a checkpoint that cannot be written.
    """
    total = num_steps(task, config)
    # The first step donates its arguments, and every method starts from the same arrays.
    params, stats = devices.put(pretrained), devices.put(network.stats, whole=True)
    # what is looked at, kept and reported
    result = lambda: Weights(_average(opt_state, params) if method.averaged else params, stats)
    opt_state = devices.init(method.tx, params)
    plan = Plan.of(config, task, total)
    history = new_history(total, plan.looks, opt_state)
    at = lambda done: np.array((config.seed, done), np.uint32)
    step = make_step(
        method.tx, config, held_out=method.held_out, shardings=devices.shardings_like((params, opt_state, stats))
    )
    with ExitStack() as stack:
        manager = stack.enter_context(checkpoint_manager(checkpoints, keep=config.keep))
        best = stack.enter_context(checkpoint_manager(best_checkpoints))
        first = manager.latest_step() or 0
        if first:
            content = {"params": params, "opt_state": opt_state, "stats": stats, "history": history}
            found = restore(manager, first, content)
            params, opt_state, stats, history = (found[key] for key in content)
        clock, unread, saved_at, done = Clock(history), [], time.monotonic(), first
        last = int(history["stopped"]) or total
        for batch, held in _batches(method, task, config, devices, clock, first, total) if first < last else ():
            params, opt_state, stats, metrics = step(params, opt_state, stats, batch, at(done), network, held)
            unread.append(metrics)
            done += 1
            validating, saving = plan.validates(done), plan.saves(done)
            reading = saving or validating or not clock.running or len(unread) == _STEPS_BETWEEN_READS
            if not reading:
                continue
            _read(history, unread, done, name, manager)
            clock.read(len(unread))
            unread.clear()
            if config.save_minutes:
                saving |= devices.agree(time.monotonic() - saved_at > 60 * config.save_minutes)
            measured = {key: float(history[key][done - 1]) for key in ("loss", "accuracy")}
            if validating:
                weights = result()
                improved = _validate(history, plan, done, network, weights, task.validation, devices)
                accuracy, loss = history["validation"][plan.look(done)].tolist()
                measured |= {"validation_accuracy": accuracy, "validation_loss": loss}
                stopping = 0 < config.patience <= plan.since_best(history, done)
                if improved and plan.looks > 1 and done not in best.all_steps():
                    save(best, done, weights._asdict())
                if stopping:
                    history["stopped"][...] = done
                clock.skip()
            on_step(done, measured | clock.rates(config.batch_size))
            if saving or history["stopped"]:
                _check_finite(params, name, done, manager)
                save(manager, done, {"params": params, "opt_state": opt_state, "stats": stats, "history": history})
                saved_at = time.monotonic()
            if history["stopped"]:
                break
        weights = result()
        if method.project_after:
            projected = _projected(weights.params, pretrained, stats, network, method, task, config, devices)
            weights = Weights(projected, stats)
            # what is reported is what is looked at last
            _validate(history, plan, done, network, weights, task.validation, devices)
        top = plan.best(history)
        best_weights = None
        # a finished run has its best weights as files alone, unless they are what is reported
        kept = top is not None and (config.select == "best" or top[0] in best.all_steps())
        if top is not None and kept and top[0] != done and not method.project_after:
            best_weights = Best(*top, Weights(**restore(best, top[0], weights._asdict())))
    return Trained(
        weights,
        best_weights,
        ftp_optax.radii(opt_state, params) if "radii" in history else {},
        ftp_optax.strengths(opt_state, params) if "strengths" in history else {},
        {key: rows[:done] if rows.ndim and key != "validation" else rows for key, rows in history.items()},
        plan.reached(history, done),
        bool(history["stopped"]),
    )


def _batches(
    method: Method, task: Task, config: Config, devices: Devices, clock: Clock, first: int, total: int
) -> Iterator[tuple[Example, Example | None]]:
    """The batches of each step, on the devices."""
    augment = augmentation(config.augment, task.image_size, Image.Resampling(task.interpolation))
    options: dict[str, Any] = {"first_step": first, "num_steps": total, "reading": devices.reading}
    batches = train_batches(
        task.train, config.batch_size, seed=config.seed, epoch=task.epoch, augment=augment, **options
    )
    # as many held-out images as training images, in an order of their own
    held_out = train_batches(task.validation, config.batch_size, seed=config.seed + 1, **options)
    for _ in range(first, total):
        asked = time.perf_counter()
        batch = next(batches)
        held = devices.place(next(held_out)) if method.held_out else None
        clock.waiting(time.perf_counter() - asked)
        yield devices.place(batch), held


_average = jax.jit(ftp_optax.averaged_params)


@jax.jit
def _scores(network: Network, weights: Weights, batch: Example) -> jax.Array:
    """Sums over the batch of accuracy, loss and weight."""
    logits = network.logits(weights.params, batch["image"], weights.stats)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    rows = jnp.stack([(logits.argmax(-1) == batch["label"]).astype(jnp.float32), loss, jnp.ones_like(loss)])
    return jnp.where(batch["weight"] > 0, rows, 0).sum(1)


def _validate(
    history: dict[str, np.ndarray],
    plan: Plan,
    done: int,
    network: Network,
    weights: Weights,
    domain: Domain,
    devices: Devices,
) -> bool:
    """Records accuracy and loss; says whether the accuracy is better than ever."""
    sums = np.zeros(3)
    for batch in eval_batches(domain, devices.eval_batch_size, reading=devices.reading):
        sums += np.asarray(_scores(network, weights, devices.place(batch)), np.float64)
    at = plan.look(done)
    better = sums[0] / sums[2] > history["validation"][:at, 0].max(initial=-1)
    history["validation"][at] = sums[:2] / sums[2]
    return bool(better)


def _projected(
    params: Params,
    pretrained: Params,
    stats: Any,
    network: Network,
    method: Method,
    task: Task,
    config: Config,
    devices: Devices,
) -> Params:
    """TPGM after training: radii learned on validation batches."""
    loss_fn = cross_entropy(network, Targets.of(config))
    batches = train_batches(
        task.validation,
        config.batch_size,
        seed=config.seed + 1,
        num_steps=config.project_steps,
        reading=devices.reading,
    )
    return ftp_optax.tpgm_project(
        params,
        devices.put(pretrained),
        lambda p, batch: loss_fn(p, stats, batch, jax.random.key(0))[0],
        map(devices.place, batches),
        hyper_optimizer=optax.adam(config.radii_lr),
        mask=method.mask,
    )


def _read(
    history: dict[str, np.ndarray],
    metrics: list[dict[str, jax.Array]],
    done: int,
    name: str,
    manager: CheckpointManager,
) -> None:
    for index, row in enumerate(metrics, start=done - len(metrics)):
        if not math.isfinite(loss := float(row["loss"])):
            raise _diverged(name, f"the loss is {loss} at step {index + 1}", manager)
        for key, value in row.items():
            if history[key].ndim:
                history[key][index] = np.asarray(value)
            else:
                history[key] += np.asarray(value, history[key].dtype)


def _check_finite(params: Params, name: str, done: int, manager: CheckpointManager) -> None:
    """A checkpoint that is written can be gone on from."""
    if not all(of_each(_finite, jax.tree.leaves(params))):
        raise _diverged(name, f"parameters are not finite after step {done}", manager)


@jax.jit
def _finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def _diverged(name: str, what: str, manager: CheckpointManager) -> UserError:
    manager.wait_until_finished()
    last = manager.latest_step()
    kept = "there is no checkpoint yet" if last is None else f"the checkpoint of step {last} is kept"
    return UserError(
        f"{name}: {what}; {kept} in {manager.directory}. If it happens again with --resume, start a run with a "
        "lower --lr, or without that method"
    )
