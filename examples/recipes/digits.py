"""The digits of the main job, for the short examples."""

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

__all__ = ["Digits", "Scores", "accuracy", "pixels", "train"]

BATCH_SIZE = 64


class Scores(NamedTuple):
    """Scores of a set of weights: training loss, and accuracy on the fine-tuning and the pre-training domains."""

    loss: float
    photo: float
    seen: float


@dataclass(frozen=True, eq=False)
class Digits:
    """The task: digits on photographs, for a network that is pre-trained on six other domains.

    Attributes:
        task: The domains.
        smallest: Few images and few steps, to test that an example runs. Its results mean nothing.
    """

    task: Task
    smallest: bool

    @classmethod
    def load(cls, smallest: bool = False) -> "Digits":
        """The task with seed 0."""
        return cls(digits_task(0, smallest), smallest)

    @property
    def steps(self) -> int:
        """Number of fine-tuning steps."""
        return 16 if self.smallest else 150

    def pretraining(self) -> Iterator[Example]:
        """Batches of the six pre-training domains, for examples that pre-train their own network."""
        assert self.task.pretrain is not None
        return self.batches(self.task.pretrain, steps=40 if self.smallest else 600)

    def fine_tuning(self, steps: int | None = None) -> Iterator[Example]:
        """Batches of digits on photographs."""
        return self.batches(self.task.train, steps=steps or self.steps)

    def batches(self, domain: Domain, *, steps: int) -> Iterator[Example]:
        """Batches of any domain."""
        return train_batches(domain, BATCH_SIZE, seed=0, num_steps=steps)

    def domains(self) -> dict[str, ArrayDomain]:
        """The pre-training images, by domain."""
        assert isinstance(self.task.pretrain, ArrayDomain)
        images, labels = (np.split(part, len(SEEN)) for part in (self.task.pretrain.images, self.task.pretrain.labels))
        return {name: ArrayDomain(name, i, n) for name, i, n in zip(SEEN, images, labels, strict=True)}

    def pretrained(self) -> tuple[Network, Params]:
        """The main job's pre-trained convolutional network, with its parameters as a nested dict."""
        return split_model(pretrained_digits_model(self.task, 0))

    def score(self, logits: Callable[[jax.Array], jax.Array]) -> Scores:
        """Scores of a network. It is given as the function from images to logits."""
        jitted = jax.jit(lambda images: logits(images))
        outputs, labels = _run(jitted, self.task.train)
        loss = np.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))
        seen = self.accuracies(jitted, SEEN)
        return Scores(float(loss), accuracy(jitted, self.task.id_test), sum(seen) / len(seen))

    def accuracies(self, logits: Callable[[jax.Array], jax.Array], names: Sequence[str]) -> list[float]:
        """A network's accuracy on the test images of the named domains."""
        jitted = jax.jit(lambda images: logits(images))
        return [accuracy(jitted, self.task.ood[name]) for name in names]


def train(
    network: Network, tx: optax.GradientTransformation, params: Params, batches: Iterable[Example]
) -> tuple[Params, Any]:
    """Trains with any method. Returns the parameters and the optimizer state."""
    tx = optax.with_extra_args_support(tx)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
        def loss_fn(params: Params) -> jax.Array:
            logits = network.logits(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(jnp.copy, params)  # the step donates its arguments
    opt_state = tx.init(params)
    for batch in batches:
        params, opt_state = step(params, opt_state, batch)
    return params, opt_state


def pixels(images: jax.Array) -> jax.Array:
    """Images with values in 0..255 as vectors in -1..1, for networks without convolutions."""
    return images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1


def accuracy(logits: Callable[[jax.Array], jax.Array], domain: Domain) -> float:
    """A network's accuracy on the images of a domain."""
    outputs, labels = _run(logits, domain)
    return float(np.mean(np.argmax(outputs, -1) == labels))


def _run(logits: Callable[[jax.Array], jax.Array], domain: Domain) -> tuple[jax.Array, np.ndarray]:
    everything = next(eval_batches(domain, len(domain)))
    return logits(everything["image"]), everything["label"]
