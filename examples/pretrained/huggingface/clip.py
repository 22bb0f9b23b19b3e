"""CLIP (Radford et al. 2021), of OpenAI, LAION and others, as transformers stores it."""

from collections.abc import Collection

from pretrained.fields import Fields
from pretrained.huggingface.common import alone, blocks, classifier, ignore_common, part, patches
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.transformer import ImageConfig, ImageTransformer, TextConfig, TextTransformer

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {
    "clip": ("CLIPModel", "CLIPForImageClassification"),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection"),
}
# A configuration's id of the end of text before transformers 4.31: what ended a text then was its largest id.
_OLD_END = 2

NAMES = (
    (r"^head\.", "classifier."),
    (r"^image\.projection\.", "visual_projection."),
    (r"^text\.projection\.", "text_projection."),
    (r"^image\.patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^image\.class_token$", "vision_model.embeddings.class_embedding"),
    (r"^image\.position_embedding\.", "vision_model.embeddings.position_embedding."),
    (r"^image\.norm_first\.", "vision_model.pre_layrnorm."),
    (r"^image\.norm\.", "vision_model.post_layernorm."),
    (r"^image\.blocks\.", "vision_model.encoder.layers."),
    (r"^text\.(token|position)_embedding\.", r"text_model.embeddings.\1_embedding."),
    (r"^text\.norm\.", "text_model.final_layer_norm."),
    (r"^text\.blocks\.", "text_model.encoder.layers."),
    (r"\.norm(1|2)\.", r".layer_norm\1."),
    (r"\.attention\.query\.", ".self_attn.q_proj."),
    (r"\.attention\.key\.", ".self_attn.k_proj."),
    (r"\.attention\.value\.", ".self_attn.v_proj."),
    (r"\.attention\.out\.", ".self_attn.out_proj."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    shared = fields.positive("projection_dim", 512) if kind == "clip" else None
    projects = architecture == "CLIPModel" or architecture.endswith("WithProjection")
    image = text = None
    if kind != "clip_text_model":
        with part(fields, kind, "vision") as own:
            image = _image(own, shared, projects=projects)
    if architecture == "CLIPModel" or kind == "clip_text_model":
        with part(fields, kind, "text") as own:
            text = _text(own, shared, projects=projects)
    fields.ignore("logit_scale_init_value", "text_config", "text_config_dict")
    head, classes = classifier(fields, architecture, image.blocks.width if image else 0)
    ignore_common(fields)
    return Spec(
        build=lambda: Model(
            image and ImageTransformer(image),
            text and TextTransformer(text),
            head,
            scale=() if architecture == "CLIPModel" else None,
        ),
        name=renaming([*NAMES, *alone(tensors, kind)]),
        image_size=image and image.size,
        unused=r"((vision|text)_model\.)?embeddings\.position_ids",
        classes=classes,
    )


def _image(fields: Fields, shared: int | None, *, projects: bool) -> ImageConfig:
    own = fields.positive("projection_dim", 512)
    cut = patches(fields, patch=32)
    return ImageConfig(
        blocks=blocks(fields, epsilon=1e-5, act="quick_gelu"),
        patch=cut.patch,
        grid=cut.grid,
        patch_bias=False,
        rows=True,
        norm_first=True,
        norm="pooled",
        projection=(shared or own) if projects else None,
        features="pooled" if projects else "mean",
    )


def _text(fields: Fields, shared: int | None, *, projects: bool) -> TextConfig:
    own = fields.positive("projection_dim", 512)
    end = fields.take("eos_token_id", int, 49407)
    return TextConfig(
        blocks=blocks(fields, width=512, heads=8, mlp_width=2048, epsilon=1e-5, act="quick_gelu", causal=True),
        vocabulary=fields.positive("vocab_size", 49408),
        length=fields.positive("max_position_embeddings", 77),
        pooling="largest" if end == _OLD_END else "end",
        end=end,
        projection=(shared or own) if projects else None,
    )
