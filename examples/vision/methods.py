"""The methods that are compared: each is one optax transformation, and one line apart from plain fine-tuning."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from ftp_optax import add_decayed_anchor, averaged, digrap, ftp, maps_strengths, pgm, scale_free, spd, tpgm
from vision.depth import depth_groups, depths
from vision.networks import Params, path_of
from vision.optimizers import base_optimizer
from vision.options import MethodOptions

__all__ = ["KNOBS", "Method", "create_method", "not_head"]


class Method(NamedTuple):
    """A method, and what it asks of the training besides.

    Attributes:
        tx: The whole optimizer.
        head_only: Nothing but the head is trained.
        probe_first: The head starts from the linear probe's.
        held_out: `tx.update` takes `held_out_loss=`, a function from parameters to the loss on a held-out batch.
        project_after: `ftp_optax.tpgm_project` follows the training.
        averaged: The average of the steps' weights is the result, not the last ones.
        mask: Which parameters are constrained, and so projected.
    """

    tx: optax.GradientTransformationExtraArgs
    head_only: bool = False
    probe_first: bool = False
    held_out: bool = False
    project_after: bool = False
    averaged: bool = False
    mask: Any = None


_TRAINING = (
    "epochs", "batch_size", "optimizer", "lr", "schedule", "warmup", "weight_decay", "clip", "accumulate", "average",
)  # fmt: skip
_ALL = (*_TRAINING, "layer_decay")
_FTP = (*_ALL, "kappa", "radii_lr")
_DIGRAP = ("strengths_lr", "max_strength")

KNOBS: dict[str, tuple[str, ...]] = {
    "vanilla": _ALL,
    "vanilla_averaged": tuple(knob for knob in _ALL if knob != "average"),
    "ftp": _FTP,
    "ftp_exact": _FTP,
    "ftp_scale_free": (*_ALL, "kappa", "radii_scale"),
    "ftp_lean": _FTP,
    "digrap": (*_ALL, *_DIGRAP),
    "ftp+digrap": (*_FTP, *_DIGRAP),
    "tpgm": (*_ALL, "radii_lr"),
    "tpgm_project": (*_ALL, "radii_lr", "project_steps"),
    "spd": (*_ALL, "spd_strength"),
    "maps": (*_ALL, "spd_strength"),
    "pgm": (*_ALL, "pgm_radius"),
    "l2_sp": (*_ALL, "l2_sp_strength"),
    "linear_probe": _TRAINING,  # the head is one layer
    "lp_ft": _ALL,
}
"""By method, the options that concern it."""


class _Given(NamedTuple):
    """What a method is made of."""

    base: optax.GradientTransformation
    options: MethodOptions
    order: Sequence[str]
    mask: Any


Links = tuple[optax.GradientTransformation, ...]


def _plain(given: _Given) -> Links:
    return (given.base,)


def _ftp(given: _Given, hyper: optax.GradientTransformation | None = None, **variant: Any) -> Links:
    hyper = optax.adam(given.options.radii_lr) if hyper is None else hyper
    return (ftp(given.base, hyper_optimizer=hyper, kappa=given.options.kappa, mask=given.mask, **variant),)


def _digrap(given: _Given) -> optax.GradientTransformation:
    hyper = optax.adam(given.options.strengths_lr)
    return digrap(hyper_optimizer=hyper, max_strength=given.options.max_strength, mask=given.mask)


def _tpgm(given: _Given) -> Links:
    return (tpgm(given.base, hyper_optimizer=optax.adam(given.options.radii_lr), mask=given.mask),)


def _spd(given: _Given) -> Links:
    return (spd(given.base, strength=given.options.spd_strength, mask=given.mask),)


def _maps(given: _Given) -> Links:
    # by depth first: a group, such as the tokens before the first block, has several paths
    layers = [str(depth) for depth in range(len(depth_groups(given.order)))]
    by_depth = maps_strengths(dict.fromkeys(layers, 0.0), given.options.spd_strength, layers=layers)
    strengths = {path: by_depth[str(depth)] for path, depth in depths(given.order).items()}
    return (spd(given.base, strength=strengths, mask=given.mask),)


def _pgm(given: _Given) -> Links:
    return (pgm(given.base, radius=given.options.pgm_radius, mask=given.mask),)


def _l2_sp(given: _Given) -> Links:
    return add_decayed_anchor(given.options.l2_sp_strength, mask=given.mask), given.base


_METHODS: dict[str, Callable[[_Given], Links]] = {
    "vanilla": _plain,
    "vanilla_averaged": _plain,
    "ftp": _ftp,
    "ftp_exact": lambda given: _ftp(given, hypergradient="exact"),
    "ftp_scale_free": lambda given: _ftp(given, scale_free(optax.adam(given.options.radii_scale))),
    "ftp_lean": lambda given: _ftp(given, memory="lean"),
    "digrap": lambda given: (_digrap(given), given.base),
    "ftp+digrap": lambda given: (_digrap(given), *_ftp(given)),
    "tpgm": _tpgm,
    "tpgm_project": _plain,
    "spd": _spd,
    "maps": _maps,
    "pgm": _pgm,
    "l2_sp": _l2_sp,
    "linear_probe": _plain,
    "lp_ft": _plain,
}


def create_method(name: str, options: Any, *, num_steps: int, order: Sequence[str], mask: Any = None) -> Method:
    """A method: clipping, the method's own, the base optimizer, the average of it all, and accumulation round that.

    Args:
        name: One of `vision.options.METHODS`.
        options: The flags: a `TrainingOptions` that is a `MethodOptions` too.
        num_steps: Steps of the optimizer in the whole run, each of `options.accumulate` batches.
        order: Paths of all parameters of the network from the input to the output; those that are not trained do no
            harm.
        mask: Which parameters are constrained, as in `ftp_optax`: None for all; `not_head` for a new head, which has
            no pre-trained weights to stay near.

    Raises:
        ValueError: If no method has that name.
    """
    if name not in _METHODS:
        raise ValueError(f"no method {name!r}; choose one of {', '.join(_METHODS)}.")
    links = _METHODS[name](_Given(base_optimizer(options, num_steps, order), options, order, mask))
    clip = (optax.clip_by_global_norm(options.clip),) if options.clip else ()
    tx = optax.chain(*clip, *links)
    average = "uniform" if name == "vanilla_averaged" else options.average
    if average != "none":
        tx = averaged(tx, kind=average)
    if options.accumulate > 1:
        # of the kind that is told the held-out loss: MultiSteps hands it on, but does not say so in its type
        tx = optax.GradientTransformationExtraArgs(*optax.MultiSteps(tx, options.accumulate).gradient_transformation())
    return Method(
        tx,
        head_only=name == "linear_probe",
        probe_first=name == "lp_ft",
        held_out=name == "tpgm",
        project_after=name == "tpgm_project",
        averaged=average != "none",
        mask=mask,
    )


def not_head(params: Params) -> Params:
    """The mask that constrains everything but the classifier."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path_of(path).startswith("head/"), params)
