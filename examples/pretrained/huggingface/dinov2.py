"""DINOv2 (Oquab et al. 2023), with registers (Darcet et al. 2024) and without, as transformers stores it."""

from collections.abc import Collection
from dataclasses import replace

from pretrained.fields import Fields
from pretrained.huggingface.common import blocks, classifier, ignore_common, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.transformer import ImageConfig, ImageTransformer

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification"),
}

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.patches\.", "image.embeddings.patch_embeddings.projection."),
    (r"^image\.class_token$", "image.embeddings.cls_token"),
    (r"^image\.(position_embeddings|register_tokens)$", r"image.embeddings.\1"),
    (r"^image\.norm\.", "image.layernorm."),
    (r"^image\.blocks\.", "image.encoder.layer."),
    (r"\.attention\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.scale(1|2)$", r".layer_scale\1.lambda1"),
)
PLAIN = ((r"\.mlp\.up\.", ".mlp.fc1."), (r"\.mlp\.down\.", ".mlp.fc2."))
GATED = ((r"\.mlp\.up\.", ".mlp.weights_in."), (r"\.mlp\.down\.", ".mlp.weights_out."))


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    ignore_common(fields)
    # transformers takes the MLP's width from mlp_ratio, also where an intermediate_size is given
    fields.ignore("intermediate_size", "layerscale_value", "use_mask_token")
    registers = fields.count("num_register_tokens", 4) if kind == "dinov2_with_registers" else 0
    cut = patches(fields, patch=16 if registers else 14)
    ratio = fields.factor("mlp_ratio", 4.0)
    gated = fields.take("use_swiglu_ffn", bool, False)
    bias = fields.take("qkv_bias", bool, True)
    body = blocks(fields, epsilon=1e-6, query_bias=bias, key_bias=bias, value_bias=bias, layer_scale=True)
    width = int(body.width * ratio)
    if gated:  # two thirds, rounded up to a multiple of 8
        width = (int(width * 2 / 3) + 7) // 8 * 8
    body = replace(body, mlp_width=width)
    if gated:
        body = replace(body, mlp="gated-fused", activation="silu")
    config = ImageConfig(
        blocks=body,
        patch=cut.patch,
        grid=cut.grid,
        registers=registers,
        resampling="bicubic-antialias" if kind == "dinov2_with_registers" else "bicubic",
        features="class+mean",
    )
    head, classes = classifier(fields, architecture, 2 * body.width)
    prefix = f"{kind}." if head else ""
    return Spec(
        build=lambda: Model(ImageTransformer(config), head=head),
        name=renaming([*NAMES, *(GATED if gated else PLAIN), (r"^image\.", prefix)]),
        image_size=cut.size,
        unused=rf"{prefix}embeddings\.mask_token",
        classes=classes,
    )
