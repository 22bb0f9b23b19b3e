"""Make tiny random models as Hugging Face saves them, and what torch computes of given inputs.

    python tests/data/make_hf.py [NAME...]    # every variant by default; torch, transformers and safetensors

The directories without a hyphen (clip, convnext, dinov2, resnet, siglip, swin, vit) were given, and are not made here.
"""

import copy
import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from randomised import random_pixels, randomised
from safetensors.torch import load_file, save_file

DIRECTORY = Path(__file__).parent / "hf"
INTERPOLATE_ON_REQUEST = ("clip", "clip_vision_model", "vit", "siglip", "siglip_vision_model", "swin")
OLD_BUFFERS = ("position_ids", "relative_position_index")
OUTPUTS = {
    "logits": "logits",
    "last_hidden_state": "tokens",
    "pooler_output": "pooled",
    "image_embeds": "image_embeds",
    "text_embeds": "text_embeds",
    "logits_per_image": "logits_per_image",
}


@dataclass
class Variant:
    """A model to make: its class, its configuration, and what is given to it or done to its files."""

    model: type
    config: hf.PreTrainedConfig
    arguments: dict = field(default_factory=dict)
    pixels: tuple[int, int] | None = (16, 16)
    larger: tuple[int, int] | None = (24, 20)
    ids: torch.Tensor | None = None
    dtype: torch.dtype | None = None
    shard: str | None = None  # largest size of one file
    sparse: bool = False  # configuration as older releases wrote it: what differs from the defaults
    edit_config: dict = field(default_factory=dict)
    old_buffers: bool = False  # the indices that older releases saved beside the parameters
    old_prefix: str = ""  # what older releases put before a tower's names


def make(name: str, variant: Variant) -> None:
    torch.manual_seed(zlib.crc32(name.encode()))
    model = randomised(variant.model(variant.config, **variant.arguments)).eval()
    directory = DIRECTORY / name
    stored = copy.deepcopy(model).to(variant.dtype or torch.float32)
    stored.save_pretrained(directory, **({"max_shard_size": variant.shard} if variant.shard else {}))
    model.load_state_dict(stored.state_dict())  # half precision is a matter of the file: computed in float32

    arrays = {}
    if variant.pixels is not None:
        arrays["pixels"] = random_pixels(3, *variant.pixels)
    if variant.ids is not None:
        arrays["ids"] = variant.ids
    arrays |= outputs(model, pixel_values=arrays.get("pixels"), input_ids=variant.ids)
    if variant.pixels is not None and variant.larger is not None:
        arrays["pixels_larger"] = random_pixels(2, *variant.larger)
        flag = {"interpolate_pos_encoding": True} if model.config.model_type in INTERPOLATE_ON_REQUEST else {}
        larger = outputs(model, pixel_values=arrays["pixels_larger"], input_ids=variant.ids, **flag)
        arrays |= {f"{key}_larger": value for key, value in larger.items() if key != "text_embeds"}
    np.savez_compressed(directory / "expected.npz", **{key: value.numpy() for key, value in arrays.items()})

    if variant.sparse:
        write_sparse_config(directory, model.config)
    if variant.edit_config:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | variant.edit_config, indent=2) + "\n")
    if variant.old_buffers or variant.old_prefix:
        path = directory / "model.safetensors"
        tensors = load_file(path) | (old_buffers(model) if variant.old_buffers else {})
        tensors = {variant.old_prefix + tensor: value for tensor, value in tensors.items()}
        save_file(tensors, path, metadata={"format": "pt"})
    check_loads(directory, type(model), arrays, variant)
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {size / 1000:.0f} kB", {key: tuple(value.shape) for key, value in arrays.items()}, flush=True)


@torch.no_grad()
def outputs(model: torch.nn.Module, **inputs) -> dict[str, torch.Tensor]:
    # Swin shrinks its windows to the first input for good: a copy for each.
    result = copy.deepcopy(model)(**{key: value for key, value in inputs.items() if value is not None})
    arrays = {ours: result[theirs] for theirs, ours in OUTPUTS.items() if result.get(theirs) is not None}
    if "vision_model_output" in result:
        arrays["tokens"] = result["vision_model_output"].last_hidden_state
    return arrays


def old_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    buffers = {name: buffer for name, buffer in model.named_buffers() if name.endswith(OLD_BUFFERS)}
    swin_name = "attention.relative_position_bias."  # of this release; Swin's index was a square matrix
    return {
        name.replace(swin_name, "attention.self."): (
            buffer.reshape(int(len(buffer) ** 0.5), -1) if swin_name in name else buffer
        ).clone()
        for name, buffer in buffers.items()
    }


def write_sparse_config(directory: Path, config: hf.PreTrainedConfig) -> None:
    defaults = type(config)().to_dict()
    always = {"model_type", "architectures", "id2label", "label2id"}
    sparse = {k: v for k, v in json.loads((directory / "config.json").read_text()).items() if k in always}
    for key, value in config.to_diff_dict().items():
        if isinstance(value, dict) and key.endswith("_config"):
            sub_defaults = type(getattr(config, key))().to_dict()
            value = {k: v for k, v in value.items() if k == "model_type" or sub_defaults.get(k) != v}
        elif key in sparse or key in ("dtype", "transformers_version") or defaults.get(key) == value:
            continue
        sparse[key] = list(value) if isinstance(value, tuple) else value
    sparse |= {"torch_dtype": "float32", "transformers_version": "4.37.0"}
    (directory / "config.json").write_text(json.dumps(sparse, indent=2) + "\n")


def check_loads(directory: Path, model: type, arrays: dict, variant: Variant) -> None:
    """The directory as it lies there gives the same outputs in transformers, with nothing missing or left over."""
    loaded, info = model.from_pretrained(directory, dtype=torch.float32, output_loading_info=True, **variant.arguments)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        left = [key for key in info[problem] if not key.endswith(OLD_BUFFERS)]
        assert not left, (directory, problem, left)
    again = outputs(loaded.eval(), pixel_values=arrays.get("pixels"), input_ids=variant.ids)
    for key, value in again.items():
        assert torch.isfinite(value).all(), (directory, key)
        assert torch.equal(value, arrays[key]), (directory, key)


def text_ids(eos: int, pad: int, vocabulary: int = 64, length: int = 12) -> torch.Tensor:
    """Four texts of different lengths: first token 1, then words, `eos`, and `pad` to the end."""
    ids = torch.randint(3, vocabulary, (4, length), generator=torch.Generator().manual_seed(7))
    ids[ids == eos] = 3
    ids[:, 0] = 1
    for row, end in enumerate([4, 6, length - 1, length - 3]):
        ids[row, end] = eos
        ids[row, end + 1 :] = pad
    return ids


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
WIDE = SIZES | {"intermediate_size": 24}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 50,
}
IDS = text_ids(eos=50, pad=0)  # ids above the end's: the largest id is not where a text ends
LABELS = {"num_labels": 7}


def clip(vision: dict | None = None, text: dict | None = None, **top) -> hf.CLIPConfig:
    towers = {"vision_config": WIDE | (vision or {}), "text_config": TEXT | (text or {})}
    return hf.CLIPConfig(**towers, **({"projection_dim": 12} | top))


def siglip(vision: dict | None = None, text: dict | None = None, **top) -> hf.SiglipConfig:
    tokens = {"projection_size": 16, "bos_token_id": 1, "eos_token_id": 1}
    towers = {"vision_config": WIDE | (vision or {}), "text_config": TEXT | tokens | (text or {})}
    return hf.SiglipConfig(**towers, **top)


LAION_TEXT = {k: v for k, v in TEXT.items() if k != "eos_token_id"} | {"hidden_act": "gelu", "eos_token_id": 50}
LAION_VISION = WIDE | {"hidden_act": "gelu"}
STAGES = {"depths": [1, 1, 2, 1]}
RESNET = STAGES | {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24]}
NEXT = STAGES | {"hidden_sizes": [4, 6, 8, 12], "image_size": 32}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
DINO = SIZES | {"mlp_ratio": 2}

VARIANTS = {
    "clip-gelu": Variant(
        hf.CLIPModel,
        clip(
            {"hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-3},
            {"hidden_act": "gelu", "layer_norm_eps": 1e-4},
            projection_dim=24,
        ),
        ids=IDS,
    ),
    "clip-legacy-eos": Variant(
        hf.CLIPModel,
        clip(text={"bos_token_id": 0, "eos_token_id": 2}),  # 2: a text ends at its largest id
        ids=text_ids(eos=63, pad=2),
        edit_config={"text_config_dict": None, "vision_config_dict": None},
    ),
    "clip-laion": Variant(
        hf.CLIPModel,
        clip(
            LAION_VISION | {"hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 40},
            LAION_TEXT | {"num_hidden_layers": 1, "intermediate_size": 20},
        ),
        ids=text_ids(eos=50, pad=50),
        edit_config={
            "text_config_dict": LAION_TEXT | {"num_hidden_layers": 1, "intermediate_size": 20},
            "vision_config_dict": LAION_VISION | {"hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 40},
        },
    ),
    "clip-float16": Variant(hf.CLIPModel, clip(), ids=IDS, dtype=torch.float16),
    "clip-bfloat16": Variant(hf.CLIPModel, clip(), ids=IDS, dtype=torch.bfloat16),
    "clip-sharded": Variant(hf.CLIPModel, clip(), ids=IDS, shard="16KB"),
    "clip-old": Variant(hf.CLIPModel, clip(), ids=IDS, old_buffers=True, sparse=True),
    "clip-vision": Variant(hf.CLIPVisionModel, hf.CLIPVisionConfig(**WIDE)),
    "clip-vision-old": Variant(
        hf.CLIPVisionModel, hf.CLIPVisionConfig(**WIDE), old_buffers=True, old_prefix="vision_model.", sparse=True
    ),
    "clip-vision-projection": Variant(hf.CLIPVisionModelWithProjection, hf.CLIPVisionConfig(**WIDE, projection_dim=12)),
    "clip-text": Variant(hf.CLIPTextModel, hf.CLIPTextConfig(**TEXT), pixels=None, ids=IDS),
    "clip-text-old": Variant(
        hf.CLIPTextModel,
        hf.CLIPTextConfig(**TEXT),
        pixels=None,
        ids=IDS,
        old_buffers=True,
        old_prefix="text_model.",
        sparse=True,
    ),
    "clip-text-projection": Variant(  # texts shorter than the table of positions
        hf.CLIPTextModelWithProjection,
        hf.CLIPTextConfig(**TEXT, projection_dim=12),
        pixels=None,
        ids=text_ids(eos=50, pad=0, length=10),
    ),
    "clip-classification": Variant(hf.CLIPForImageClassification, clip(**LABELS)),
    "vit-pooler": Variant(hf.ViTModel, hf.ViTConfig(**WIDE, layer_norm_eps=1e-3)),
    "vit-no-pooler": Variant(hf.ViTModel, hf.ViTConfig(**WIDE), {"add_pooling_layer": False}),
    "vit-pooler-relu": Variant(hf.ViTModel, hf.ViTConfig(**WIDE, pooler_act="relu", pooler_output_size=12)),
    "vit-no-qkv-bias": Variant(hf.ViTForImageClassification, hf.ViTConfig(**WIDE, **LABELS, qkv_bias=False)),
    "vit-gelu-new": Variant(
        hf.ViTForImageClassification,
        hf.ViTConfig(**WIDE | {"num_attention_heads": 4}, **LABELS, hidden_act="gelu_new"),
        sparse=True,
    ),
    "vit-gelu-tanh": Variant(
        hf.ViTForImageClassification, hf.ViTConfig(**WIDE, **LABELS, hidden_act="gelu_pytorch_tanh"), larger=(25, 21)
    ),
    "vit-relu": Variant(
        hf.ViTForImageClassification,
        hf.ViTConfig(**WIDE | {"num_attention_heads": 1}, **LABELS, hidden_act="relu"),
        larger=(32, 8),  # as many patches as the model's own square
    ),
    "vit-float16": Variant(hf.ViTForImageClassification, hf.ViTConfig(**WIDE, **LABELS), dtype=torch.float16),
    "vit-rectangular": Variant(
        hf.ViTForImageClassification,
        hf.ViTConfig(**WIDE | {"image_size": [16, 12], "patch_size": [8, 4]}, **LABELS),
        pixels=(16, 12),
        larger=None,
    ),
    "dinov2-classification": Variant(
        hf.Dinov2ForImageClassification, hf.Dinov2Config(**DINO, **LABELS, layerscale_value=0.3)
    ),
    "dinov2-swiglu": Variant(
        hf.Dinov2Model, hf.Dinov2Config(**DINO | {"mlp_ratio": 4}, use_swiglu_ffn=True), larger=(25, 21)
    ),
    "dinov2-smaller": Variant(  # positions of 8 x 8 patches, interpolated to 4 x 4 as published ones are
        hf.Dinov2Model,
        hf.Dinov2Config(**DINO | {"image_size": 56, "patch_size": 7}, qkv_bias=False, hidden_act="relu"),
        pixels=(28, 28),
        larger=(63, 35),
        sparse=True,
    ),
    "dinov2-no-mask-token": Variant(
        hf.Dinov2Model, hf.Dinov2Config(**DINO, use_mask_token=False, layer_norm_eps=1e-3), dtype=torch.bfloat16
    ),
    "dinov2-registers": Variant(
        hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**DINO), larger=(25, 21), sparse=True
    ),
    "dinov2-registers-smaller": Variant(
        hf.Dinov2WithRegistersModel,
        hf.Dinov2WithRegistersConfig(**DINO | {"image_size": 56, "patch_size": 7}, num_register_tokens=2),
        pixels=(28, 28),
        larger=(63, 35),
    ),
    "dinov2-registers-swiglu": Variant(
        hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**DINO, use_swiglu_ffn=True, num_register_tokens=1)
    ),
    "dinov2-registers-classification": Variant(
        hf.Dinov2WithRegistersForImageClassification, hf.Dinov2WithRegistersConfig(**DINO, **LABELS)
    ),
    "dinov3_vit-small": Variant(  # as DINOv3's ViT-S, B and L
        hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**WIDE, num_register_tokens=4), larger=(25, 21), sparse=True
    ),
    "dinov3_vit-gated": Variant(  # as the ViT-H+
        hf.DINOv3ViTModel,
        hf.DINOv3ViTConfig(**WIDE, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu", layerscale_value=0.3),
    ),
    "dinov3_vit-no-bias": Variant(  # as the ViT-7B
        hf.DINOv3ViTModel,
        hf.DINOv3ViTConfig(
            **WIDE,
            num_register_tokens=4,
            use_gated_mlp=True,
            hidden_act="silu",
            query_bias=False,
            value_bias=False,
            layer_norm_eps=1e-3,
        ),
    ),
    "dinov3_vit-key-bias": Variant(
        hf.DINOv3ViTModel,
        hf.DINOv3ViTConfig(**WIDE, num_register_tokens=1, key_bias=True, proj_bias=False, mlp_bias=False),
    ),
    "dinov3_vit-no-registers": Variant(
        hf.DINOv3ViTModel,
        hf.DINOv3ViTConfig(**WIDE | {"num_attention_heads": 1}, rope_theta=10.0),
        pixels=(20, 12),
        dtype=torch.bfloat16,
    ),
    "siglip-gelu": Variant(
        hf.SiglipModel,
        siglip(
            {"hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-3},
            {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 1, "layer_norm_eps": 1e-4},
        ),
        ids=text_ids(eos=1, pad=1),
    ),
    "siglip-projection": Variant(  # as the giant one: the text tower's head leads to the images' width
        hf.SiglipModel,
        siglip(
            {"hidden_size": 24, "image_size": 42, "patch_size": 7},
            {"projection_size": 24, "num_hidden_layers": 1},
        ),
        ids=text_ids(eos=1, pad=1, length=8),
        pixels=(42, 42),
        larger=(56, 35),
    ),
    "siglip-sparse": Variant(
        hf.SiglipModel,
        siglip({"image_size": 32, "patch_size": 16}),
        ids=text_ids(eos=1, pad=0),
        pixels=(32, 32),
        larger=(50, 41),
        sparse=True,
    ),
    "siglip-bfloat16": Variant(hf.SiglipModel, siglip(), ids=text_ids(eos=1, pad=0), dtype=torch.bfloat16),
    "siglip-old": Variant(hf.SiglipModel, siglip(), ids=text_ids(eos=1, pad=0), old_buffers=True),
    "siglip-vision": Variant(hf.SiglipVisionModel, hf.SiglipVisionConfig(**WIDE)),
    "siglip-vision-old": Variant(
        hf.SiglipVisionModel,
        hf.SiglipVisionConfig(**WIDE),
        old_buffers=True,
        old_prefix="vision_model.",
        sparse=True,
    ),
    "siglip-vision-no-head": Variant(hf.SiglipVisionModel, hf.SiglipVisionConfig(**WIDE, vision_use_head=False)),
    "siglip-text": Variant(
        hf.SiglipTextModel, hf.SiglipTextConfig(**TEXT, projection_size=24), pixels=None, ids=text_ids(eos=1, pad=1)
    ),
    "siglip-classification": Variant(hf.SiglipForImageClassification, siglip(**LABELS)),
    "resnet-basic": Variant(
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET | {"hidden_sizes": [8, 8, 12, 16]}, **LABELS, layer_type="basic"),
        sparse=True,
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "resnet-first-stage": Variant(
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET, **LABELS, downsample_in_first_stage=True),
        pixels=(33, 33),
        larger=(64, 40),
    ),
    "resnet-v1": Variant(
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET, **LABELS, downsample_in_bottleneck=True),
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "resnet-gelu": Variant(
        hf.ResNetForImageClassification,
        hf.ResNetConfig(**RESNET, **LABELS, hidden_act="gelu"),
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "resnet-features": Variant(hf.ResNetModel, hf.ResNetConfig(**RESNET), pixels=(33, 47), larger=(64, 70)),
    "convnext-features": Variant(
        hf.ConvNextModel,
        hf.ConvNextConfig(**NEXT, layer_norm_eps=1e-2, hidden_act="relu"),
        pixels=(37, 45),
        larger=(64, 70),
    ),
    "convnext-no-scale": Variant(
        hf.ConvNextForImageClassification,
        hf.ConvNextConfig(**NEXT, **LABELS, layer_scale_init_value=0.0, patch_size=2, hidden_act="gelu_pytorch_tanh"),
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "convnext-three-stages": Variant(
        hf.ConvNextForImageClassification,
        hf.ConvNextConfig(hidden_sizes=[6, 8, 8], depths=[1, 2, 1], num_stages=3, **LABELS),
        sparse=True,
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "convnextv2-features": Variant(
        hf.ConvNextV2Model, hf.ConvNextV2Config(**NEXT, layer_norm_eps=1e-2), pixels=(37, 45), larger=(64, 70)
    ),
    "convnextv2-classification": Variant(
        hf.ConvNextV2ForImageClassification,
        hf.ConvNextV2Config(**NEXT, **LABELS, hidden_act="relu", patch_size=2),
        sparse=True,
        pixels=(32, 32),
        larger=(64, 40),
    ),
    "swin-features": Variant(  # maps of 16 x 16 and 8 x 8 in windows of 5: padded, and shifted by 2
        hf.SwinModel,
        hf.SwinConfig(**SWIN | {"window_size": 5}, mlp_ratio=2.0, layer_norm_eps=1e-3),
        pixels=(32, 32),
        larger=(48, 40),
    ),
    "swin-absolute": Variant(
        hf.SwinForImageClassification,
        hf.SwinConfig(**SWIN, **LABELS, use_absolute_embeddings=True, qkv_bias=False, mlp_ratio=1.5),
        pixels=(32, 32),
        larger=(48, 40),
    ),
    "swin-relu": Variant(  # three stages: the last map is as large as a window
        hf.SwinForImageClassification,
        hf.SwinConfig(
            **SWIN | {"depths": [1, 2, 2], "num_heads": [1, 2, 4]}, **LABELS, hidden_act="relu", mlp_ratio=1.0
        ),
        larger=(64, 40),
        sparse=True,
        pixels=(32, 32),
    ),
    "swin-odd": Variant(  # pixels padded to whole patches, maps to whole pairs
        hf.SwinModel, hf.SwinConfig(**SWIN | {"patch_size": 4, "window_size": 3}), pixels=(37, 30), larger=(52, 43)
    ),
    "swin-old": Variant(
        hf.SwinForImageClassification,
        hf.SwinConfig(**SWIN, **LABELS),
        old_buffers=True,
        pixels=(32, 32),
        larger=(48, 40),
    ),
}

if __name__ == "__main__":
    for requested in sys.argv[1:] or VARIANTS:
        make(requested, VARIANTS[requested])
