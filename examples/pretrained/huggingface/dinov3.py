"""DINOv3's vision transformers (Siméoni et al. 2025) as transformers stores them."""

from collections.abc import Collection

from pretrained.fields import Fields
from pretrained.huggingface.common import blocks, ignore_common, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.transformer import ImageConfig, ImageTransformer

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {"dinov3_vit": ("DINOv3ViTModel",)}

NAMES = (
    (r"^image\.patches\.", "embeddings.patch_embeddings."),
    (r"^image\.class_token$", "embeddings.cls_token"),
    (r"^image\.register_tokens$", "embeddings.register_tokens"),
    (r"^image\.norm\.", "norm."),
    (r"^image\.blocks\.", "layer."),
    (r"\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.out\.", ".attention.o_proj."),
    (r"\.mlp\.(gate|up|down)\.", r".mlp.\1_proj."),
    (r"\.scale(1|2)$", r".layer_scale\1.lambda1"),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    ignore_common(fields)
    # the start of layer scale, and how positions are moved at random in training
    fields.ignore("layerscale_value", "pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift")
    fields.ignore("id2label", "label2id", "num_labels", "return_class_token")
    cut = patches(fields)
    registers = fields.count("num_register_tokens", 0)
    config = ImageConfig(
        blocks=blocks(
            fields,
            width=384,
            heads=6,
            mlp_width=1536,
            epsilon=1e-5,
            query_bias=fields.take("query_bias", bool, True),
            key_bias=fields.take("key_bias", bool, False),
            value_bias=fields.take("value_bias", bool, True),
            out_bias=fields.take("proj_bias", bool, True),
            mlp_bias=fields.take("mlp_bias", bool, True),
            mlp="gated" if fields.take("use_gated_mlp", bool, False) else "plain",
            layer_scale=True,
        ),
        patch=cut.patch,
        grid=cut.grid,
        positions="rotary",
        rotary_theta=fields.factor("rope_theta", 100.0, most=1e6),
        registers=registers,
        features="class",
    )
    if config.blocks.head_width % 4:
        raise fields.unsupported("num_attention_heads", config.blocks.heads, "4 must divide the width of a head")
    nested = any(name.startswith("model.layer.") for name in tensors)  # as transformers names the blocks in memory
    return Spec(
        build=lambda: Model(ImageTransformer(config)),
        name=renaming([*NAMES, *([(r"^layer\.", "model.layer.")] if nested else [])]),
        image_size=cut.size,
        unused=r"embeddings\.mask_token" if registers else r"embeddings\.(mask_token|register_tokens)",
    )
