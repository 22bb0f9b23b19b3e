"""Timm's `VisionTransformer`: ViT, DINO, MAE, DeiT, CLIP, DINOv2 and SigLIP (all but DINOv3)."""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pretrained.fields import DEEPEST, Fields
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.timm.config import Config
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer

__all__ = ["ARCHITECTURES", "NAMES", "SIZES", "WITHOUT_EFFECT", "head_width", "patches", "read"]


class _Size(NamedTuple):
    width: int
    depth: int
    heads: int
    ratio: float = 4.0
    """Of the MLP's width to the tokens'."""


SIZES = {
    "xsmall": _Size(256, 10, 4),
    "tiny": _Size(192, 12, 3),
    "wee": _Size(256, 14, 4, 5),
    "little": _Size(320, 14, 5, 5.6),
    "small": _Size(384, 12, 6),
    "medium": _Size(512, 12, 8),
    "mediumd": _Size(512, 20, 8),
    "betwixt": _Size(640, 12, 10),
    "base": _Size(768, 12, 12),
    "so150m": _Size(896, 18, 14, 2.572),
    "so150m2": _Size(832, 21, 13, 34 / 13),
    "large": _Size(1024, 24, 16),
    "so400m": _Size(1152, 27, 16, 3.7362),
    "huge": _Size(1280, 32, 16),
    "giant": _Size(1408, 40, 16, 48 / 11),
    "giantopt": _Size(1536, 40, 16),
    "gigantic": _Size(1664, 48, 16, 64 / 13),
}
"""What the size in a name stands for. The patches' size and the number of registers stand there themselves."""

_PLUS = {"embed_dim": 896, "num_heads": 14}
_MEAN = {"class_token": False, "global_pool": "avg"}
_REGISTERS = {**_MEAN, "no_embed_class": True}
_CLIP = {"pre_norm": True, "epsilon": 1e-5}
_QUICK = {**_CLIP, "act_layer": "quick_gelu"}
_SIGLIP = {"class_token": False, "global_pool": "map"}
_SIGLIP_MEAN = {**_MEAN, "fc_norm": False}
_TANH = {"act_layer": "gelu_tanh"}
_DINO = {"init_values": 1e-5}
_GIANT_DINO = {**_DINO, "embed_dim": 1536, "num_heads": 24, "mlp_ratio": 2.66667 * 2, "gated": True}
_DINO_REGISTERS = {"no_embed_class": True}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    r"vit_(tiny_patch16|(small|base|large)_patch(16|32))_(224|384)": {},
    r"vit_((small|base)_patch8|(large|huge|giant|gigantic)_patch14)_224": {},
    r"vit_base_patch16_224_miil": {"qkv_bias": False},
    r"vit_base_patch(16_plus_240|32_plus_256)": {**_PLUS, "init_values": 1e-5},
    r"deit_((tiny|small|base)_patch16_224|base_patch16_384)": {},
    r"deit3_(medium_patch16_224|(small|base|large)_patch16_(224|384)|huge_patch14_224)": {
        "no_embed_class": True,
        "init_values": 1e-6,
    },
    r"vit_(medium_patch16_gap_(240|256|384)|betwixt_patch16_gap_256)": {
        **_MEAN,
        "fc_norm": False,
        "qkv_bias": False,
        "init_values": 1e-6,
    },
    r"vit_base_patch16_gap_224": {**_MEAN, "fc_norm": False, "num_heads": 16},
    r"vit_((huge_patch14|giant_patch16)_gap_224|huge_patch16_gap_448)": {**_MEAN, "fc_norm": False},
    r"vit_(wee_patch16_reg1|(little|medium|betwixt)_patch16_reg[14]|mediumd_patch16_reg4)_gap_256": {
        **_REGISTERS,
        "init_values": 1e-5,
    },
    r"vit_(mediumd|betwixt)_patch16_reg4_gap_384": {**_REGISTERS, "init_values": 1e-5},
    r"vit_base_patch16_reg4_gap_256": _REGISTERS,
    r"vit_so150m_patch16_reg4_gap_(256|384)": {**_MEAN, "fc_norm": False},
    r"vit_so150m_patch16_reg4_map_256": _SIGLIP,
    r"vit_so150m2_patch16_reg1_gap_(256|384|448)": {**_MEAN, "qkv_bias": False, "init_values": 1e-5},
    r"vit_((xsmall|medium)_patch16|(medium|betwixt)_patch32|giant_patch14)_clip_224": _CLIP,
    r"vit_base_patch(16_clip_(224|384)|32_clip_(224|256|384|448))": _CLIP,
    r"vit_(large_patch14_clip_(224|336)|huge_patch14_clip_(224|336|378)|gigantic_patch14_clip_(224|378))": _CLIP,
    r"vit_(base_patch(16|32)|(large|huge|gigantic)_patch14)_clip_quickgelu_224": _QUICK,
    r"vit_(large_patch14_clip_quickgelu_336|huge_patch14_clip_quickgelu_378)": _QUICK,
    r"vit_base_patch16_plus_clip_240": {**_PLUS, **_CLIP},
    r"vit_(base_patch16_siglip_(224|256|384|512)|large_patch16_siglip_(256|384))": _SIGLIP,
    r"vit_(base_patch16_siglip_gap_(224|256|384|512)|large_patch16_siglip_gap_(256|384))": _SIGLIP_MEAN,
    r"vit_so400m_patch14_siglip_(224|378|384)": _SIGLIP,
    r"vit_so400m_patch14_siglip_gap_(224|378|384|448|896)": _SIGLIP_MEAN,
    r"vit_(base_patch32_siglip_256|large_patch16_siglip_512)": {**_SIGLIP, **_TANH},
    r"vit_(base_patch32_siglip_gap_256|large_patch16_siglip_gap_512)": {**_SIGLIP_MEAN, **_TANH},
    r"vit_(so400m_patch16_siglip_(256|384|512)|giantopt_patch16_siglip_(256|384))": {**_SIGLIP, **_TANH},
    r"vit_(so400m_patch16_siglip_gap_(256|384|512)|giantopt_patch16_siglip_gap_(256|384))": {**_SIGLIP_MEAN, **_TANH},
    r"vit_(small|base|large)_patch14_dinov2": _DINO,
    r"vit_(small|base|large)_patch14_reg4_dinov2": {**_DINO, **_DINO_REGISTERS},
    r"vit_giant_patch14_dinov2": _GIANT_DINO,
    r"vit_giant_patch14_reg4_dinov2": {**_GIANT_DINO, **_DINO_REGISTERS},
}
"""The arguments that timm makes each architecture with, by a pattern of names. Two stand for modules, which no
`model_args` can name: `epsilon` is that of the norms, `gated` is SwiGLU."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
POOLING: dict[str, Literal["class", "mean", "attention"]] = {"token": "class", "avg": "mean", "map": "attention"}

# Arguments for training, and those that only say which sizes of images timm takes.
WITHOUT_EFFECT = (
    "attn_drop_rate",
    "dynamic_img_size",
    "fix_init",
    "patch_drop_rate",
    "pos_drop_rate",
    "proj_drop_rate",
    "strict_img_size",
    "weight_init",
)
# Arguments that must have the value that no architecture here changes.
_OFF = {
    "dynamic_img_pad": False,
    "pool_include_prefix": False,
    "pos_embed": "learn",
    "qk_norm": False,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "use_naflex": False,
}

NAMES = (
    (r"^image\.patches\.", "patch_embed.proj."),
    (r"^image\.class_token$", "cls_token"),
    (r"^image\.register_tokens$", "reg_token"),
    (r"^image\.position_embeddings$", "pos_embed"),
    (r"^image\.norm_first\.", "norm_pre."),
    (r"^image\.blocks\.", "blocks."),
    (r"^image\.pooling\.probe$", "attn_pool.latent"),
    (r"^image\.pooling\.attention\.query\.", "attn_pool.q."),
    (r"^image\.pooling\.attention\.kv\.", "attn_pool.kv."),
    (r"^image\.pooling\.attention\.out\.", "attn_pool.proj."),
    (r"^image\.pooling\.", "attn_pool."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
    (r"\.scale(1|2)$", r".ls\1.gamma"),
)


def read(config: Config, tensors: Collection[str]) -> Spec:
    """What a configuration of this family says."""
    arguments = config.arguments
    own = _arguments(config)
    epsilon, gated = own.pop("epsilon", 1e-6), own.pop("gated", False)
    arguments.fill(own)
    arguments.ignore(*WITHOUT_EFFECT)
    for name, off in _OFF.items():
        arguments.one_of(name, [off], off)
    size = config.image_size((224, 224))
    patch, grid = patches(arguments, size)
    blocks = _blocks(arguments, epsilon, gated=gated)
    class_token, registers = arguments.take("class_token", bool, True), arguments.count("reg_tokens", 0)
    pooling = config.pooling("token", POOLING)
    if pooling == "token" and not class_token:
        raise arguments.unsupported("global_pool", pooling, "there is no class token")
    norm_first = arguments.take("pre_norm", bool, False)
    pooled = arguments.one_of("fc_norm", (True, False), None)  # null as well leaves it to the pooling
    norm = "pooled" if (pooling == "avg" if pooled is None else pooled) else "tokens"
    if not arguments.take("final_norm", bool, True):
        norm = "none"
    tower = ImageConfig(
        blocks=blocks,
        patch=patch,
        grid=grid,
        patch_bias=not norm_first,
        class_token=class_token,
        registers=registers,
        prefix_positions=0 if arguments.take("no_embed_class", bool, False) else int(class_token) + registers,
        resampling="bicubic-antialias",
        norm_first=norm_first,
        norm=norm,
        pooling=POOLING[pooling],
        pooling_blocks=_pooling_blocks(blocks),
    )
    head = config.head(blocks.width)
    # timm leaves SigLIP's pooling in the files of towers that pool by the mean
    left_over = "siglip" in config.architecture and pooling != "map"
    return Spec(
        build=lambda: Model(ImageTransformer(tower), head=head),
        name=renaming([*NAMES, (r"^image\.norm\.", "fc_norm." if norm == "pooled" else "norm.")]),
        image_size=size,
        unused=r"attn_pool\..*" if left_over else r"(?!)",
        classes=config.labels,
    )


def patches(arguments: Fields, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a patch, and of the grid of them in an image."""
    patch = arguments.pair("patch_size")
    if size[0] < patch[0] or size[1] < patch[1]:
        raise arguments.unsupported("patch_size", patch, f"it must not exceed img_size = {size}")
    return patch, (size[0] // patch[0], size[1] // patch[1])


def head_width(arguments: Fields, width: int, heads: int) -> int:
    """Features of an attention head."""
    if width % heads:
        raise arguments.unsupported("num_heads", heads, f"it must divide embed_dim = {width}")
    return width // heads


def _arguments(config: Config) -> dict[str, Any]:
    """What an architecture's name stands for."""
    name = config.architecture
    found = next((arguments for names, arguments in ARCHITECTURES.items() if re.fullmatch(names, name)), None)
    if found is None:
        raise config.unknown_architecture()
    width, depth, heads, ratio = SIZES[name.split("_")[1]]
    return {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": ratio,
        "patch_size": int(name.partition("_patch")[2].split("_")[0]),
        "reg_tokens": int(registers[1]) if (registers := re.search(r"_reg(\d)_", name)) else 0,
        **found,
    }


def _blocks(arguments: Fields, epsilon: float, *, gated: bool) -> BlockConfig:
    width, heads = arguments.positive("embed_dim"), arguments.positive("num_heads")
    hidden = int(width * arguments.factor("mlp_ratio"))
    qkv_bias, bias = arguments.take("qkv_bias", bool, True), arguments.take("proj_bias", bool, True)
    return BlockConfig(
        width=width,
        depth=arguments.positive("depth", most=DEEPEST),
        heads=heads,
        head_width=head_width(arguments, width, heads),
        mlp_width=hidden // 2 if gated else hidden,
        activation=ACTIVATIONS[arguments.one_of("act_layer", ACTIVATIONS, "silu" if gated else "gelu")],
        epsilon=epsilon,
        query_bias=qkv_bias,
        key_bias=qkv_bias,
        value_bias=qkv_bias,
        out_bias=bias,
        mlp_bias=bias,
        fused="qkv",
        mlp="gated-fused" if gated else "plain",
        layer_scale=arguments.take("init_values", float, 0.0) != 0,
    )


def _pooling_blocks(blocks: BlockConfig) -> BlockConfig:
    """The pooling by attention has all biases, and its MLP is never gated."""
    bias = dict.fromkeys(("query_bias", "key_bias", "value_bias", "out_bias", "mlp_bias"), True)
    hidden = blocks.mlp_width * (2 if blocks.mlp == "gated-fused" else 1)
    return replace(blocks, fused="kv", mlp="plain", mlp_width=hidden, **bias)
