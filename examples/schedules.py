"""Schedules for the settings of a method, with `optax.inject_hyperparams`.

    python examples/schedules.py [--smallest]

The radii have their own learning rate. Here its schedule lets the radii grow early and then keeps them fixed. The
learning rate of the weights warms up and decays.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ftp_optax import ftp, radii
from recipes import show
from recipes.digits import Digits
from vision.config import Config
from vision.step import make_step


def method(
    learning_rate: optax.ScalarOrSchedule, radii_learning_rate: optax.ScalarOrSchedule, kappa: float
) -> optax.GradientTransformationExtraArgs:
    """A function from numbers to a transformation, as `inject_hyperparams` needs it."""
    return ftp(optax.adamw(learning_rate), hyper_optimizer=optax.adam(radii_learning_rate), kappa=kappa)


def main(*, smallest: bool = False) -> None:
    """Fine-tunes with a schedule for the weights and another for the radii.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    network, pretrained = digits.pretrained()
    steps = digits.steps
    tx = optax.inject_hyperparams(method)(
        learning_rate=optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps),
        radii_learning_rate=optax.linear_schedule(1e-2, 0.0, steps // 2),  # the radii are fixed in the second half
        kappa=1.0,
    )
    params = jax.tree.map(jnp.copy, pretrained)
    state, step, rows = tx.init(params), make_step(tx, Config()), []
    for done, batch in enumerate(digits.fine_tuning(), start=1):
        params, state, _, metrics = step(params, state, {}, batch, np.array((0, done), np.uint32), network, None)
        if done % (steps // 8) == 0:
            now = {name: float(value) for name, value in state.hyperparams.items()}
            learned = radii(state, params).values()
            rates = now["learning_rate"], now["radii_learning_rate"]
            rows.append((str(done), float(metrics["loss"]), *rates, min(learned), max(learned)))

    show.table("During training", ("step", "loss", "learning rate", "of the radii", "least radius", "greatest"), rows)
    weights = {"pre-trained": pretrained, "ftp": params}
    show.scores({name: digits.score(partial(network.logits, tuned)) for name, tuned in weights.items()})


if __name__ == "__main__":
    tyro.cli(main)
