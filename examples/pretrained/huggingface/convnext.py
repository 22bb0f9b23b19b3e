"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023) as transformers stores them."""

from collections.abc import Collection

from pretrained.convnext import ConvNeXt, ConvNeXtConfig
from pretrained.fields import DEEPEST, Fields
from pretrained.huggingface.common import activation, classifier, ignore_common
from pretrained.model import Model
from pretrained.spec import Spec, renaming

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {
    "convnext": ("ConvNextModel", "ConvNextForImageClassification"),
    "convnextv2": ("ConvNextV2Model", "ConvNextV2ForImageClassification"),
}

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.stem\.", "image.embeddings.patch_embeddings."),
    (r"^image\.stem_norm\.", "image.embeddings.layernorm."),
    (r"^image\.norm\.", "image.layernorm."),
    (r"^image\.stages\.", "image.encoder.stages."),
    (r"\.downsample_norm\.", ".downsampling_layer.0."),
    (r"\.downsample\.", ".downsampling_layer.1."),
    (r"\.blocks\.", ".layers."),
    (r"\.depthwise\.", ".dwconv."),
    (r"\.norm\.", ".layernorm."),
    (r"\.up\.", ".pwconv1."),
    (r"\.response_norm\.", ".grn."),
    (r"\.down\.", ".pwconv2."),
    (r"\.layer_scale$", ".layer_scale_parameter"),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    del tensors
    ignore_common(fields)
    fields.one_of("num_channels", [3], 3)
    stages = fields.positive("num_stages", 4)
    widths = fields.integers("hidden_sizes", (96, 192, 384, 768), count=stages)
    second = kind == "convnextv2"
    config = ConvNeXtConfig(
        widths=widths,
        depths=fields.integers("depths", (3, 3, 9, 3), count=stages, most=DEEPEST),
        patch=fields.pair("patch_size", (4, 4)),
        activation=activation(fields),
        last_epsilon=fields.take("layer_norm_eps", float, 1e-12),
        layer_scale=not second and fields.take("layer_scale_init_value", float, 1e-6) > 0,
        response_norm=(1, 1, 1) if second else None,
    )
    head, classes = classifier(fields, architecture, widths[-1])
    return Spec(
        build=lambda: Model(ConvNeXt(config), head=head),
        name=renaming([*NAMES, (r"^image\.", f"{kind}." if head else "")]),
        image_size=fields.pair("image_size", (224, 224)),
        classes=classes,
    )
