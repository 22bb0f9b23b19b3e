"""ViT and SigLIP in `.npz` files, as google-research's vision_transformer and big_vision write them.

Such a file has no configuration: sizes follow from the arrays' shapes, and the rest is what the code of both fixes
(tanh's approximation of GELU, an epsilon of 1e-6, positions interpolated linearly from corner to corner). Where there
is neither a class token nor a probe, the tokens' mean is the pooling, as both have it by default.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrained.files import Tensors
from pretrained.model import Model
from pretrained.spec import Layout, Shape, Spec, substituting
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer, TextConfig, TextTransformer
from vision.errors import UserError

__all__ = ["read", "unstacked", "with_classes"]

# What a checkpoint of training has besides.
_TRAINING = r"(opt|extra)/.*"
_STACKED = re.compile(rf"(?!{_TRAINING})(.*/encoderblock)(/.*)")
# Where versions of the code have kept the table of positions.
_POSITIONS = ("pos_embedding", "Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding")
# Positions by sines and cosines fit images of every size; this one stands for them all.
_ANY_SIZE = 224

_BLOCK = (
    (r"/norm1/", "/LayerNorm_0/"),
    (r"/norm2/", "/LayerNorm_1/"),
    (r"/attention/", "/MultiHeadDotProductAttention_0/"),
    (r"/mlp/", "/MlpBlock_0/"),
    (r"/up/", "/Dense_0/"),
    (r"/down/", "/Dense_1/"),
)
# vision_transformer counts all modules of a block together, big_vision those of a kind.
_COUNTED_TOGETHER = (
    (r"(/encoderblock_\d+)/norm2/", r"\1/LayerNorm_2/"),
    (r"(/encoderblock_\d+)/attention/", r"\1/MultiHeadDotProductAttention_1/"),
    (r"(/encoderblock_\d+)/mlp/", r"\1/MlpBlock_3/"),
)


def unstacked(tensors: Tensors) -> Tensors:
    """The tensors with those of all blocks, which `nn.scan` stacks, cut apart."""
    arrays: dict[str, np.ndarray] = {}
    stacks: dict[str, str] = {}
    for name, array in tensors.arrays.items():
        if (found := _STACKED.fullmatch(name)) and array.ndim:
            parts = {f"{found[2]}_{i}{found[3]}": part for i, part in enumerate(array)}
            arrays |= parts
            stacks |= dict.fromkeys(parts, name)
        else:
            arrays[name] = array
    return replace(tensors, arrays=arrays, files={tensors.source.name: tuple(arrays)}, stacks=stacks)


def read(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], source: str) -> Spec:
    """What the tensors of a file tell.

    Args:
        config: Nothing.
        tensors: By name, those of blocks one by one.
        source: The file, for messages.

    Raises:
        UserError: They are of something else than a ViT or SigLIP, or do not tell what is needed.
    """
    file = _File(tensors, source)
    root = "params/" if any(name.startswith("params/") for name in tensors) else ""
    pair = any(name.startswith((f"{root}img/", f"{root}txt/")) for name in tensors)
    at, text_at = (f"{root}img/", f"{root}txt/") if pair else (root, "")
    text = _text(file, root) if pair else None
    image, positions = _image(file, at)
    shape = None if pair else file.shape(f"{at}head/kernel", 2)
    head = (shape[0], shape[1]) if shape else None
    names = (
        (r"^head/", f"{at}head/"),
        (r"^logit_scale$", f"{root}t"),
        (r"^logit_bias$", f"{root}b"),
        (r"^image/position_embeddings$", positions),
        (r"^image/class_token$", f"{at}cls"),
        (r"^image/patches/", f"{at}embedding/"),
        (r"^image/pooler/", f"{at}pre_logits/"),
        (r"^image/pooling/norm/", f"{at}MAPHead_0/LayerNorm_0/"),
        (r"^image/pooling/", f"{at}MAPHead_0/"),
        (r"^image/norm/", f"{at}Transformer/encoder_norm/"),
        (r"^image/blocks/", f"{at}Transformer/encoderblock_"),
        (r"^text/token_embedding/", f"{text_at}Embed_0/"),
        (r"^text/position_embedding/embedding$", f"{text_at}pos_embedding"),
        (r"^text/pooler/", f"{text_at}head/"),
        (r"^text/norm/", f"{text_at}Encoder_0/encoder_norm/"),
        (r"^text/blocks/", f"{text_at}Encoder_0/encoderblock_"),
        *(_COUNTED_TOGETHER if file.counts_together(at) else ()),
        *_BLOCK,
    )
    scalar = (1,) if pair else None
    return Spec(
        build=lambda: Model(ImageTransformer(image), text and TextTransformer(text), head, scale=scalar, bias=scalar),
        name=substituting(names),
        image_size=image.size,
        unused=_TRAINING if root else r"(?!)",
        layout=LAYOUT,
    )


def with_classes(config: Mapping[str, Any], classes: Sequence[str]) -> None:
    """None: nothing in such a file names classes."""


def _reshaped(path: str, tensor: np.ndarray, shape: Shape | None) -> np.ndarray:
    """Heads and their features are two axes there and one here; a table of positions has an axis of one more."""
    differs = "/attention/" in path or path == "text/position_embedding/embedding"
    return tensor.reshape(shape) if differs and shape is not None and tensor.size == math.prod(shape) else tensor


LAYOUT = Layout(_reshaped, _reshaped)


@dataclass(frozen=True)
class _File:
    """The tensors of a file, asked for their shapes."""

    tensors: Mapping[str, np.ndarray]
    source: str

    def shape(self, name: str, axes: int) -> Shape | None:
        """The shape of a tensor, None where there is none of this name."""
        if name not in self.tensors:
            return None
        shape = self.tensors[name].shape
        if len(shape) != axes or 0 in shape:
            raise self.refused(f"{name} has shape {shape}", f"{axes} axes are needed")
        return shape

    def counts_together(self, at: str) -> bool:
        """Whether a tower's modules are counted as vision_transformer does."""
        return f"{at}Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel" in self.tensors

    def blocks(self, at: str) -> BlockConfig:
        """A stack of blocks."""
        depth = 0
        while f"{at}encoderblock_{depth}/LayerNorm_0/scale" in self.tensors:
            depth += 1
        return replace(self.block(f"{at}encoderblock_0/"), depth=depth)

    def block(self, at: str) -> BlockConfig:
        """One block, or the pooling by attention."""
        queries = [self.shape(f"{at}MultiHeadDotProductAttention_{i}/query/kernel", 3) for i in (0, 1)]
        mlps = [self.shape(f"{at}MlpBlock_{i}/Dense_0/kernel", 2) for i in (0, 3)]
        query, mlp = (next((shape for shape in shapes if shape), None) for shapes in (queries, mlps))
        if query is None or mlp is None:
            raise self.foreign()
        width, heads, head_width = query
        return BlockConfig(
            width=width,
            depth=1,
            heads=heads,
            head_width=head_width,
            mlp_width=mlp[1],
            activation="gelu_pytorch_tanh",
            epsilon=1e-6,
        )

    def refused(self, what: str, why: str) -> UserError:
        """The error for a file that does not tell what is needed."""
        return UserError(f"{self.source}: {what}; {why}")

    def foreign(self) -> UserError:
        """The error for a file of another kind."""
        return self.refused(
            "has no vision transformer as vision_transformer and big_vision name it",
            "their ViT and SigLIP are supported; of other models give a directory that transformers or timm saved",
        )


def _image(file: _File, at: str) -> tuple[ImageConfig, str]:
    """The image tower, and the name of its table of positions."""
    kernel = file.shape(f"{at}embedding/kernel", 4)
    if kernel is None:
        raise file.foreign()
    if kernel[2] != 3:
        raise file.refused(f"{at}embedding/kernel has shape {kernel}", "images of three channels are supported")
    blocks = file.blocks(f"{at}Transformer/")
    class_token, pools = f"{at}cls" in file.tensors, f"{at}MAPHead_0/probe" in file.tensors
    if class_token and pools:
        raise file.refused(f"has both {at}cls and {at}MAPHead_0/probe", "which of them pools cannot be told")
    representation = file.shape(f"{at}pre_logits/kernel", 2)
    config = ImageConfig(
        blocks=blocks,
        patch=(kernel[0], kernel[1]),
        grid=(_ANY_SIZE // kernel[0], _ANY_SIZE // kernel[1]),
        positions="sines",
        class_token=class_token,
        prefix_positions=0,
        resampling="bilinear-corners",
        pooling="class" if class_token else "attention" if pools else "mean",
        pooling_blocks=file.block(f"{at}MAPHead_0/") if pools else None,
        pooler="tanh" if representation else None,
        pooler_width=representation[1] if representation else None,
    )
    name = next((f"{at}{name}" for name in _POSITIONS if f"{at}{name}" in file.tensors), None)
    table = file.shape(name, 3) if name else None
    if name is None or table is None:
        if file.counts_together(at) or blocks.width % 4 or blocks.width == 4:
            raise file.refused(f"has no {at}pos_embedding", "how positions are told apart is not known")
        return config, ""
    side = math.isqrt(table[1])
    prefix = table[1] - side**2
    if prefix > int(class_token):
        raise file.refused(f"{name} has {table[1]} rows", "a square grid of patches is needed, and one for cls at most")
    return replace(config, positions="table", grid=(side, side), prefix_positions=prefix), name


def _text(file: _File, root: str) -> TextConfig:
    """The text tower of a pair. Other pairs than SigLIP's do not tell how their texts are pooled."""
    at, only = f"{root}txt/", "of pairs SigLIP alone is supported"
    if f"{root}b" not in file.tensors:
        raise file.refused(f"has two towers and no {root}b", only)
    if f"{root}img/head/kernel" in file.tensors:
        raise file.refused(f"has {root}img/head/kernel, a projection of images", only)
    table, positions = file.shape(f"{at}Embed_0/embedding", 2), file.shape(f"{at}pos_embedding", 3)
    if table is None or positions is None:
        raise file.refused(f"has no text transformer in {at}", only)
    head = file.shape(f"{at}head/kernel", 2)
    return TextConfig(
        blocks=file.blocks(f"{at}Encoder_0/"),
        vocabulary=table[0],
        length=positions[1],
        pooling="last",
        pooler=head[1] if head else None,
    )
