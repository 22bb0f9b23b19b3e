"""The whole recipe, on a task that is far from what the network knows.

    python examples/robust.py [--smallest]

A network that knows white digits on black learns black digits on white. FTP trains it and keeps two averages of the
weights. Validation images of the new task choose the learning rate of the radii, and the weights to use. AdamW alone
and the recipe both learn the task. The two tasks contradict each other, so both lose most of the old one.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax
import tyro
from flax import nnx

from ftp_optax import averaged, averaged_params, ftp, wise_ft
from recipes import show
from recipes.digits import Digits, accuracy, train
from vision.data import ArrayDomain
from vision.models import SmallCNN
from vision.networks import Params, split_model

RATES = (3e-4, 1e-3, 3e-3)  # learning rates of AdamW alone, each decayed and constant
RADII_RATES = (0.03, 0.1, 0.3)  # learning rates of the radii: about the growth of a radius in a step
SHARES = (0.3, 0.5, 0.7, 0.9, 1.0)  # of the way from the pre-trained weights


def recipe(rate: optax.ScalarOrSchedule, radii_rate: float) -> optax.GradientTransformationExtraArgs:
    """FTP with two averages of the weights around it."""
    inner = ftp(optax.adamw(rate), hyper_optimizer=optax.adam(radii_rate))
    return averaged(averaged(inner), kind="polynomial")


def candidates(params: Params, state: optax.OptState, pretrained: Params) -> list[Params]:
    """On the way to the last weights and to both averages, the nearest to the pre-trained weights first."""
    inner = state.inner_state  # pyright: ignore[reportAttributeAccessIssue]
    ends = params, averaged_params(state, params), averaged_params(inner, params)
    return [pretrained, *(wise_ft(end, pretrained, share) for share in SHARES for end in ends)]


def main(*, smallest: bool = False) -> None:
    """Learns inverted digits with AdamW alone and with the recipe.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load()
    clean = digits.domains()["clean"]
    known, new, unseen = np.split(np.arange(len(clean)), (500, 700))
    inverted = ArrayDomain("inverted", 255 - clean.images, clean.labels)
    network, start = split_model(SmallCNN(10, rngs=nnx.Rngs(0)))
    pretrained, _ = train(network, optax.adam(2e-3), start, digits.batches(clean.at(known), steps=150))
    steps, few = (100, slice(2, 3)) if smallest else (300, slice(None))

    logits = jax.jit(network.logits)

    def validation(params: Params) -> float:
        return accuracy(partial(logits, params), inverted.at(unseen))

    def fine_tuned(tx: optax.GradientTransformation) -> tuple[Params, optax.OptState]:
        return train(network, tx, pretrained, digits.batches(inverted.at(new), steps=steps))

    decayed: Callable[[float], optax.Schedule] = lambda rate: optax.cosine_decay_schedule(rate, steps)
    constant: Callable[[float], optax.Schedule] = lambda rate: optax.linear_schedule(0.0, rate, steps // 10)
    plain = [fine_tuned(optax.adamw(schedule(rate)))[0] for schedule in (decayed, constant) for rate in RATES[few]]
    points = [
        point
        for radii_rate in RADII_RATES[few]
        for point in candidates(*fine_tuned(recipe(constant(3e-3), radii_rate)), pretrained)
    ]
    weights = {
        "pre-trained": pretrained,
        "AdamW": max(plain, key=validation),
        "the recipe": max(points, key=validation),  # of equals the first
    }
    domains = ("inverted", "clean")
    rows = [(name, *digits.accuracies(partial(logits, found), domains)) for name, found in weights.items()]
    show.table("Accuracy, inverted learned", ("weights", *domains), rows)


if __name__ == "__main__":
    tyro.cli(main)
