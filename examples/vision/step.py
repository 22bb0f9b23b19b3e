"""The jitted training step: loss, gradient, method, in one program."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vision.config import Config
from vision.data import Example
from vision.mixing import mixed, soft_targets
from vision.networks import Network, Params

__all__ = ["Targets", "cross_entropy", "learned_scalars", "make_step"]

_LEARNED = ("radii", "strengths")
"""What methods learn: the names in their states, and of the columns in a history."""


class Targets(NamedTuple):
    """How labels become targets: of the configuration, all that the loss depends on."""

    label_smoothing: float
    mixup: float
    cutmix: float

    @classmethod
    def of(cls, config: Config) -> "Targets":
        return cls(config.label_smoothing, config.mixup, config.cutmix)


def cross_entropy(network: Network, targeted: Targets) -> Callable[..., tuple[jax.Array, Any]]:
    """The training loss `(params, stats, batch, key) -> (loss, (new stats, accuracy))` of a batch."""

    def loss_fn(params: Params, stats: Any, batch: Example, key: jax.Array) -> tuple[jax.Array, Any]:
        images, labels = batch["image"], batch["label"]
        if not any(targeted):
            logits, stats = network.train_logits(params, stats, images)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        else:
            classes = jax.eval_shape(network.logits, params, images).shape[-1]
            targets = soft_targets(labels, classes, targeted.label_smoothing)
            images, targets = mixed(key, images, targets, mixup=targeted.mixup, cutmix=targeted.cutmix)
            logits, stats = network.train_logits(params, stats, images)
            loss = optax.softmax_cross_entropy(logits, targets).mean()
            labels = targets.argmax(-1)  # what is most of a mixed image
        return loss, (stats, (logits.argmax(-1) == labels).mean())

    return loss_fn


def make_step(
    tx: optax.GradientTransformationExtraArgs, config: Config, *, held_out: bool = False, shardings: Any = None
) -> Callable[..., Any]:
    """The jitted step `(params, opt_state, stats, batch, at, network, held) -> (params, opt_state, stats, metrics)`.

    Parameters, optimizer state and statistics are donated: with arguments and results in this same order XLA updates
    all in place, and the anchor inside the state passes through without a copy. `at` is uint32: the run's seed, and the
    steps done.

    Args:
        tx: The method's transformation. For the same one the step is the same, so that runs that differ by their seed
            compile it once.
        config: How the loss is made.
        held_out: Whether `update` takes the loss on the held-out batch `held`.
        shardings: Of the results, where there is a mesh.
    """
    leaves, tree = jax.tree.flatten(shardings)
    return _step(tx, Targets.of(config), held_out, tuple(leaves), tree)


@lru_cache(maxsize=32)
def _step(
    tx: optax.GradientTransformationExtraArgs, targeted: Targets, held_out: bool, shardings: tuple[Any, ...], tree: Any
) -> Callable[..., Any]:
    @partial(jax.jit, donate_argnums=(0, 1, 2), out_shardings=jax.tree.unflatten(tree, shardings))
    def step(
        params: Params, opt_state: Any, stats: Any, batch: Example, at: Any, network: Network, held: Example | None
    ) -> tuple[Params, Any, Any, dict[str, jax.Array]]:
        # a function of the seed and the step, so that a resumed run mixes as one that was never stopped
        key = jax.random.fold_in(jax.random.key(at[0]), at[1])
        loss_fn = cross_entropy(network, targeted)
        (loss, (new_stats, accuracy)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, batch, key)
        extra = {"held_out_loss": lambda p: loss_fn(p, stats, held, key)[0]} if held_out else {}
        updates, opt_state = tx.update(gradients, opt_state, params, **extra)
        measured = {"loss": loss, "accuracy": accuracy, "bad_images": batch["bad"].sum()}
        metrics = measured | learned_scalars(opt_state)
        return optax.apply_updates(params, updates), opt_state, new_stats, metrics

    return step


def learned_scalars(opt_state: Any) -> dict[str, jax.Array]:
    """The radii and the strengths, where the method has them, in the order in which `ftp_optax.radii` tells them.

    Of all parts of an `optax.partition`: each has an array of its own.
    """
    parts = {name: [array for _, array in optax.tree.get_all_with_path(opt_state, name)] for name in _LEARNED}
    return {name: jnp.concatenate(arrays) for name, arrays in parts.items() if arrays}
