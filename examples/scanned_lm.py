"""A language model with scanned layers: one stacked array, and with `layer_axes` still one radius a layer.

    python examples/scanned_lm.py [--smallest]

Layers that are scanned over share one array for each kind of weight; they need not share a trust region.
"""

import jax
import numpy as np
import optax
import tyro

from ftp_optax import ftp, radii, stacked_layers
from recipes import show
from recipes.language import LAYERS, init, load_texts, loss, train, windows


def main(*, smallest: bool = False) -> None:
    """Pre-trains on Python's manual, fine-tunes on the Zen of Python, and asks what became of the manual.

    Args:
        smallest: A run of seconds, to see that it works.
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
    show.table("Nats a character", ("weights", "the Zen, fine-tuned on", "the manual, held out"), rows)

    learned = {path: np.asarray(values) for path, values in radii(state, tuned).items() if path.startswith("blocks/")}
    header = ("stacked parameter", *(f"layer {i}" for i in range(LAYERS)))
    show.table("Radii", header, [(path, *values.tolist()) for path, values in learned.items()])
    # a column of a kernel is a unit, and the l1 norm is what the radius bounds: no number here exceeds the one above it
    gaps = {
        f"blocks/{name}/kernel": leaf["kernel"] - pretrained["blocks"][name]["kernel"]
        for name, leaf in tuned["blocks"].items()
    }
    farthest = {path: np.abs(gaps[path]).sum(axis=1).max(axis=-1) for path in learned}
    show.table("Farthest unit", header, [(path, *values.tolist()) for path, values in farthest.items()])


if __name__ == "__main__":
    tyro.cli(main)
