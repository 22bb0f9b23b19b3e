"""SigLIP (Zhai et al. 2023), and SigLIP 2 at fixed resolution, as transformers stores them."""

from collections.abc import Collection
from dataclasses import replace

from pretrained.fields import Fields
from pretrained.huggingface.common import alone, blocks, classifier, ignore_common, part, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.transformer import ImageConfig, ImageTransformer, TextConfig, TextTransformer

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {
    "siglip": ("SiglipModel", "SiglipForImageClassification"),
    "siglip_vision_model": ("SiglipVisionModel",),
    "siglip_text_model": ("SiglipTextModel",),
}

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^image\.position_embedding\.", "vision_model.embeddings.position_embedding."),
    (r"^image\.norm\.", "vision_model.post_layernorm."),
    (r"^image\.blocks\.", "vision_model.encoder.layers."),
    (r"^image\.pooling\.", "vision_model.head."),
    (r"^text\.(token|position)_embedding\.", r"text_model.embeddings.\1_embedding."),
    (r"^text\.norm\.", "text_model.final_layer_norm."),
    (r"^text\.pooler\.", "text_model.head."),
    (r"^text\.blocks\.", "text_model.encoder.layers."),
    (r"head\.attention\.qkv\.", "head.attention.in_proj_"),
    (r"head\.attention\.out\.", "head.attention.out_proj."),
    (r"head\.norm\.", "head.layernorm."),
    (r"\.norm(1|2)\.", r".layer_norm\1."),
    (r"\.attention\.query\.", ".self_attn.q_proj."),
    (r"\.attention\.key\.", ".self_attn.k_proj."),
    (r"\.attention\.value\.", ".self_attn.v_proj."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
)
# A classifier has the pooling's weights too, and reads the mean of the tokens.
UNUSED = r"((vision|text)_model\.)?embeddings\.position_ids"
UNUSED_BY_CLASSIFIER = rf"{UNUSED}|vision_model\.head\..*"


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    image = text = None
    if kind != "siglip_text_model":
        with part(fields, kind, "vision") as own:
            image = _image(own)
    if architecture == "SiglipModel" or kind == "siglip_text_model":
        with part(fields, kind, "text") as own:
            text = _text(own)
    fields.ignore("text_config", "text_config_dict")
    head, classes = classifier(fields, architecture, image.blocks.width if image else 0)
    if head and image:
        image = replace(image, pooling="none", features="mean")
    ignore_common(fields)
    scalar = (1,) if architecture == "SiglipModel" else None
    return Spec(
        build=lambda: Model(
            image and ImageTransformer(image), text and TextTransformer(text), head, scale=scalar, bias=scalar
        ),
        name=renaming([*NAMES, *alone(tensors, kind)]),
        image_size=image and image.size,
        unused=UNUSED_BY_CLASSIFIER if head else UNUSED,
        classes=classes,
    )


def _image(fields: Fields) -> ImageConfig:
    cut = patches(fields)
    body = blocks(fields, epsilon=1e-6, act="gelu_pytorch_tanh")
    pools = fields.take("vision_use_head", bool, True)
    return ImageConfig(
        blocks=body,
        patch=cut.patch,
        grid=cut.grid,
        rows=True,
        class_token=False,
        prefix_positions=0,
        pooling="attention" if pools else "none",
        pooling_blocks=replace(body, fused="qkv"),
        features="pooled" if pools else "mean",
    )


def _text(fields: Fields) -> TextConfig:
    body = blocks(fields, epsilon=1e-6, act="gelu_pytorch_tanh")
    return TextConfig(
        blocks=body,
        vocabulary=fields.positive("vocab_size", 32000),
        length=fields.positive("max_position_embeddings", 64),
        pooling="last",
        pooler=fields.count("projection_size", 0) or body.width,
    )
