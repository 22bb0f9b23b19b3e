"""Which axes of a leaf index inputs, outputs and layers, by its name and its shape.

The reference is the same tensor in torch's layout, [out, in, ...]. There, the released FTP code uses the first axis for
units, and the released DiGraP code normalises over the second. The rules for vectors and tables follow from this.
"""

import itertools
import math
import re
from typing import NamedTuple

from ftp_optax import _checks

_TABLES = ("embedding", "embeddings")
_VECTORS = ("bias", "scale", "offset")
# parameters that are not a layer's kernel have the same layout as in torch
_PARAMETERS = re.compile(
    r"(^|_)(pos|posemb|posembed|position|positional|cls|class|tokens?|probe|register|mask|gamma|beta)(_|$)"
)
# except register and mask tokens, which are one unit with any shape
_WHOLE = re.compile(r"(^|_)(register|mask)(_|$)")
_TO_HEADS = re.compile(r"(to_)?(q|k|v|kv|qkv|query|key|value)(_proj)?")  # kernels [in, heads, dim]
_FROM_HEADS = re.compile(r"o|out|to_out|attention_output|(o|out|output)_proj")  # kernels [heads, dim, out]
_DEPTHWISE = re.compile(r"depthwise|(^|_)dw(conv)?_?\d*$")
# modules with layers stacked by nnx.vmap, nn.scan (also with its automatic names) and Haiku's layer_stack
_STACK = re.compile(r"\w*(layers|blocks|encoderblock|decoderblock|layer_stack\w*)|(Checkpoint)?(Scan|Vmap)\w*_\d+")
_NUMBERED = re.compile(r"([a-z]*(layer|block)s?)?_?\d+")  # its children if the layers are not stacked
_RANKS = {"kernel": 2, "w": 2, "embedding": 2, "embeddings": 2, "bias": 1, "b": 1, "scale": 1, "offset": 1}  # smallest


class Axes(NamedTuple):
    """The axes of a leaf that index inputs and outputs. The others are the taps of a convolution."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def split(path: str) -> tuple[str, str]:
    """The name of a leaf's module and the name of the leaf."""
    module, _, leaf = path.rpartition("/")
    return module.rpartition("/")[2], leaf


def flax_axes(path: str, shape: tuple[int, ...]) -> Axes:
    """The axes of a leaf of Flax, Keras or Haiku. A vector has only input axes: it is one unit and one fiber."""
    require_one_layer(path, shape)
    module, leaf = split(path)
    every = tuple(range(len(shape)))
    if leaf == "scale" and module == "kernel":  # linen's WeightNorm: torch keeps these lengths as [out, 1]
        return Axes((), every)
    if len(shape) <= 1:
        return Axes(every, ())
    if leaf in _TABLES:
        return Axes(every[1:], every[:1])
    if _is_kernel(leaf):
        return _kernel_axes(module, leaf, shape)
    if leaf not in ("scale", "offset") and len(shape) > 2 and math.prod(shape[:-1]) == 1:
        return Axes(every[-2:-1], ())  # a parameter (1, 1, features): torch has one row, and a fiber an element
    if leaf in _VECTORS or (leaf == "b" and math.prod(shape[1:]) == 1):  # Haiku's bias before spatial axes
        return Axes(every, ())
    if _PARAMETERS.search(leaf):
        return Axes((1,), () if shape[0] == 1 or _WHOLE.search(leaf) else (0,))
    return _kernel_axes(module, leaf, shape)


def torch_axes(path: str, shape: tuple[int, ...]) -> Axes:
    """The axes of a leaf in torch layout. A bias of shape (out, 1, 1), as in Equinox, is a vector."""
    every = tuple(range(len(shape)))
    bias = re.split(r"[/.]", path)[-1] == "bias" and math.prod(shape[1:]) == 1
    return Axes(every, ()) if len(shape) <= 1 or bias else Axes((1,), (0,))


def require_one_layer(path: str, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a kernel of an attention input with too many axes: its layers are stacked."""
    module, leaf = split(path)
    most = 4 if "kv" in module else 3  # [in, heads, dim], and a fused one's [in, 3, heads, dim]
    if _TO_HEADS.fullmatch(module) and _is_kernel(leaf) and len(shape) > most and not _is_convolution(shape):
        raise ValueError(
            f"{path!r} of shape {shape} has more than the {most} axes of a layer's kernel: its layers are stacked. "
            "Say how many leading axes count layers with layer_axes; layer_axes=stacked_layers knows the usual names."
        )


def stacked_layers(path: str, shape: tuple[int, ...]) -> int:
    """The number of layer axes of a leaf, by its path: one for each module above it with stacked layers.

    A module has stacked layers if its name is one of these:

    - a name that ends in ``layers`` or ``blocks``, or ``encoderblock`` or ``decoderblock``;
    - linen's name for a scanned or vmapped module (``ScanBlock_0``, ``VmapBlock_0``);
    - Haiku's ``layer_stack``.

    A module that contains numbered layers, such as ``layers/0`` of `nnx.Sequential` or ``blocks/block_0``, is not a
    stack. A leaf that has only the axes of one layer is not stacked. The layers must be on the leading axis, as with
    `nnx.vmap` and with ``nn.scan`` and ``variable_axes={"params": 0}``.

    Args:
      path: the leaf's path, such as ``"encoder/layers/query/kernel"``.
      shape: the leaf's whole shape.

    Returns:
      The number of leading axes that index layers.

    Example:
      >>> stacked_layers("encoder/layers/query/kernel", (12, 768, 12, 64))
      1
      >>> stacked_layers("encoder/layers/0/query/kernel", (768, 12, 64))
      0

    References:
      `The guide of Flax to transformations <https://flax.readthedocs.io/en/latest/guides/transforms.html>`_.
    """
    _checks.leaves("stacked_layers", path, shape)
    names = path.split("/")
    stacks = sum(
        1 for name, child in itertools.pairwise(names) if _STACK.fullmatch(name) and not _NUMBERED.fullmatch(child)
    )
    return min(stacks, max(0, len(shape) - _RANKS.get(names[-1], 0)))


def _is_kernel(leaf: str) -> bool:
    return leaf == "w" or leaf.endswith("kernel")


def _kernel_axes(module: str, leaf: str, shape: tuple[int, ...]) -> Axes:
    every = tuple(range(len(shape)))
    if _TO_HEADS.fullmatch(module) and len(shape) > 2 and not _is_convolution(shape):
        return Axes((0,), every[1:])
    if _FROM_HEADS.fullmatch(module) and _is_kernel(leaf) and len(shape) == 3:
        return Axes((0, 1), (2,))
    if len(shape) > 2 and shape[-2] > 1 and (leaf == "depthwise_kernel" or _DEPTHWISE.search(module)):
        return Axes((), every[-2:])  # Keras: [..., in, multiplier]; Flax and Haiku have [..., 1, out]
    return Axes(every[-2:-1], every[-1:])


def _is_convolution(shape: tuple[int, ...]) -> bool:
    """Whether a kernel has the square taps of a convolution."""
    return len(shape) > 3 and len(set(shape[:-2])) == 1
