"""Make tiny random .npz files as google-research's vision_transformer and big_vision write them, and their outputs.

    python tests/data/make_big_vision.py [NAME...]    # every file by default; torch, timm and transformers

timm's own loader reads the ViTs, transformers' SigLIP the pairs of towers, both with what the JAX code fixes and the
files do not tell: flax's `nn.gelu` is tanh's approximation, its LayerNorm's epsilon 1e-6, and positions are
interpolated linearly from corner to corner (`scipy.ndimage.zoom(order=1)`).
"""

import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from randomised import random_pixels
from timm.models.vision_transformer import VisionTransformer

DIRECTORY = Path(__file__).parent / "big_vision"
DEPTH, PATCH, CLASSES, VOCABULARY, LENGTH = 2, 4, 7, 64, 12
SIZE, LARGER = 16, 24  # pixels on a side; both repositories interpolate between squares only
Arrays = dict[str, np.ndarray]


@dataclass
class Variant:
    """A file to make: which of both naming schemes, and what is in it."""

    scheme: str  # "vision_transformer" or "big_vision"
    pool: str  # "token", "avg" (all tokens' mean) or "map" (attention)
    prefix: str = ""
    stacked: bool = False  # blocks as `scan=True` writes them
    positions: str = "learned"  # or "sincos2d", which are in no file
    pre_logits: bool = False
    head: bool = True
    text: bool = False  # two towers, as SigLIP's
    bfloat16: bool = False


def make(name: str, variant: Variant) -> None:
    torch.manual_seed(zlib.crc32(name.encode()))
    arrays = two_towers(variant) if variant.text else vit(variant, width=16, heads=2)
    if variant.bfloat16:
        arrays = {key: torch.tensor(value).bfloat16().float().numpy() for key, value in arrays.items()}
    expected = {"pixels": random_pixels(3, SIZE, SIZE), "pixels_larger": random_pixels(2, LARGER, LARGER)}
    if variant.text:
        expected["ids"] = torch.randint(2, VOCABULARY, (4, LENGTH))
        expected["ids"][:3, 6:] = 1  # the texts' ends, repeated
    compute = siglip_outputs if variant.text else vit_outputs
    ids = (expected["ids"],) if variant.text else ()
    expected |= compute(variant, arrays, expected["pixels"], *ids)
    larger = compute(variant, at_size(variant, arrays, LARGER // PATCH), expected["pixels_larger"], *ids)
    expected |= {f"{key}_larger": value for key, value in larger.items() if key != "text_embeds"}

    DIRECTORY.mkdir(exist_ok=True)
    np.savez(DIRECTORY / f"{name}.npz", **{key: stored(variant, value) for key, value in arrays.items()})
    np.savez_compressed(DIRECTORY / f"{name}.expected.npz", **{key: value.numpy() for key, value in expected.items()})
    assert all(torch.isfinite(value).all() for value in expected.values()), name
    size = sum(file.stat().st_size for file in DIRECTORY.glob(f"{name}.*"))
    print(f"{name}: {size / 1000:.0f} kB", {key: tuple(value.shape) for key, value in expected.items()}, flush=True)


def stored(variant: Variant, value: np.ndarray) -> np.ndarray:
    if not variant.bfloat16:
        return value
    return torch.tensor(value).bfloat16().view(torch.int16).numpy().view("V2")  # what NumPy makes of JAX's bfloat16


def noise(*shape: int, scale: float) -> np.ndarray:
    return (scale * torch.randn(shape)).numpy()


def dense(name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Arrays:
    kernel = noise(*inputs, *outputs, scale=np.prod(inputs) ** -0.5)
    return {f"{name}/kernel": kernel, f"{name}/bias": noise(*outputs, scale=0.2)}


def norm(name: str, width: int) -> Arrays:
    return {f"{name}/scale": 1 + noise(width, scale=0.2), f"{name}/bias": noise(width, scale=0.2)}


def attention(name: str, width: int, heads: int) -> Arrays:
    split = (heads, width // heads)
    arrays = dense(f"{name}/out", split, (width,))
    for projection in ("query", "key", "value"):
        arrays |= dense(f"{name}/{projection}", (width,), split)
    return arrays


def mlp(name: str, width: int) -> Arrays:
    return dense(f"{name}/Dense_0", (width,), (2 * width,)) | dense(f"{name}/Dense_1", (2 * width,), (width,))


def encoder(name: str, width: int, heads: int, scheme: str, stacked: bool) -> Arrays:
    # One counts a block's submodules of each class, the other all submodules of a block.
    attention_at, mlp_at, second_norm_at = (0, 0, 1) if scheme == "big_vision" else (1, 3, 2)

    def block(name: str) -> Arrays:
        return (
            norm(f"{name}/LayerNorm_0", width)
            | attention(f"{name}/MultiHeadDotProductAttention_{attention_at}", width, heads)
            | norm(f"{name}/LayerNorm_{second_norm_at}", width)
            | mlp(f"{name}/MlpBlock_{mlp_at}", width)
        )

    arrays = norm(f"{name}/encoder_norm", width)
    if stacked:
        blocks = [block(f"{name}/encoderblock") for _ in range(DEPTH)]
        return arrays | {key: np.stack([each[key] for each in blocks]) for key in blocks[0]}
    for i in range(DEPTH):
        arrays |= block(f"{name}/encoderblock_{i}")
    return arrays


def vit(variant: Variant, width: int, heads: int) -> Arrays:
    arrays = dense("embedding", (PATCH, PATCH, 3), (width,))
    arrays |= encoder("Transformer", width, heads, variant.scheme, variant.stacked)
    count = (SIZE // PATCH) ** 2
    if variant.pool == "token":
        arrays["cls"] = noise(1, 1, width, scale=0.5)
    if variant.positions == "learned":
        if variant.scheme == "big_vision":
            arrays["pos_embedding"] = noise(1, count, width, scale=0.5)
        else:
            count += variant.pool == "token"
            arrays["Transformer/posembed_input/pos_embedding"] = noise(1, count, width, scale=0.5)
    if variant.pool == "map":
        arrays["MAPHead_0/probe"] = noise(1, 1, width, scale=0.5)
        arrays |= attention("MAPHead_0/MultiHeadDotProductAttention_0", width, heads)
        arrays |= norm("MAPHead_0/LayerNorm_0", width) | mlp("MAPHead_0/MlpBlock_0", width)
    if variant.pre_logits:
        arrays |= dense("pre_logits", (width,), (width,))
    if variant.head:
        arrays |= dense("head", (width,), (CLASSES,))
    return {f"{variant.prefix}{key}": value for key, value in arrays.items()}


def two_towers(variant: Variant) -> Arrays:
    text = encoder("Encoder_0", 16, 4, variant.scheme, variant.stacked) | dense("head", (16,), (24,))
    text["Embed_0/embedding"] = noise(VOCABULARY, 16, scale=0.5)
    text["pos_embedding"] = noise(1, LENGTH, 16, scale=0.5)
    arrays = vit(variant, width=24, heads=2) | {f"params/txt/{key}": value for key, value in text.items()}
    return arrays | {"params/t": 1 + noise(1, scale=0.5), "params/b": noise(1, scale=0.5)}


def at_size(variant: Variant, arrays: Arrays, grid: int) -> Arrays:
    """The arrays with position embeddings of `grid` x `grid` patches."""
    learned = "pos_embedding" if variant.scheme == "big_vision" else "Transformer/posembed_input/pos_embedding"
    key = variant.prefix + learned
    if variant.positions == "sincos2d":
        width = arrays[f"{variant.prefix}embedding/bias"].shape[0]
        return arrays | {key: sincos2d(grid, width)}
    old = int(arrays[key].shape[1] ** 0.5)
    first, patches = np.split(arrays[key], [arrays[key].shape[1] - old**2], axis=1)
    table = torch.tensor(patches).reshape(1, old, old, -1).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, size=(grid, grid), mode="bilinear", align_corners=True)
    return arrays | {key: np.concatenate([first, table.flatten(2).transpose(1, 2).numpy()], axis=1)}


def sincos2d(grid: int, width: int) -> np.ndarray:
    y, x = np.divmod(np.arange(grid**2), grid)
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    angles = [np.outer(x, frequencies), np.outer(y, frequencies)]
    table = np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
    return table[None].astype(np.float32)


@torch.no_grad()
def vit_outputs(variant: Variant, arrays: Arrays, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """By timm's loader of such files. It has no `pre_logits`, which come here."""
    if variant.positions == "sincos2d":
        arrays = at_size(variant, arrays, pixels.shape[-1] // PATCH)
    query = next(value for key, value in arrays.items() if key.endswith("query/kernel") and "MAP" not in key)
    width, heads = query.shape[-3:-1]
    model = VisionTransformer(
        img_size=pixels.shape[-1],
        patch_size=PATCH,
        embed_dim=width,
        depth=DEPTH,
        num_heads=heads,
        mlp_ratio=2,
        act_layer="gelu_tanh",
        class_token=variant.pool == "token",
        no_embed_class=variant.scheme == "big_vision",
        global_pool=variant.pool,
        fc_norm=False,
        num_classes=CLASSES if variant.head else 0,
    ).eval()
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **arrays)
        file.flush()
        model.load_pretrained(file.name)
    tokens = model.forward_features(pixels)
    pooled = model.forward_head(tokens, pre_logits=True)
    if variant.pre_logits:
        kernel, bias = (torch.tensor(arrays[f"{variant.prefix}pre_logits/{part}"]) for part in ("kernel", "bias"))
        pooled = torch.tanh(pooled @ kernel + bias)
    return {"tokens": tokens, "pooled": pooled} | ({"logits": model.head(pooled)} if variant.head else {})


@torch.no_grad()
def siglip_outputs(
    variant: Variant, arrays: Arrays, pixels: torch.Tensor, ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    sizes = {"num_hidden_layers": DEPTH, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    image = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "patch_size": PATCH}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4, "projection_size": 24}
    text |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "bos_token_id": 1, "eos_token_id": 1}
    config = hf.SiglipConfig(vision_config=sizes | image | {"image_size": pixels.shape[-1]}, text_config=sizes | text)
    model = hf.SiglipModel(config).eval()
    model.load_state_dict(siglip_parameters(arrays), strict=True)
    result = model(pixel_values=pixels, input_ids=ids)
    tokens = result.vision_model_output.last_hidden_state
    pooled = vit_outputs(variant, arrays, pixels)["pooled"]  # timm reads the image tower too
    torch.testing.assert_close(pooled / pooled.norm(dim=-1, keepdim=True), result.image_embeds)
    embeds = {key: result[key] for key in ("image_embeds", "text_embeds", "logits_per_image")}
    return {"tokens": tokens} | embeds


def siglip_parameters(arrays: Arrays) -> dict[str, torch.Tensor]:
    """In transformers' names, and in torch's layout."""

    def linear(name: str, source: Arrays, inputs: int = 1) -> Arrays:
        kernel = source["kernel"]
        width = int(np.prod(kernel.shape[:inputs]))
        return {f"{name}.weight": kernel.reshape(width, -1).T, f"{name}.bias": source["bias"].reshape(-1)}

    def layer_norm(name: str, source: Arrays) -> Arrays:
        return {f"{name}.weight": source["scale"], f"{name}.bias": source["bias"]}

    def below(name: str, source: Arrays = arrays) -> Arrays:
        return {key.removeprefix(name): value for key, value in source.items() if key.startswith(name)}

    def layers(name: str, source: Arrays) -> Arrays:
        renamed = {}
        for i in range(DEPTH):
            stack = below("encoderblock/", source)
            block = {key: value[i] for key, value in stack.items()} or below(f"encoderblock_{i}/", source)
            layer = f"{name}.encoder.layers.{i}"
            for n in (0, 1):
                renamed |= layer_norm(f"{layer}.layer_norm{n + 1}", below(f"LayerNorm_{n}/", block))
                renamed |= linear(f"{layer}.mlp.fc{n + 1}", below(f"MlpBlock_0/Dense_{n}/", block))
            heads = below("MultiHeadDotProductAttention_0/", block)
            for projection in ("query", "key", "value"):
                renamed |= linear(f"{layer}.self_attn.{projection[0]}_proj", below(f"{projection}/", heads))
            renamed |= linear(f"{layer}.self_attn.out_proj", below("out/", heads), inputs=2)
        return renamed

    text, image = below("params/txt/"), below("params/img/")
    pool = below("MAPHead_0/", image)
    heads = below("MultiHeadDotProductAttention_0/", pool)
    projections = [linear("", below(f"{name}/", heads)) for name in ("query", "key", "value")]
    vision, head = "vision_model", "vision_model.head"
    renamed = {
        "logit_scale": arrays["params/t"],
        "logit_bias": arrays["params/b"],
        "text_model.embeddings.token_embedding.weight": text["Embed_0/embedding"],
        "text_model.embeddings.position_embedding.weight": text["pos_embedding"][0],
        f"{vision}.embeddings.patch_embedding.weight": image["embedding/kernel"].transpose(3, 2, 0, 1),
        f"{vision}.embeddings.patch_embedding.bias": image["embedding/bias"],
        f"{vision}.embeddings.position_embedding.weight": image["pos_embedding"][0],
        f"{head}.probe": pool["probe"],
        f"{head}.attention.in_proj_weight": np.concatenate([each[".weight"] for each in projections]),
        f"{head}.attention.in_proj_bias": np.concatenate([each[".bias"] for each in projections]),
    }
    renamed |= linear("text_model.head", below("head/", text))
    renamed |= layer_norm("text_model.final_layer_norm", below("Encoder_0/encoder_norm/", text))
    renamed |= layers("text_model", below("Encoder_0/", text))
    renamed |= layers(vision, below("Transformer/", image))
    renamed |= layer_norm(f"{vision}.post_layernorm", below("Transformer/encoder_norm/", image))
    renamed |= linear(f"{head}.attention.out_proj", below("out/", heads), inputs=2)
    renamed |= layer_norm(f"{head}.layernorm", below("LayerNorm_0/", pool))
    for n in (0, 1):
        renamed |= linear(f"{head}.mlp.fc{n + 1}", below(f"MlpBlock_0/Dense_{n}/", pool))
    return {key: torch.tensor(value) for key, value in renamed.items()}


VARIANTS = {
    "vision_transformer": Variant("vision_transformer", "token"),  # as "How to train your ViT?" published them
    "vision_transformer-pre_logits": Variant("vision_transformer", "token", pre_logits=True),
    "vision_transformer-avg": Variant("vision_transformer", "avg"),
    "token": Variant("big_vision", "token"),
    "avg": Variant("big_vision", "avg", prefix="params/"),
    "sincos2d": Variant("big_vision", "avg", prefix="params/", positions="sincos2d", pre_logits=True),
    "map-stacked": Variant("big_vision", "map", prefix="params/", stacked=True),
    "bfloat16": Variant("big_vision", "avg", prefix="params/", bfloat16=True),
    "siglip": Variant("big_vision", "map", prefix="params/img/", head=False, text=True),
    "siglip-stacked": Variant("big_vision", "map", prefix="params/img/", stacked=True, head=False, text=True),
}

if __name__ == "__main__":
    for requested in sys.argv[1:] or VARIANTS:
        make(requested, VARIANTS[requested])
