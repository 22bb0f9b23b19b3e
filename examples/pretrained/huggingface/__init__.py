"""The naming scheme of Hugging Face's transformers: `config.json`, and tensors named by its torch modules.

One module a family; each says what the fields of its configuration mean, with transformers' own default for a field
that is absent, since `save_pretrained` leaves some out.
"""

import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pretrained.fields import Fields
from pretrained.spec import Spec

__all__ = ["FAMILIES", "read", "with_classes"]

FAMILIES = {
    "clip": "clip",
    "clip_text_model": "clip",
    "clip_vision_model": "clip",
    "convnext": "convnext",
    "convnextv2": "convnext",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "resnet": "resnet",
    "siglip": "siglip",
    "siglip_text_model": "siglip",
    "siglip_vision_model": "siglip",
    "swin": "swin",
    "vit": "vit",
}
"""The module of each `model_type`."""


def read(config: Mapping[str, Any], tensors: Collection[str], source: str) -> Spec:
    """What a `config.json` says.

    Args:
        config: Its content.
        tensors: Names of the tensors beside it: a few optional parts are in no configuration.
        source: The file, for messages.

    Raises:
        UserError: It asks for something that is not supported, and which.
    """
    fields = Fields(config, source)
    kind = fields.one_of("model_type", FAMILIES)
    architectures = fields.take("architectures", list)
    if len(architectures) != 1 or not isinstance(architectures[0], str):
        raise fields.unsupported("architectures", architectures, "one name is needed")
    family = importlib.import_module(f"pretrained.huggingface.{FAMILIES[kind]}")
    if architectures[0] not in family.ARCHITECTURES[kind]:
        known = ", ".join(family.ARCHITECTURES[kind])
        raise fields.unsupported("architectures", architectures[0], f"supported for {kind}: {known}")
    spec = family.read(fields, tensors, kind, architectures[0])
    fields.close()
    return spec


def with_classes(config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
    """The configuration of the same model with a classifier of these classes; None where transformers has none.

    Towers of CLIP and SigLIP have none: their zero-shot head is made of texts, and is no part of the files.
    """
    kind, (architecture,) = config["model_type"], config["architectures"]
    family = importlib.import_module(f"pretrained.huggingface.{FAMILIES[kind]}")
    classifier = re.sub(r"(Model|ForImageClassification)$", "ForImageClassification", architecture)
    if classifier not in family.ARCHITECTURES[kind] or ("text_config" in config and classifier != architecture):
        return None
    labels = {str(i): name for i, name in enumerate(classes)}
    return {
        **{name: value for name, value in config.items() if name != "num_labels"},
        "architectures": [classifier],
        "id2label": labels,
        "label2id": {name: i for i, name in enumerate(classes)},
    }
