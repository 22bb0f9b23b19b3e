"""Equinox: the arrays of a module are its parameters. `filter_jit` donates them, and the anchor too.

    python examples/with_equinox.py [--smallest]

A weight is [out, in], as in torch, so the method needs `unit_axes=torch_units`.
"""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import tyro

from ftp_optax import ftp, torch_units
from recipes import show
from recipes.digits import Digits, pixels
from vision.data import Example


class Classifier(eqx.Module):
    layers: tuple[eqx.nn.Linear, ...]
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, second, head = jax.random.split(key, 3)
        self.layers = (eqx.nn.Linear(768, 128, key=first), eqx.nn.Linear(128, 128, key=second))
        self.head = eqx.nn.Linear(128, 10, key=head)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = pixels(images)
        for layer in self.layers:
            x = jax.nn.relu(jax.vmap(layer)(x))
        return jax.vmap(self.head)(x)


def trainable(model: Classifier) -> Any:
    """The floating-point arrays of the model, None elsewhere: the tree for optax."""
    return eqx.filter(model, eqx.is_inexact_array)


def train(
    tx: optax.GradientTransformation, model: Classifier, batches: Iterable[Example]
) -> tuple[Classifier, optax.OptState]:
    @eqx.filter_jit(donate="all-except-first")
    def step(batch: Example, model: Classifier, opt_state: optax.OptState) -> tuple[Classifier, optax.OptState]:
        def loss_fn(model: Classifier) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(batch["image"]), batch["label"]).mean()

        updates, opt_state = tx.update(eqx.filter_grad(loss_fn)(model), opt_state, trainable(model))
        return eqx.apply_updates(model, updates), opt_state

    model = jax.tree.map(jnp.copy, model)  # the step donates its arguments
    opt_state = tx.init(trainable(model))
    for batch in batches:
        model, opt_state = step(batch, model, opt_state)
    return model, opt_state


def main(*, smallest: bool = False) -> None:
    """Pre-trains an equinox network, then fine-tunes it without and with `ftp`.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    pretrained, _ = train(optax.adam(1e-3), eqx.filter_jit(Classifier)(jax.random.key(0)), digits.pretraining())

    plain, _ = train(optax.adamw(1e-3), pretrained, digits.fine_tuning())
    # a weight of equinox is [out, in], as in torch: a unit is a row
    tuned, state = train(ftp(optax.adamw(1e-3), unit_axes=torch_units), pretrained, digits.fine_tuning())

    models = {"pre-trained": pretrained, "plain": plain, "ftp": tuned}
    show.scores({name: digits.score(model) for name, model in models.items()})
    show.balls(trainable(tuned), state, trainable(plain), trainable(pretrained), unit_axes=torch_units)


if __name__ == "__main__":
    tyro.cli(main)
