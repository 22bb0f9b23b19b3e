"""The naming scheme of timm: `config.json`, and tensors named by its torch modules.

One module a family. An architecture's name stands for the arguments that timm makes it with; those in `model_args` of
`config.json` come before them.
"""

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pretrained.spec import Spec
from pretrained.timm.config import Config

__all__ = ["FAMILIES", "read", "with_classes"]

FAMILIES = {
    r"convnext(v2)?_.*": "convnext",
    r"resnet\d.*|resnext\d.*|wide_resnet\d.*": "resnet",
    r"swin_.*": "swin",
    r"vit_.*_dinov3.*": "dinov3",
    r"(vit|deit3?)_.*": "vit",
}
"""The module of each architecture, by a pattern of its name."""


def read(config: Mapping[str, Any], tensors: Collection[str], source: str) -> Spec:
    """What a `config.json` says.

    Args:
        config: Its content.
        tensors: Names of the tensors beside it.
        source: The file, for messages.

    Raises:
        UserError: It asks for something that is not supported, and which.
    """
    checked = Config(config, source)
    family = next((module for names, module in FAMILIES.items() if re.fullmatch(names, checked.architecture)), None)
    if family is None:
        raise checked.unknown_architecture()
    spec = importlib.import_module(f"pretrained.timm.{family}").read(checked, tensors)
    checked.close()
    return spec


def with_classes(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The configuration of the same model with a classifier of these classes."""
    count = {"num_classes": len(classes)}
    without = {name: value for name, value in config.items() if name != "label_descriptions"}
    about = {name: value for name, value in config["pretrained_cfg"].items() if not name.startswith("label_")}
    changed = {**without, **count, "label_names": list(classes), "pretrained_cfg": {**about, **count}}
    return changed | ({"model_args": {**config["model_args"], **count}} if config.get("model_args") else {})
