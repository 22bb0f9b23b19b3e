"""The base optimizers and the methods round them, by name."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import optax

from cost import trees
from ftp_optax import add_decayed_anchor, digrap, ftp, pgm, spd, tpgm

BaseName: TypeAlias = Literal["sgd", "adamw", "lion"]
MethodName: TypeAlias = Literal["ftp", "ftp-lean", "digrap", "ftp+digrap", "tpgm", "spd", "pgm", "l2-sp"]
BASES: dict[BaseName, optax.GradientTransformation] = {  # what they are set to makes no difference to their cost
    "sgd": optax.sgd(1e-3),
    "adamw": optax.adamw(1e-3),
    "lion": optax.lion(1e-4),
}
METHODS: tuple[MethodName, ...] = get_args(MethodName)
BASE = "base"  # the row of the base optimizer alone


def label(method: str, base: str = "adamw") -> str:
    """What tables call a method: the base optimizer alone by its own name."""
    return base if method == BASE else method


def method(name: str, base: BaseName = "adamw", anchor_dtype: Any = None) -> optax.GradientTransformationExtraArgs:
    """A method round a base optimizer, every leaf constrained, or the base itself for the name `BASE`.

    All take a `held_out_loss`, which only `tpgm` uses.
    """
    inner = BASES[base]
    layered: Any = {"layer_axes": trees.layer_axes, "anchor_dtype": anchor_dtype}
    methods: dict[str, Callable[[], optax.GradientTransformation]] = {
        BASE: lambda: inner,
        "ftp": lambda: ftp(inner, **layered),
        "ftp-lean": lambda: ftp(inner, memory="lean", **layered),
        "digrap": lambda: optax.chain(digrap(**layered), inner),
        "digrap-lean": lambda: optax.chain(digrap(memory="lean", **layered), inner),
        "ftp+digrap": lambda: optax.chain(digrap(**layered), ftp(inner, **layered)),
        "tpgm": lambda: tpgm(inner, **layered),
        "spd": lambda: spd(inner, strength=0.1, **layered),
        "pgm": lambda: pgm(inner, radius=0.01, **layered),
        "l2-sp": lambda: optax.chain(add_decayed_anchor(0.01, anchor_dtype=anchor_dtype), inner),
    }
    return optax.with_extra_args_support(methods[name]())
