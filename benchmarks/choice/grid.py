"""What is compared: the methods, and the settings of each that are run on every task."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from choice.directional import held_out_strength, window_strength
from ftp_optax import add_decayed_anchor, averaged, averaged_params, digrap, ftp, scale_free, tpgm
from robust.finetune import Build
from robust.training import Trained
from vision.networks import Params

__all__ = ["AVERAGES", "KINDS", "METHODS", "PEER", "SMALLEST", "Method", "Setting", "settings", "weights"]

AVERAGES = ("uniform", "polynomial")
KINDS = ("last", *AVERAGES)
"""The weights that one run gives."""

PEER = "plain"


class Method(NamedTuple):
    """A method and its grid.

    Attributes:
        build: From AdamW and the knob to the method, within both averages. Its identity tells compiled programs apart.
        rates: Peak learning rates.
        knobs: Values of the one knob; a single 0 where there is none.
        held_out: Whether it takes a held-out loss in training.
    """

    build: Build
    rates: tuple[float, ...] = (1e-3,)
    knobs: tuple[float, ...] = (0.0,)
    held_out: bool = False


class Setting(NamedTuple):
    """What is run on every task.

    Attributes:
        method: A key of `METHODS`.
        rate: The peak learning rate.
        decay: 1 for cosine decay, 0 for a constant rate.
        knob: The method's own.
    """

    method: str
    rate: float
    decay: float
    knob: float


def _averaged(build: Callable[[Any, Any], optax.GradientTransformation]) -> Build:
    return lambda adamw, knob: averaged(averaged(build(adamw, knob), kind="polynomial"))


_BOTH = (1e-3, 3e-3)

METHODS: dict[str, Method] = {
    PEER: Method(_averaged(lambda adamw, _: adamw), (3e-4, 1e-3, 3e-3)),
    "ftp": Method(_averaged(lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu))), _BOTH, (0.01, 0.03, 0.1)),
    "ftp_exact": Method(
        _averaged(lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu), hypergradient="exact")), _BOTH, (0.03,)
    ),
    "ftp_scale_free": Method(
        _averaged(lambda adamw, mu: ftp(adamw, hyper_optimizer=scale_free(optax.adam(mu)))), _BOTH, (0.3, 1.0)
    ),
    "l2_sp": Method(_averaged(lambda adamw, a: optax.chain(add_decayed_anchor(a), adamw)), knobs=(0.01, 0.1)),
    "tpgm": Method(
        _averaged(lambda adamw, mu: tpgm(adamw, hyper_optimizer=optax.adam(mu))), knobs=(0.01,), held_out=True
    ),
    "digrap_from_1": Method(
        _averaged(lambda adamw, mu: optax.chain(digrap(hyper_optimizer=optax.adam(mu), initial_strength=1.0), adamw)),
        knobs=(0.01,),
    ),
    "digrap_fixed": Method(
        _averaged(
            lambda adamw, omega: optax.chain(digrap(hyper_optimizer=optax.set_to_zero(), initial_strength=omega), adamw)
        ),
        knobs=(0.5,),
    ),
    "digrap_window": Method(_averaged(lambda adamw, decay: optax.chain(window_strength(decay), adamw)), knobs=(0.95,)),
    "digrap_held_out": Method(
        _averaged(lambda adamw, mu: optax.chain(held_out_strength(mu), adamw)), knobs=(0.05,), held_out=True
    ),
}
"""By name; the peer is plain fine-tuning."""

SMALLEST = (PEER, "ftp", "digrap_held_out")


def settings(methods: tuple[str, ...] = tuple(METHODS)) -> list[Setting]:
    """The grid: every method at all its rates and knobs, with cosine decay and without."""
    points = ((name, METHODS[name].rates, METHODS[name].knobs) for name in methods)
    return [
        Setting(name, *point) for name, rates, knobs in points for point in itertools.product(rates, (1.0, 0.0), knobs)
    ]


def weights(trained: Trained) -> dict[str, Params]:
    """The weights that a run gives, by kind."""
    outer = trained.opt_state[-1]  # behind the clipping
    found = (trained.params, averaged_params(outer, trained.params), averaged_params(outer.inner_state, trained.params))
    return dict(zip(KINDS, found, strict=True))
