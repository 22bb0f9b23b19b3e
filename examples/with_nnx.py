"""Flax NNX: `nnx.Optimizer`, a mask over a State, and Params sharded over a mesh.

    python examples/with_nnx.py [--smallest]

`JAX_NUM_CPU_DEVICES=8 python examples/with_nnx.py` shards over eight devices on any machine.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import AxisType

from ftp_optax import ftp
from recipes import show
from recipes.digits import Digits, pixels
from vision.data import Example


class Classifier(nnx.Module):
    """Its kernels are annotated: their columns are sharded over the mesh axis `model`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        columns = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"))
        self.first = nnx.Linear(768, 128, kernel_init=columns, rngs=rngs)
        self.second = nnx.Linear(128, 128, kernel_init=columns, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.second(nnx.relu(self.first(pixels(images))))))


@nnx.jit(donate_argnums=(0, 1))
def step(model: Classifier, optimizer: nnx.Optimizer, batch: Example) -> None:
    def loss_fn(model: Classifier) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(batch["image"]), batch["label"]).mean()

    optimizer.update(model, nnx.grad(loss_fn)(model))


def train(tx: optax.GradientTransformation, model: Classifier, batches: Iterable[Example]) -> nnx.Optimizer:
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for batch in batches:
        step(model, optimizer, batch)
    return optimizer


def not_head(params: nnx.State) -> nnx.State:
    """The mask. `nnx.map_state` gives the path of every Param."""
    return nnx.map_state(lambda path, _: path[0] != "head", params)


def copied(model: Classifier) -> Classifier:
    """A copy with its own buffers, because the step donates its arguments. `nnx.clone` shares buffers."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(jnp.copy, state))


def arrays(model: Classifier) -> Any:
    """The parameters as a nested dict of NumPy arrays."""
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def main(*, smallest: bool = False) -> None:
    """Pre-trains a sharded network, then fine-tunes it without and with `ftp`, with an unconstrained head.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits = Digits.load(smallest)
    with jax.set_mesh(jax.make_mesh((len(jax.devices()),), ("model",), axis_types=(AxisType.Auto,))):
        pretrained = nnx.jit(Classifier)(nnx.Rngs(0))
        train(optax.adam(1e-3), pretrained, digits.pretraining())

        plain, tuned = copied(pretrained), copied(pretrained)
        train(optax.adamw(1e-3), plain, digits.fine_tuning())
        optimizer = train(ftp(optax.adamw(1e-3), mask=not_head), tuned, digits.fine_tuning())

        models = {"pre-trained": pretrained, "plain": plain, "ftp": tuned}
        show.scores({name: digits.score(model) for name, model in models.items()})
        show.balls(arrays(tuned), optimizer.opt_state, arrays(plain), arrays(pretrained))
        anchor = optimizer.opt_state.anchor["first"]["kernel"][...]
        spread = {"first/kernel": tuned.first.kernel[...], "its anchor": anchor}
        rows = [(name, str(array.sharding.spec), len(array.sharding.device_set)) for name, array in spread.items()]
        show.table("Shards", ("array", "sharding", "devices"), rows)


if __name__ == "__main__":
    tyro.cli(main)
