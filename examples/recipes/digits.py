"""The digits of the main job, in the few words that a short example needs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.data import ArrayDomain, Domain, Example, Task, eval_batches, train_batches
from vision.digits import SEEN, digits_task
from vision.foundation import pretrained_digits_model
from vision.networks import Network, Params, split_model

__all__ = ["Digits", "Scores", "pixels", "train"]

BATCH_SIZE = 64


class Scores(NamedTuple):
    """What a set of weights is worth: the training loss, and accuracy where it was fine-tuned and where it was not."""

    loss: float
    photo: float
    seen: float


@dataclass(frozen=True, eq=False)
class Digits:
    """Digits on photographs, for a network that knows six other appearances.

    Attributes:
        task: The domains.
        smallest: Few images and few steps, to see that an example works; what it shows needs the full size.
    """

    task: Task
    smallest: bool

    @classmethod
    def load(cls, smallest: bool = False) -> "Digits":
        """The task with its first seed."""
        return cls(digits_task(0, smallest), smallest)

    @property
    def steps(self) -> int:
        """Length of fine-tuning."""
        return 16 if self.smallest else 150

    def pretraining(self) -> Iterator[Example]:
        """Batches of the six appearances, for a network that an example pre-trains itself."""
        assert self.task.pretrain is not None
        return self.batches(self.task.pretrain, steps=40 if self.smallest else 600)

    def fine_tuning(self, steps: int | None = None) -> Iterator[Example]:
        """Batches of digits on photographs."""
        return self.batches(self.task.train, steps=steps or self.steps)

    def batches(self, domain: Domain, *, steps: int) -> Iterator[Example]:
        """Batches of any domain."""
        return train_batches(domain, BATCH_SIZE, seed=0, num_steps=steps)

    def domains(self) -> dict[str, ArrayDomain]:
        """The pre-training images, one domain an appearance."""
        assert isinstance(self.task.pretrain, ArrayDomain)
        images, labels = (np.split(part, len(SEEN)) for part in (self.task.pretrain.images, self.task.pretrain.labels))
        return {name: ArrayDomain(name, i, n) for name, i, n in zip(SEEN, images, labels, strict=True)}

    def pretrained(self) -> tuple[Network, Params]:
        """The main job's pre-trained convolutional network, its parameters a nested dict."""
        return split_model(pretrained_digits_model(self.task, 0))

    def score(self, logits: Callable[[jax.Array], jax.Array]) -> Scores:
        """Scores of a network, given as the function from images to logits."""
        jitted = jax.jit(lambda images: logits(images))
        outputs, labels = _run(jitted, self.task.train)
        loss = np.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))
        seen = self.accuracies(jitted, SEEN)
        return Scores(float(loss), _accuracy(jitted, self.task.id_test), sum(seen) / len(seen))

    def accuracies(self, logits: Callable[[jax.Array], jax.Array], names: Sequence[str]) -> list[float]:
        """A network's accuracy on the test images of some appearances."""
        jitted = jax.jit(lambda images: logits(images))
        return [_accuracy(jitted, self.task.ood[name]) for name in names]


def train(
    network: Network, tx: optax.GradientTransformation, params: Params, batches: Iterable[Example]
) -> tuple[Params, Any]:
    """Trains with any method; gives the parameters and the optimizer's state."""
    tx = optax.with_extra_args_support(tx)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
        def loss_fn(params: Params) -> jax.Array:
            logits = network.logits(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, params)  # the step donates what it is given
    opt_state = tx.init(params)
    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state


def pixels(images: jax.Array) -> jax.Array:
    """Images with values in 0..255 as vectors in -1..1, what a network without convolutions takes."""
    return images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1


def _accuracy(logits: Callable[[jax.Array], jax.Array], domain: Domain) -> float:
    outputs, labels = _run(logits, domain)
    return float(np.mean(np.argmax(outputs, -1) == labels))


def _run(logits: Callable[[jax.Array], jax.Array], domain: Domain) -> tuple[jax.Array, np.ndarray]:
    everything = next(eval_batches(domain, len(domain)))
    return logits(everything["image"]), everything["label"]
