"""Different settings for different parts: `optax.partition` with one method per part.

    python examples/partition.py [--smallest]

The classifier is new. It has no pre-trained weights, so it is not constrained and has ten times the learning rate. The
convolutions have slower radii than the hidden layer.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import tyro

from ftp_optax import ftp
from recipes import show
from recipes.digits import Digits, train
from vision.networks import Params, path_of

LEARNING_RATE = 1e-3


def part_of(params: Params) -> Params:
    """The part of each parameter."""
    parts = {"conv1": "features", "conv2": "features", "hidden": "hidden", "head": "head"}
    return jax.tree_util.tree_map_with_path(lambda path, _: parts[path_of(path).split("/")[0]], params)


def main(*, smallest: bool = False) -> None:
    """Fine-tunes a pre-trained backbone with a new head: one setting for all parts, then one for each part.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    network, pretrained = digits.pretrained()
    old_head = pretrained["head"]
    pretrained["head"] = jax.tree.map(jnp.zeros_like, old_head)

    backbone, head = optax.adamw(LEARNING_RATE), optax.adamw(10 * LEARNING_RATE)
    methods = {
        "one adamw": backbone,
        "two adamw": optax.partition({"features": backbone, "hidden": backbone, "head": head}, part_of),
        "ftp": optax.partition(
            {
                "features": ftp(backbone, hyper_optimizer=optax.adam(1e-3)),  # radii grow slowly
                "hidden": ftp(backbone, kappa=0.0),  # radii never shrink by themselves
                "head": head,
            },
            part_of,
        ),
    }
    params, states = {}, {}
    for name, tx in methods.items():
        params[name], states[name] = train(network, tx, pretrained, digits.fine_tuning())

    weights = {"pre-trained": pretrained | {"head": old_head}, "with new head": pretrained, **params}
    show.scores({name: digits.score(partial(network.logits, tuned)) for name, tuned in weights.items()})
    # `radii` and `drift` find the states of all parts
    show.balls(params["ftp"], states["ftp"], params["two adamw"], pretrained)


if __name__ == "__main__":
    tyro.cli(main)
