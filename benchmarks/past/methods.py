"""The methods as functions of learning rate and knob, so that numbers can be arguments of a jitted step."""

from collections.abc import Callable

import jax
import optax

from ftp_optax import digrap, ftp, scale_free

__all__ = ["METHODS", "Factory"]

Factory = Callable[[jax.Array, jax.Array], optax.GradientTransformation]
"""From learning rate and the method's knob to the optimizer."""

_CLIP = optax.clip_by_global_norm(1.0)


def _adamw(rate: jax.Array) -> optax.GradientTransformation:
    return optax.adamw(rate, weight_decay=0.0)


def _vanilla(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    del knob
    return optax.chain(_CLIP, _adamw(rate))


def _released(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    return optax.chain(_CLIP, ftp(_adamw(rate), hyper_optimizer=optax.adam(knob)))


def _exact(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    return optax.chain(_CLIP, ftp(_adamw(rate), hyper_optimizer=optax.adam(knob), hypergradient="exact"))


def _smoothed(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    return optax.chain(_CLIP, ftp(_adamw(rate), hyper_optimizer=optax.chain(optax.ema(0.9), optax.adam(knob))))


def _scale_free(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    return optax.chain(_CLIP, ftp(_adamw(rate), hyper_optimizer=scale_free(optax.adam(knob))))


def _digrap(start: float) -> Factory:
    return lambda rate, knob: optax.chain(
        _CLIP, digrap(hyper_optimizer=optax.adam(knob), initial_strength=start), _adamw(rate)
    )


def _digrap_after(start: float) -> Factory:
    """Between Adam's preconditioner and the learning rate."""
    return lambda rate, knob: optax.chain(
        _CLIP,
        optax.scale_by_adam(),
        digrap(hyper_optimizer=optax.adam(knob), initial_strength=start),
        optax.scale_by_learning_rate(rate),
    )


def _fixed(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    held = digrap(hyper_optimizer=optax.set_to_zero(), initial_strength=knob)
    return optax.chain(_CLIP, held, _adamw(rate))


def _fixed_after(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    held = digrap(hyper_optimizer=optax.set_to_zero(), initial_strength=knob)
    return optax.chain(_CLIP, optax.scale_by_adam(), held, optax.scale_by_learning_rate(rate))


def _both(rate: jax.Array, knob: jax.Array) -> optax.GradientTransformation:
    """Clipping, DiGraP with the recommended setting, then FTP, whose radii's learning rate is the knob."""
    return optax.chain(_CLIP, digrap(), ftp(_adamw(rate), hyper_optimizer=optax.adam(knob)))


METHODS: dict[str, Factory] = {
    "vanilla": _vanilla,
    "ftp": _released,
    "ftp exact": _exact,
    "ftp smoothed": _smoothed,
    "ftp scale-free": _scale_free,
    "digrap": _digrap(0.0),
    "digrap from 0.5": _digrap(0.5),
    "digrap from 1": _digrap(1.0),
    "digrap fixed": _fixed,
    "digrap after adam": _digrap_after(0.0),
    "digrap after adam from 1": _digrap_after(1.0),
    "digrap after adam fixed": _fixed_after,
    "digrap+ftp": _both,
}
"""By the name that tables show. The knob is the learning rate of the learned scalars, or the fixed strength."""
