"""Schedules for every number of a method, and the numbers in its state: `optax.inject_hyperparams`.

    python examples/schedules.py [--smallest]

The radii have a learning rate of their own. Here it follows a schedule that opens the trust regions early and then
leaves them as they are, while the weights' learning rate warms up and decays.
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
    """A function from numbers to a transformation, which is what `inject_hyperparams` wants."""
    return ftp(optax.adamw(learning_rate), hyper_optimizer=optax.adam(radii_learning_rate), kappa=kappa)


def main(*, smallest: bool = False) -> None:
    """Fine-tunes with a schedule for the weights and another for the radii.

    Args:
        smallest: A run of seconds, to see that it works.
    """
    digits = Digits.load(smallest)
    network, pretrained = digits.pretrained()
    steps = digits.steps
    tx = optax.inject_hyperparams(method)(
        learning_rate=optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps),
        radii_learning_rate=optax.linear_schedule(1e-2, 0.0, steps // 2),  # closed for the second half
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

    show.table("Along the way", ("step", "loss", "learning rate", "of the radii", "least radius", "greatest"), rows)
    weights = {"pre-trained": pretrained, "ftp": params}
    show.scores({name: digits.score(partial(network.logits, tuned)) for name, tuned in weights.items()})


if __name__ == "__main__":
    tyro.cli(main)
