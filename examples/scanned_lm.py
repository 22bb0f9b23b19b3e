"""A language model with scanned layers: `layer_axes` gives each layer of a stacked array its own radius.

    python examples/scanned_lm.py [--smallest]

Scanned layers share one array for each kind of weight. They need not share a radius.
"""

import jax
import numpy as np
import optax
import tyro

from ftp_optax import ftp, radii, stacked_layers
from recipes import show
from recipes.language import LAYERS, init, load_texts, loss, train, windows


def main(*, smallest: bool = False) -> None:
    """Pre-trains on Python's manual, fine-tunes on the Zen of Python, and tests on both.

    Args:
        smallest: A quick run, to test that the script works.
    """
    texts = load_texts()
    pretraining, tuning = (20, 20) if smallest else (600, 150)
    pretrained, _ = train(optax.adam(3e-3), init(jax.random.key(0)), windows(texts.manual, pretraining))

    base = optax.adamw(1e-3)
    plain, _ = train(base, pretrained, windows(texts.zen, tuning))
    tuned, state = train(ftp(base, layer_axes=stacked_layers), pretrained, windows(texts.zen, tuning))

    zen, manual = (next(windows(text, steps=1, batch_size=32)) for text in (texts.zen, texts.manual_held_out))
    weights = {"pre-trained": pretrained, "plain": plain, "ftp": tuned}
    rows = [(name, float(loss(params, zen)), float(loss(params, manual))) for name, params in weights.items()]
    show.table("Nats per character", ("weights", "the Zen, fine-tuned on", "the manual, held out"), rows)

    learned = {path: np.asarray(values) for path, values in radii(state, tuned).items() if path.startswith("blocks/")}
    header = ("stacked parameter", *(f"layer {i}" for i in range(LAYERS)))
    show.table("Radii", header, [(path, *values.tolist()) for path, values in learned.items()])
    # a unit is a column of a kernel, and the radius bounds its l1 norm: no number here exceeds that in the table above
    gaps = {
        f"blocks/{name}/kernel": leaf["kernel"] - pretrained["blocks"][name]["kernel"]
        for name, leaf in tuned["blocks"].items()
    }
    largest = {path: np.abs(gaps[path]).sum(axis=1).max(axis=-1) for path in learned}
    show.table("Largest norm", header, [(path, *values.tolist()) for path, values in largest.items()])


if __name__ == "__main__":
    tyro.cli(main)
