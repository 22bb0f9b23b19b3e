"""The methods that are compared: the robustness benchmark's, and DiGraP in the form that acts in short runs."""

import optax

from ftp_optax import digrap
from robust.methods import METHODS as ALL
from robust.methods import RATE, Method

__all__ = ["METHODS", "RATE", "Method"]

METHODS: dict[str, Method] = {
    "vanilla": ALL["vanilla"],
    "ftp": ALL["ftp"],
    "digrap": ALL["digrap"],
    "digrap_from_1": Method(
        "mu",
        (1e-2, 1e-3, 1e-1),
        lambda adamw, mu: optax.chain(digrap(hyper_optimizer=optax.adam(mu), initial_strength=1.0), adamw),
    ),
    "ftp+digrap": ALL["ftp+digrap"],
    "l2_sp": ALL["l2_sp"],
    "spd": ALL["spd"],
}
"""By name, in the order in which they are run."""
