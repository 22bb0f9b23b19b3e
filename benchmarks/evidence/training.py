"""Training on augmented images: one compiled gradient that all methods share, and a small update for each method.

The gradient of EfficientNet-Lite0 takes most of a minute to compile, and there are dozens of methods and settings: so
what depends on the method is a program of its own, and what a setting changes is an argument of it. A Python loop round
both: on CPU a convolution inside `lax.scan` is 25 times slower.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.data import Domain, Example, eval_batches, train_batches
from vision.networks import Network, Params

SHIFT = 4  # pixels by which a training image is moved, at most, in each direction

_RECORDS = 20  # of the learned scalars over a run

OnStep = Callable[[int, int, float], None]  # called with steps done, steps in all and the last loss


@dataclass(frozen=True, eq=False)
class Trained:
    """What a run of one method ended with."""

    params: Params  # the trained parameters
    opt_state: Any  # the optimizer's last state
    # radii or strengths at some twenty moments of the run, `(moments, layers)` by name; empty for methods without
    scalars: dict[str, np.ndarray]
    seconds: float  # wall time, compilation included


class Recipe(NamedTuple):
    """An optimizer but for its numbers, which the compiled update takes as arguments: settings share one program."""

    # from AdamW and the method's knob to the method. Its identity tells programs apart
    method: Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]
    # length of the schedule: linear warm-up over the first tenth, then cosine decay as far as `Knobs` say. A state that
    # is taken on to the next task begins it anew
    steps: int
    # whether the method comes between Adam's moments and the learning rate, and not before both
    after_adam: bool = False

    def optimizer(self, knobs: "Knobs") -> optax.GradientTransformationExtraArgs:
        """AdamW with clipped gradients, within the method."""
        warmup = max(1, self.steps // 10)
        decayed = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(2, self.steps))
        constant = optax.warmup_constant_schedule(0.0, 1.0, warmup)

        def rate(count: Any) -> Any:
            step = jnp.remainder(count, self.steps)
            return knobs.lr * (knobs.decay * decayed(step) + (1 - knobs.decay) * constant(step))

        clip = optax.clip_by_global_norm(1.0)
        if self.after_adam:
            within = self.method(optax.identity(), knobs.value)
            chain = optax.chain(clip, optax.scale_by_adam(), within, optax.scale_by_learning_rate(rate))
        else:
            chain = optax.chain(clip, self.method(optax.adamw(rate, weight_decay=0.0), knobs.value))
        return optax.with_extra_args_support(chain)


class Knobs(NamedTuple):
    """The numbers of an optimizer."""

    lr: float | jax.Array  # the peak learning rate
    value: float | jax.Array = 0.0  # of the method's own knob
    decay: float | jax.Array = 1.0  # 1 for cosine decay to zero, 0 for a rate that stays


def train(
    network: Network,
    params: Params,
    recipe: Recipe,
    knobs: Knobs,
    domain: Domain,
    *,
    batch_size: int,
    seed: int,  # of the images' order and augmentation
    augment: bool = True,  # whether images are shifted and mirrored
    held_out: Domain | None = None,  # where methods that take a held-out loss get its batches; None for all others
    judge: Domain | None = None,  # images whose gradient judges radii (`held_out_grads` of `ftp_optax.ftp`)
    judge_every: int = 0,  # steps between two of those gradients; 0 for none at all
    opt_state: Any = None,  # to go on with; None for a new one
    on_step: OnStep | None = None,
) -> Trained:
    """Trains with any method; `params` are left untouched, `opt_state` is used up."""
    started, steps = time.perf_counter(), recipe.steps
    numbers = Knobs(*(jnp.asarray(number, jnp.float32) for number in knobs))
    static = {"recipe": recipe, "graphdef": network.graphdef, "held_out": held_out is not None}
    params = jax.tree.map(jnp.copy, params)  # the update donates what it is given
    opt_state = recipe.optimizer(numbers).init(params) if opt_state is None else opt_state
    key, scalars = jax.random.key(seed), {}
    # Committed from the start, as the update leaves them: else both programs are compiled twice.
    params, opt_state, numbers, rest = jax.device_put((params, opt_state, numbers, network.rest), jax.devices()[0])
    batches = train_batches(domain, batch_size, seed=seed, num_steps=steps)
    extra = train_batches(held_out or domain, batch_size, seed=seed + 1, num_steps=steps)
    everyone = next(eval_batches(judge, len(judge))) if judge is not None else None
    for done, batch in enumerate(batches, start=1):
        drawn = lambda number: jax.random.fold_in(key, number) if augment else None
        loss, grads = gradient(network.graphdef, rest, params, batch, drawn(done))
        judges = grads if judge_every else None
        if judge_every and (done - 1) % judge_every == 0:
            _, judges = gradient(network.graphdef, rest, params, everyone, drawn(steps + done))
        unseen = next(extra) if held_out is not None else batch
        params, opt_state = _update(params, opt_state, grads, judges, unseen, numbers, rest, **static)
        if done % max(1, steps // _RECORDS) == 0 or done == steps:
            for name, value in learned(opt_state).items():
                scalars.setdefault(name, []).append(np.asarray(value))
        if on_step is not None:
            on_step(done, steps, float(loss))
    jax.block_until_ready(params)
    seconds = time.perf_counter() - started
    return Trained(params, opt_state, {name: np.stack(rows) for name, rows in scalars.items()}, seconds)


@partial(jax.jit, static_argnums=0)
def gradient(
    graphdef: Any, rest: Any, params: Params, batch: Example, key: jax.Array | None
) -> tuple[jax.Array, Params]:
    """Loss and gradient on a batch, augmented if there is a key: one program that all methods share."""
    images = batch["image"] if key is None else augmented(batch["image"], key)
    return jax.value_and_grad(lambda p: _loss(Network(graphdef, rest), p, images, batch["label"]))(params)


def learned(opt_state: Any) -> dict[str, jax.Array]:
    """What a method has learned, radii or strengths, by name; nothing for methods that learn none."""
    found = {name: optax.tree.get(opt_state, name) for name in ("radii", "strengths")}
    return {name: value for name, value in found.items() if value is not None}


def predictions(network: Network, params: Params, domain: Domain, batch_size: int = 32) -> np.ndarray:
    """The predicted class of every image of a domain held in memory."""
    classes = lambda part: _classes(network.graphdef, network.rest, params, part)
    return in_batches(classes, stacked(domain), batch_size)


def stacked(domain: Domain) -> Any:
    """All that a network sees of a domain held in memory: images, or any tree of arrays."""
    return jax.tree.map(lambda *parts: np.stack(parts), *(domain[i]["image"] for i in range(len(domain))))


def in_batches(compute: Callable[[Any], Any], seen: Any, batch_size: int) -> Any:
    """What a compiled function gives for all images, any tree of arrays, computed some at a time."""
    count = len(jax.tree.leaves(seen)[0])
    missing = -count % batch_size  # filled up, so that one compiled program serves all
    fill = lambda x: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    padded, starts = jax.tree.map(fill, seen), range(0, count + missing, batch_size)
    parts = [compute(jax.tree.map(lambda x, i=i: x[i : i + batch_size], padded)) for i in starts]
    return jax.tree.map(lambda *found: np.concatenate(found)[:count], *parts)


def augmented(images: jax.Array, key: jax.Array) -> jax.Array:
    """Shifted by a few pixels, white moving in, and mirrored or not; each image on its own."""
    down, right, mirror = jax.random.split(key, 3)
    size, count = images.shape[1], images.shape[0]
    offsets = [jax.random.randint(k, (count,), 0, 2 * SHIFT + 1) for k in (down, right)]
    padding = ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0))
    padded = jnp.pad(images, padding, constant_values=255)
    cut = lambda image, y, x: jax.lax.dynamic_slice(image, (y, x, 0), (size, size, 3))
    shifted = jax.vmap(cut)(padded, *offsets)
    turned = jax.random.bernoulli(mirror, shape=(count, 1, 1, 1))
    return jnp.where(turned, shifted[:, :, ::-1], shifted)


def _loss(network: Network, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(network.logits(params, images), labels).mean()


@partial(jax.jit, static_argnums=0)
def _classes(graphdef: Any, rest: Any, params: Params, images: jax.Array) -> jax.Array:
    return Network(graphdef, rest).logits(params, images).argmax(-1)


@partial(jax.jit, donate_argnums=(0, 1), static_argnames=("recipe", "graphdef", "held_out"))
def _update(
    params: Params,
    opt_state: Any,
    grads: Params,
    judges: Params | None,
    unseen: Example,
    knobs: Knobs,
    rest: Any,
    *,
    recipe: Recipe,
    graphdef: Any,
    held_out: bool,
) -> tuple[Params, Any]:
    held_out_loss = lambda p: _loss(Network(graphdef, rest), p, unseen["image"], unseen["label"])
    extra = {"held_out_loss": held_out_loss} if held_out else {}
    extra |= {} if judges is None else {"held_out_grads": judges}
    updates, opt_state = recipe.optimizer(knobs).update(grads, opt_state, params, **extra)
    return optax.apply_updates(params, updates), opt_state
