"""Make tiny random models as timm saves them for the Hub, and what torch computes of given inputs.

    python tests/data/make_timm.py [NAME...]    # every model by default; torch, timm and safetensors

NAME is timm's architecture. `model_args` in config.json says how the tiny one differs from it.
"""

import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import timm
import torch
from randomised import random_pixels, randomised

DIRECTORY = Path(__file__).parent / "timm"


@dataclass
class Variant:
    """The arguments that make a tiny model of an architecture, and what is given to it."""

    arguments: dict
    pixels: tuple[int, int] = (16, 16)
    larger: tuple[int, int] = (24, 20)
    dynamic: bool = True  # takes `dynamic_img_size` for images of another size
    model_config: dict = field(default_factory=dict)


def make(name: str, variant: Variant) -> None:
    torch.manual_seed(zlib.crc32(name.encode()))
    architecture = name.partition("-")[0]
    model = randomised(timm.create_model(architecture, **variant.arguments)).eval()
    directory = DIRECTORY / name
    timm.models.save_for_hf(model, directory, model_config=variant.model_config, safe_serialization=True)
    (directory / "pytorch_model.bin").unlink(missing_ok=True)

    arrays = {"pixels": random_pixels(3, *variant.pixels)}
    arrays |= outputs(model, arrays["pixels"])
    arrays["pixels_larger"] = random_pixels(2, *variant.larger)
    dynamic = {"dynamic_img_size": True} if variant.dynamic else {}
    other_size = timm.create_model(architecture, **variant.arguments | dynamic).eval()
    other_size.load_state_dict(model.state_dict())
    arrays |= {f"{key}_larger": value for key, value in outputs(other_size, arrays["pixels_larger"]).items()}
    np.savez_compressed(directory / "expected.npz", **{key: value.numpy() for key, value in arrays.items()})

    check_loads(directory, arrays)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size / 1000:.0f} kB", {key: tuple(value.shape) for key, value in arrays.items()}, flush=True)


@torch.no_grad()
def outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model.forward_features(pixels)
    arrays = {"tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
    return arrays | ({"logits": model(pixels)} if model.num_classes else {})


def check_loads(directory: Path, arrays: dict) -> None:
    """The directory as it lies there gives the same outputs in timm."""
    loaded = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    for key, value in outputs(loaded, arrays["pixels"]).items():
        assert torch.isfinite(value).all(), (directory, key)
        assert torch.equal(value, arrays[key]), (directory, key)


SIZES = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 4, "mlp_ratio": 2.0}
LABELS = {"num_classes": 7}
NO_HEAD = {"num_classes": 0}
NEXT = {"depths": (1, 1, 2, 1), "dims": (4, 6, 8, 12)}
CONVOLUTIONAL = {"pixels": (32, 32), "larger": (65, 40), "dynamic": False}

VARIANTS = {
    "vit_base_patch16_224": Variant(
        SIZES | LABELS, model_config={"label_names": ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]}
    ),
    "vit_base_patch16_224-avg": Variant(SIZES | LABELS | {"global_pool": "avg"}),
    "vit_base_patch16_224-no_head": Variant(SIZES | NO_HEAD),
    "vit_medium_patch16_gap_240": Variant(SIZES | LABELS),  # no class token, no bias of queries, keys and values
    "vit_base_patch16_clip_224": Variant(SIZES | LABELS),
    "vit_base_patch16_clip_quickgelu_224": Variant(SIZES | LABELS),
    "vit_small_patch14_dinov2": Variant(SIZES | NO_HEAD | {"img_size": 28}, pixels=(28, 28), larger=(16, 12)),
    "vit_small_patch14_reg4_dinov2": Variant(SIZES | NO_HEAD),
    "vit_giant_patch14_dinov2": Variant({**SIZES, **NO_HEAD, "embed_dim": 24, "mlp_ratio": 2.66667 * 2}),
    "vit_small_patch16_dinov3": Variant(SIZES | NO_HEAD),
    "vit_small_patch16_dinov3-token": Variant(SIZES | LABELS | {"global_pool": "token"}),
    "vit_small_patch16_dinov3_qkvb": Variant(SIZES | NO_HEAD),
    "vit_small_plus_patch16_dinov3": Variant(SIZES | NO_HEAD),
    "vit_base_patch16_siglip_224": Variant(SIZES | NO_HEAD),
    "vit_so400m_patch16_siglip_256": Variant(SIZES | LABELS),  # tanh's approximation of GELU
    "vit_base_patch16_siglip_gap_224": Variant(SIZES | NO_HEAD),
    "deit_small_patch16_224": Variant(SIZES | LABELS),
    "deit3_small_patch16_224": Variant(SIZES | LABELS),
    "resnet18": Variant(LABELS | {"layers": (1, 1, 1, 2), "channels": (4, 6, 8, 10)}, **CONVOLUTIONAL),
    "resnet34": Variant(
        LABELS | {"layers": (1, 2, 1, 1), "channels": (4, 6, 8, 10), "act_layer": "gelu"}, **CONVOLUTIONAL
    ),
    "resnet50": Variant(LABELS | {"layers": (1, 1, 2, 1), "channels": (2, 3, 4, 6)}, **CONVOLUTIONAL),
    "resnet50-no_head": Variant(NO_HEAD | {"layers": (1, 1, 1, 1), "channels": (2, 3, 4, 6)}, **CONVOLUTIONAL),
    "convnext_tiny": Variant(LABELS | NEXT, **CONVOLUTIONAL),
    "convnext_tiny-no_head": Variant(NO_HEAD | NEXT, **CONVOLUTIONAL),
    "convnext_atto": Variant(LABELS | NEXT, **CONVOLUTIONAL),
    "convnext_large_mlp": Variant(LABELS | NEXT | {"head_hidden_size": 10}, **CONVOLUTIONAL),
    "convnext_large_mlp-no_head": Variant(NO_HEAD | NEXT | {"head_hidden_size": 10}, **CONVOLUTIONAL),
    "convnext_xxlarge": Variant(  # norms of another epsilon
        LABELS | NEXT | {"act_layer": "gelu_tanh"}, **CONVOLUTIONAL
    ),
    "convnextv2_tiny": Variant(LABELS | NEXT, **CONVOLUTIONAL),
    "convnextv2_atto": Variant(LABELS | NEXT, **CONVOLUTIONAL),
    "swin_tiny_patch4_window7_224": Variant(  # the last map is smaller than a window
        LABELS
        | {
            "img_size": 32,
            "patch_size": 2,
            "window_size": 5,
            "embed_dim": 8,
            "depths": (2, 2, 1),
            "num_heads": (1, 2, 4),
        },
        pixels=(32, 32),
        larger=(48, 40),
    ),
    "swin_base_patch4_window12_384": Variant(  # a map of which one side is a window's
        LABELS
        | {
            "img_size": (40, 24),
            "patch_size": 2,
            "window_size": (5, 6),
            "embed_dim": 8,
            "depths": (2, 2, 2),
            "num_heads": (1, 2, 4),
            "head_dim": 6,
            "mlp_ratio": 1.5,
            "qkv_bias": False,
        },
        pixels=(40, 24),
        larger=(48, 36),
    ),
}

if __name__ == "__main__":
    for requested in sys.argv[1:] or VARIANTS:
        make(requested, VARIANTS[requested])
