"""The experiments by name: which data, which network, how long is fine-tuned."""

from dataclasses import dataclass
from typing import Any

from vision.errors import UserError

__all__ = ["ID_DOMAINS", "Experiment", "main_backbone", "standard"]

ID_DOMAINS = {"emoji": "fluent-high-contrast", "digits": "photo", "fashion": "photo"}
"""The domain that is fine-tuned on, where none is asked for."""

_BACKBONES = {
    "emoji": ("efficientnet-lite0", "resnet", "vit"),
    "digits": ("small-cnn", "resnet", "vit"),
    "fashion": ("small-cnn",),
}  # the main one first

_LENGTHS: dict[str, dict[str, Any]] = {
    "emoji": {"epochs": 10, "batch_size": 32},
    "digits": {"epochs": 15, "batch_size": 64},
    "fashion": {"epochs": 15, "batch_size": 64},
}
_EPOCHS_AT_SMALLEST = 4


@dataclass(frozen=True)
class Experiment:
    """What is run, whatever the method.

    Attributes:
        name: `emoji`, `digits` or `fashion`.
        id_domain: The domain that is fine-tuned on.
        epochs: Of fine-tuning.
        batch_size: Of fine-tuning.
        backbone: The foundation model's network.
        smallest: Little data and few epochs, to see that everything works.
    """

    name: str
    id_domain: str
    epochs: int
    batch_size: int
    backbone: str
    smallest: bool = False


def main_backbone(name: str) -> str:
    """The network of an experiment where none is asked for."""
    return _BACKBONES[name][0]


def standard(
    name: str, id_domain: str | None = None, *, backbone: str | None = None, smallest: bool = False
) -> Experiment:
    """An experiment as the main benchmark runs it.

    Args:
        name: A key of `ID_DOMAINS`.
        id_domain: The domain to fine-tune on; None for the main one.
        backbone: The foundation model's network; None for the main one.
        smallest: The digits with little data, whatever the name: it must run without any download.

    Raises:
        UserError: The experiment has no such backbone.
    """
    name = "digits" if smallest else name
    id_domain = id_domain if id_domain and not smallest else ID_DOMAINS[name]
    backbone = backbone or main_backbone(name)
    if backbone not in _BACKBONES[name]:
        raise UserError(f"{name}: no backbone {backbone!r}; choose from {', '.join(_BACKBONES[name])}")
    length = _LENGTHS[name] | ({"epochs": _EPOCHS_AT_SMALLEST} if smallest else {})
    return Experiment(name, id_domain, backbone=backbone, smallest=smallest, **length)
