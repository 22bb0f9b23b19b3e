"""ViT (Dosovitskiy et al. 2021), DINO and MAE encoders among them, as transformers stores it."""

from collections.abc import Collection

from pretrained.fields import Fields
from pretrained.huggingface.common import activation, blocks, classifier, ignore_common, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.transformer import ImageConfig, ImageTransformer

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {"vit": ("ViTModel", "ViTForImageClassification")}

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.patches\.", "image.embeddings.patch_embeddings.projection."),
    (r"^image\.class_token$", "image.embeddings.cls_token"),
    (r"^image\.position_embeddings$", "image.embeddings.position_embeddings"),
    (r"^image\.norm\.", "image.layernorm."),
    (r"^image\.pooler\.", "image.pooler.dense."),
    (r"^image\.blocks\.", "image.encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attention\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    ignore_common(fields)
    fields.ignore("encoder_stride")  # of the decoder for masked images
    cut = patches(fields)
    bias = fields.take("qkv_bias", bool, True)
    body = blocks(fields, epsilon=1e-12, query_bias=bias, key_bias=bias, value_bias=bias)
    pooler, pooler_width = activation(fields, "pooler_act", "tanh"), fields.count("pooler_output_size", 0) or body.width
    head, classes = classifier(fields, architecture, body.width)
    pooled = head is None and "pooler.dense.weight" in tensors  # nothing in a configuration tells
    config = ImageConfig(
        blocks=body,
        patch=cut.patch,
        grid=cut.grid,
        pooling="class" if pooled else "none",
        pooler=pooler if pooled else None,
        pooler_width=pooler_width,
        features="class",
    )
    prefix = "vit." if head else ""
    return Spec(
        build=lambda: Model(ImageTransformer(config), head=head),
        name=renaming([*NAMES, (r"^image\.", prefix)]),
        image_size=cut.size,
        unused=rf"{prefix}embeddings\.mask_token",
        classes=classes,
    )
