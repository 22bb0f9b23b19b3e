"""What the name and the shape of a leaf tell: which of its axes count inputs and which outputs. Pure functions of both.

The truth is the layout in which torch keeps the same tensor, [out, in, ...]: the released codes take its first axis for
the units and normalise its second. What they do to a vector, or to a table, follows from that.
"""

import math
import re
from typing import NamedTuple

_TABLES = ("embedding", "embeddings")
_VECTORS = ("bias", "scale", "offset")
# parameters that are no layer's kernel are laid out as in torch
_PARAMETERS = re.compile(
    r"(^|_)(pos|posemb|posembed|position|positional|cls|class|tokens?|probe|register|mask|gamma|beta)(_|$)"
)
# but the few tokens that a model adds to its input are one unit, whatever their shape
_WHOLE = re.compile(r"(^|_)(register|mask)(_|$)")
_TO_HEADS = re.compile(r"(to_)?(q|k|v|kv|qkv|query|key|value)(_proj)?")  # kernels [in, heads, dim]
_FROM_HEADS = re.compile(r"o|out|to_out|attention_output|(o|out|output)_proj")  # kernels [heads, dim, out]
_DEPTHWISE = re.compile(r"depthwise|(^|_)dw(conv)?_?\d*$")


class Axes(NamedTuple):
    """Which axes of a leaf count inputs and which outputs; the others are the taps of a convolution."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def split(path: str) -> tuple[str, str]:
    """The names of the module that holds a leaf and of the leaf."""
    module, _, leaf = path.rpartition("/")
    return module.rpartition("/")[2], leaf


def flax_axes(path: str, shape: tuple[int, ...]) -> Axes:
    """The axes of a leaf of Flax, Keras or Haiku. A vector is all input: it is one unit and one fiber."""
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
    """The axes of a leaf in torch layout; Equinox keeps the bias of a convolution as (out, 1, 1), still a vector."""
    every = tuple(range(len(shape)))
    bias = re.split(r"[/.]", path)[-1] == "bias" and math.prod(shape[1:]) == 1
    return Axes(every, ()) if len(shape) <= 1 or bias else Axes((1,), (0,))


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
    """Whether a kernel below the name of an attention's input has the square taps of a convolution."""
    return len(shape) > 3 and len(set(shape[:-2])) == 1
