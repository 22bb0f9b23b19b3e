"""DINOv3's vision transformers (Siméoni et al. 2025) as timm's `Eva` has them."""

import re
from collections.abc import Collection
from typing import Literal, NamedTuple

from pretrained.fields import DEEPEST, Fields
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.timm.config import Config
from pretrained.timm.vit import NAMES, WITHOUT_EFFECT, head_width, patches
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer

__all__ = ["SIZES", "read"]


class _Size(NamedTuple):
    width: int
    depth: int
    heads: int
    ratio: float = 4.0
    gated: bool = False
    multiple: int = 8
    """What the width of a gated MLP is rounded up to."""


SIZES = {
    "tiny": _Size(192, 12, 3),
    "small": _Size(384, 12, 6),
    "small_plus": _Size(384, 12, 6, gated=True),
    "base": _Size(768, 12, 12),
    "large": _Size(1024, 24, 16),
    "huge_plus": _Size(1280, 32, 20, gated=True),
    "7b": _Size(4096, 40, 32, 2.0, gated=True, multiple=64),
}
"""What the size in a name stands for."""

POOLING: dict[str, Literal["class", "mean"]] = {"token": "class", "avg": "mean"}

# The start of the weights, and how positions are moved at random.
_TRAINING = ("head_init_scale", "init_values", "rope_jitter_coords", "rope_rescale_coords", "rope_shift_coords")
# Fixed in every architecture here: another value would be another family.
_FIXED = {
    "class_token": True,
    "dynamic_img_pad": False,
    "qkv_fused": True,
    "rope_rotate_half": True,
    "rope_type": "dinov3",
    "use_abs_pos_emb": False,
    "use_rot_pos_emb": True,
}

RENAMED = (
    (r"\.query_bias$", ".q_bias"),
    (r"\.value_bias$", ".v_bias"),
    (r"\.mlp\.gate\.", ".mlp.fc1_g."),
    (r"\.scale(1|2)$", r".gamma_\1"),
)
GATED = (r"\.mlp\.up\.", ".mlp.fc1_x.")


def read(config: Config, tensors: Collection[str]) -> Spec:
    """What a configuration of this family says."""
    arguments = config.arguments
    _fill(config)
    arguments.ignore(*WITHOUT_EFFECT, *_TRAINING)
    for name, value in _FIXED.items():
        arguments.one_of(name, [value], value)
    size = config.image_size(config.input_size)
    patch, grid = patches(arguments, size)
    blocks = _blocks(arguments)
    pooling = config.pooling("avg", POOLING)
    norm = "pooled" if arguments.take("use_fc_norm", bool, False) else "tokens"
    tower = ImageConfig(
        blocks=blocks,
        patch=patch,
        grid=grid,
        positions="rotary",
        rotary_theta=arguments.factor("rope_temperature", 100.0, most=1e6),
        registers=arguments.count("num_reg_tokens", 4),
        norm=norm,
        pooling=POOLING[pooling],
    )
    head = config.head(blocks.width)
    rules = [*RENAMED, *([GATED] if blocks.mlp == "gated" else []), *NAMES]
    return Spec(
        build=lambda: Model(ImageTransformer(tower), head=head),
        name=renaming([*rules, (r"^image\.norm\.", "fc_norm." if norm == "pooled" else "norm.")]),
        image_size=size,
        classes=config.labels,
    )


def _fill(config: Config) -> None:
    """Takes the arguments that an architecture's name stands for, where the file does not give them."""
    named = re.fullmatch(r"vit_(\w+)_patch16_dinov3(_qkvb)?", config.architecture)
    size = SIZES.get(named[1]) if named else None
    if named is None or size is None or (named[1], named[2]) in (("7b", "_qkvb"), ("tiny", None)):
        raise config.unknown_architecture()
    config.arguments.fill(
        {
            "patch_size": 16,
            "embed_dim": size.width,
            "depth": size.depth,
            "num_heads": size.heads,
            "mlp_ratio": size.ratio,
            "qkv_bias": named[2] is not None,
            "swiglu_mlp": size.gated,
            "swiglu_align_to": size.multiple if size.gated else 0,
        }
    )


def _blocks(arguments: Fields) -> BlockConfig:
    width, heads = arguments.positive("embed_dim"), arguments.positive("num_heads")
    each = head_width(arguments, width, heads)
    if each % 4:
        raise arguments.unsupported("num_heads", heads, "4 must divide the width of a head")
    gated, multiple = arguments.take("swiglu_mlp", bool), arguments.count("swiglu_align_to")
    hidden = int(width * arguments.factor("mlp_ratio"))
    bias = arguments.take("qkv_bias", bool)
    return BlockConfig(
        width=width,
        depth=arguments.positive("depth", most=DEEPEST),
        heads=heads,
        head_width=each,
        mlp_width=hidden + -hidden % multiple if gated and multiple else hidden,
        activation="silu" if gated else "gelu",
        epsilon=1e-5,
        query_bias=bias,
        key_bias=False,
        value_bias=bias,
        fused="qkv",
        mlp="plain" if not gated else "gated" if multiple else "gated-fused",
        layer_scale=True,
    )
