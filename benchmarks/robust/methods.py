"""The methods that are compared, each with its one knob and the three settings of it that are tried."""

from typing import NamedTuple

import jax
import optax

from ftp_optax import add_decayed_anchor, digrap, ftp, pgm, scale_free, spd, tpgm
from robust.finetune import Build
from vision.networks import Params, path_of

__all__ = ["METHODS", "RATE", "Method"]


RATE = "lr"
"""The name of the knob that is the learning rate itself."""


class Method(NamedTuple):
    """A method and its knob.

    Attributes:
        knob: What the knob is called in the tables; `RATE` for methods whose only knob is the learning rate. The
            others take the learning rate that vanilla fine-tuning chose.
        values: The settings tried, the default first: of equal validation accuracies the first wins.
        build: From AdamW and the knob's value to the method.
        held_out: Whether it takes a held-out loss in training.
        probe_first: Whether a linear probe comes before it.
    """

    knob: str
    values: tuple[float, ...]
    build: Build
    held_out: bool = False
    probe_first: bool = False


_RATES = (1e-3, 3e-4, 3e-3)  # the main job's first


def _head_only(adamw: optax.GradientTransformation, _: float) -> optax.GradientTransformation:
    return optax.partition({"head": adamw, "body": optax.set_to_zero()}, _parts)


def _parts(params: Params) -> Params:
    name = lambda path, _: "head" if path_of(path).startswith("head/") else "body"
    return jax.tree_util.tree_map_with_path(name, params)


METHODS: dict[str, Method] = {
    "vanilla": Method(RATE, _RATES, lambda adamw, _: adamw),
    "ftp": Method("mu", (1e-2, 3e-3, 1e-1), lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu))),
    "digrap": Method(
        "mu", (0.5, 0.1, 1.0), lambda adamw, mu: optax.chain(digrap(hyper_optimizer=optax.adam(mu)), adamw)
    ),
    "ftp_exact": Method(
        "mu",
        (1e-2, 3e-3, 1e-1),
        lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu), hypergradient="exact"),
    ),
    "ftp_scale_free": Method(
        "mu", (0.3, 0.1, 1.0), lambda adamw, mu: ftp(adamw, hyper_optimizer=scale_free(optax.adam(mu)))
    ),
    "ftp+digrap": Method(
        "mu", (1e-2, 3e-3, 1e-1), lambda adamw, mu: optax.chain(digrap(), ftp(adamw, hyper_optimizer=optax.adam(mu)))
    ),
    "l2_sp": Method("strength", (1e-2, 1e-3, 1e-1), lambda adamw, a: optax.chain(add_decayed_anchor(a), adamw)),
    "spd": Method("strength", (1.0, 0.3, 3.0), lambda adamw, a: spd(adamw, strength=a)),
    "mars_pgm": Method("radius", (1.0, 0.3, 3.0), lambda adamw, radius: pgm(adamw, radius=radius)),
    "tpgm": Method(
        "mu", (1e-2, 3e-3, 1e-1), lambda adamw, mu: tpgm(adamw, hyper_optimizer=optax.adam(mu)), held_out=True
    ),
    "linear_probe": Method(RATE, (3e-3, 1e-3, 1e-2), _head_only),
    "lp_ft": Method(RATE, _RATES, lambda adamw, _: adamw, probe_first=True),
}
"""By name, in the order in which they are run."""
