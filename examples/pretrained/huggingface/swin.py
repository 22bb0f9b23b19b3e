"""Swin Transformer (Liu et al. 2021) as transformers stores it."""

from collections.abc import Collection

from pretrained.fields import DEEPEST, Fields
from pretrained.huggingface.common import activation, classifier, ignore_common, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.swin import Swin, SwinConfig, stages

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {"swin": ("SwinModel", "SwinForImageClassification")}

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.patches\.", "image.embeddings.patch_embeddings.projection."),
    (r"^image\.patch_norm\.", "image.embeddings.norm."),
    (r"^image\.position_embeddings$", "image.embeddings.position_embeddings"),
    (r"^image\.norm\.", "image.layernorm."),
    (r"^image\.stages\.", "image.encoder.layers."),
    (r"\.merging\.", ".downsample."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.relative_position_bias\.weight$", ".attention.self.relative_position_bias_table"),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    del tensors, kind
    ignore_common(fields)
    fields.ignore("encoder_stride", "path_norm")  # of the decoder for masked images; of nothing
    cut = patches(fields, patch=4)
    depths = fields.integers("depths", (2, 2, 6, 2), most=DEEPEST)
    heads = fields.integers("num_heads", (3, 6, 12, 24), count=len(depths))
    width, ratio = fields.positive("embed_dim", 96), fields.factor("mlp_ratio", 4.0)
    bias, window = fields.take("qkv_bias", bool, True), fields.positive("window_size", 7)
    blocks = stages(
        width,
        depths,
        heads,
        ratio,
        activation=activation(fields),
        epsilon=fields.take("layer_norm_eps", float, 1e-5),
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
    )
    if any(stage.width % stage.heads for stage in blocks):
        raise fields.unsupported("num_heads", heads, f"each must divide the stage's width, {width} in the first")
    last = blocks[-1].width
    for name, value in (("num_layers", len(depths)), ("hidden_size", last)):  # which follow from the others
        fields.one_of(name, [value], value)
    config = SwinConfig(
        stages=blocks,
        patch=cut.patch,
        grid=cut.grid,
        window=(window, window),
        windows="by image",
        positions=fields.take("use_absolute_embeddings", bool, False),
    )
    head, classes = classifier(fields, architecture, last)
    prefix = "swin." if head else ""
    return Spec(
        build=lambda: Model(Swin(config), head=head),
        name=renaming([*NAMES, (r"^image\.", prefix)]),
        image_size=cut.size,
        unused=rf"{prefix}(embeddings\.mask_token|.*\.relative_position_index)",
        classes=classes,
    )
