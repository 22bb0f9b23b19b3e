"""The methods that are compared, each with its one knob and the three settings of it that are tried."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from evidence.directional import held_out_strength, window_strength
from ftp_optax import add_decayed_anchor, digrap, ftp, pgm, scale_free, spd, tpgm
from vision.networks import Params, path_of

RATE = "lr"  # the name of the knob that is the learning rate itself

Build = Callable[[optax.GradientTransformation, Any], optax.GradientTransformation]
"""From the base optimizer and a knob to the method. Runs with the very same function share their compiled program."""


class Method(NamedTuple):
    """A method and its knob."""

    knob: str  # what it is called in the tables; `RATE` for methods whose only knob is the learning rate
    values: tuple[float, ...]  # the settings tried, the default first: of equal validation scores the first wins
    build: Build
    held_out: bool = False  # whether it takes a held-out loss in training
    probe_first: bool = False  # whether a linear probe comes before it
    after_adam: bool = False  # whether it comes between Adam's moments and the learning rate


_RATES = (1e-3, 3e-4, 3e-3)  # the main job's first
_RADII = (1e-2, 3e-3, 1e-1)


def _head_only(adamw: optax.GradientTransformation, _: Any) -> optax.GradientTransformation:
    return optax.partition({"head": adamw, "body": optax.set_to_zero()}, _parts)


def _parts(params: Params) -> Params:
    name = lambda path, _: "head" if path_of(path).startswith("head/") else "body"
    return jax.tree_util.tree_map_with_path(name, params)


def _digrap(start: float) -> Build:
    """The knob is the strengths' learning rate."""
    return lambda adamw, mu: optax.chain(digrap(hyper_optimizer=optax.adam(mu), initial_strength=start), adamw)


def _fixed(adamw: optax.GradientTransformation, strength: Any) -> optax.GradientTransformation:
    """The knob is the strength."""
    return optax.chain(digrap(hyper_optimizer=optax.set_to_zero(), initial_strength=strength), adamw)


METHODS: dict[str, Method] = {
    "vanilla": Method(RATE, _RATES, lambda adamw, _: adamw),
    "ftp": Method("mu", _RADII, lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu))),
    "digrap": Method("mu", (0.5, 0.1, 1.0), _digrap(0.0)),
    "ftp_exact": Method(
        "mu", _RADII, lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.adam(mu), hypergradient="exact")
    ),
    "ftp_scale_free": Method(
        "mu", (0.3, 0.1, 1.0), lambda adamw, mu: ftp(adamw, hyper_optimizer=scale_free(optax.adam(mu)))
    ),
    "ftp+digrap": Method(
        "mu", _RADII, lambda adamw, mu: optax.chain(digrap(), ftp(adamw, hyper_optimizer=optax.adam(mu)))
    ),
    "l2_sp": Method("strength", (1e-2, 1e-3, 1e-1), lambda adamw, a: optax.chain(add_decayed_anchor(a), adamw)),
    "spd": Method("strength", (1.0, 0.3, 3.0), lambda adamw, a: spd(adamw, strength=a)),
    "mars_pgm": Method("radius", (1.0, 0.3, 3.0), lambda adamw, radius: pgm(adamw, radius=radius)),
    "tpgm": Method("mu", _RADII, lambda adamw, mu: tpgm(adamw, hyper_optimizer=optax.adam(mu)), held_out=True),
    "linear_probe": Method(RATE, (3e-3, 1e-3, 1e-2), _head_only),
    "lp_ft": Method(RATE, _RATES, lambda adamw, _: adamw, probe_first=True),
}  # by name, in the order in which they are run

FORMS: dict[str, Method] = {
    "ftp_layer_scale": Method(
        "mu",
        (0.3, 0.1),
        lambda adamw, mu: ftp(adamw, hyper_optimizer=scale_free(optax.adam(mu), per_layer=True)),
    ),
    "ftp_smoothed": Method(
        "mu", _RADII, lambda adamw, mu: ftp(adamw, hyper_optimizer=optax.chain(optax.ema(0.9), optax.adam(mu)))
    ),
    "digrap_from_0.5": Method("mu", (1e-2, 1e-3, 1e-1), _digrap(0.5)),
    "digrap_from_1": Method("mu", (1e-2, 1e-3, 1e-1), _digrap(1.0)),
    "digrap_fixed": Method("strength", (0.5, 1.0), _fixed),
    "digrap_window": Method("decay", (0.95,), lambda adamw, decay: optax.chain(window_strength(decay), adamw)),
    "digrap_held_out": Method(
        "mu", (0.05,), lambda adamw, mu: optax.chain(held_out_strength(mu), adamw), held_out=True
    ),
}  # other forms of FTP and DiGraP, which single tasks compare

ALL = METHODS | FORMS
