"""Swin Transformer (Liu et al. 2021) as timm has it."""

import re
from collections.abc import Collection
from typing import NamedTuple

from pretrained.fields import DEEPEST
from pretrained.model import Model
from pretrained.spec import Spec, one_more, renaming
from pretrained.swin import Swin, SwinConfig, stages
from pretrained.timm.config import Config
from pretrained.timm.vit import patches

__all__ = ["ARCHITECTURES", "SIZES", "read"]


class _Size(NamedTuple):
    width: int
    depths: list[int]
    heads: list[int]


SIZES = {
    "tiny": _Size(96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "small": _Size(96, [2, 2, 18, 2], [3, 6, 12, 24]),
    "base": _Size(128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "large": _Size(192, [2, 2, 18, 2], [6, 12, 24, 48]),
}
"""What the size in a name stands for. The patches' size and the window's stand there themselves."""

ARCHITECTURES = r"swin_((tiny|small|base|large)_patch4_window7_224|(base|large)_patch4_window12_384)"

# The last two only say which sizes of images timm takes.
_WITHOUT_EFFECT = ("attn_drop_rate", "proj_drop_rate", "weight_init", "dynamic_img_size", "strict_img_size")

NAMES = (
    (r"^head\.", "head.fc."),
    (r"^image\.patches\.", "patch_embed.proj."),
    (r"^image\.patch_norm\.", "patch_embed.norm."),
    (r"^image\.norm\.", "norm."),
    (r"^image\.stages\.(\d+)\.merging\.", one_more("layers.", ".downsample.")),
    (r"^image\.stages\.", "layers."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.relative_position_bias\.weight$", ".attn.relative_position_bias_table"),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
)


def read(config: Config, tensors: Collection[str]) -> Spec:
    """What a configuration of this family says."""
    del tensors
    name, arguments = config.architecture, config.arguments
    if not re.fullmatch(ARCHITECTURES, name):
        raise config.unknown_architecture()
    own, window = SIZES[name.split("_")[1]], int(name.partition("_window")[2].split("_")[0])
    arguments.fill({"embed_dim": own.width, "depths": own.depths, "num_heads": own.heads, "patch_size": 4})
    arguments.ignore(*_WITHOUT_EFFECT)
    arguments.one_of("always_partition", [False], False)
    config.pooling("avg", ["avg"])
    size = config.image_size((224, 224))
    patch, grid = patches(arguments, size)
    depths = arguments.integers("depths", most=DEEPEST)
    heads = arguments.integers("num_heads", count=len(depths))
    bias, head_width = arguments.take("qkv_bias", bool, True), arguments.count("head_dim", 0)
    blocks = stages(
        arguments.positive("embed_dim"),
        depths,
        heads,
        arguments.factor("mlp_ratio", 4.0),
        head_width=head_width,
        activation="gelu",
        epsilon=1e-5,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        fused="qkv",
    )
    tower = SwinConfig(
        stages=blocks,
        patch=patch,
        grid=grid,
        window=arguments.pair("window_size", (window, window)),
        windows="fixed",
        map_tokens=True,
    )
    head = config.head(blocks[-1].width)
    return Spec(
        build=lambda: Model(Swin(tower), head=head),
        name=renaming(NAMES),
        image_size=size,
        classes=config.labels,
    )
