"""LoRA: the adapters are the parameters, and their initial values are the anchor: A random, B zero.

    python examples/lora.py [--smallest]

Do not use an anchor of zero: if A and B are both zero, neither has a gradient and nothing is learned. A ball around the
initial values is a ball around the pre-trained model, because A B is zero at first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from ftp_optax import ftp, radii, stacked_layers
from recipes import show
from recipes.language import Params, init, load_texts, loss, train, windows

RANK = 4


def adapters(blocks: Params, key: jax.Array) -> Params:
    """Adapters of every stacked kernel of the blocks: A is random, B is zero."""

    def pair(index: int, kernel: jax.Array) -> dict[str, jax.Array]:
        layers, inputs, outputs = kernel.shape
        a = jax.random.normal(jax.random.fold_in(key, index), (layers, inputs, RANK)) / inputs**0.5
        return {"a": a, "b": jnp.zeros((layers, RANK, outputs))}

    return {"blocks": {name: pair(i, leaf["kernel"]) for i, (name, leaf) in enumerate(blocks.items())}}


def adapted(pretrained: Params, lora: Params) -> Params:
    """The model with its adapters added."""
    blocks = {
        name: {"kernel": leaf["kernel"] + lora["blocks"][name]["a"] @ lora["blocks"][name]["b"]}
        for name, leaf in pretrained["blocks"].items()
    }
    return pretrained | {"blocks": blocks}


def norm(tree: Any, names: str) -> float:
    """The l2 norm of all A, or of all products A B."""
    pairs = tree["blocks"].values()
    arrays = [pair["a"] @ pair["b"] if names == "ab" else pair["a"] for pair in pairs]
    return float(np.sqrt(sum(np.square(array).sum() for array in arrays)))


def main(*, smallest: bool = False) -> None:
    """Adapts a language model with plain LoRA, with LoRA that decays to zero, and with LoRA inside `ftp`.

    Args:
        smallest: A quick run, to test that the script works.
    """
    texts = load_texts()
    pretraining, tuning = (20, 24) if smallest else (600, 300)
    pretrained, _ = train(optax.adam(3e-3), init(jax.random.key(0)), windows(texts.manual, pretraining))
    start = adapters(pretrained["blocks"], jax.random.key(1))
    adapted_loss = lambda lora, pieces: loss(adapted(pretrained, lora), pieces)

    # Only the adapters are trained, so `init` gets only them.
    methods = {
        "plain": optax.adam(5e-3),
        "decay to zero": optax.adamw(5e-3, weight_decay=2.0),
        "ftp": ftp(optax.adam(5e-3), layer_axes=stacked_layers),
    }
    tuned, states = {"at the start": start}, {}
    for name, tx in methods.items():
        tuned[name], states[name] = train(tx, start, windows(texts.zen, tuning), adapted_loss)

    zen, manual = (next(windows(text, steps=1, batch_size=32)) for text in (texts.zen, texts.manual_held_out))
    score = jax.jit(lambda lora, pieces: adapted_loss(lora, pieces))
    rows = [
        (name, float(score(lora, zen)), float(score(lora, manual)), norm(lora, "a"), norm(lora, "ab"))
        for name, lora in tuned.items()
    ]
    show.table("Nats per character, and the adapters", ("adapters", "the Zen", "the manual", "|A|", "|A B|"), rows)
    learned = [(path, *np.asarray(values).tolist()) for path, values in radii(states["ftp"], tuned["ftp"]).items()]
    show.table("Radii", ("stacked adapter", *(f"layer {i}" for i in range(len(learned[0]) - 1))), learned)


if __name__ == "__main__":
    tyro.cli(main)
