"""Parameter trees of well-known models, as shapes only: what an optimizer's step costs depends on nothing else."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

TreeName: TypeAlias = Literal["vit-b16", "resnet50", "vit-l16", "decoder-1b"]
TREES: tuple[TreeName, ...] = get_args(TreeName)


def tree(name: TreeName, *, smallest: bool = False, dtype: Any = jnp.float32) -> Any:
    """The shapes of a model's parameters, `jax.ShapeDtypeStruct`; smallest is narrow and has one block."""
    models: dict[TreeName, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = {
        "vit-b16": (vit, (768, 12, 12), (192, 1, 3)),
        "resnet50": (_resnet, (64, (3, 4, 6, 3)), (16, (1, 1))),
        "vit-l16": (vit, (1024, 24, 16), (256, 1, 4)),
        "decoder-1b": (decoder, (2048, 16, 8192, 32, 8, 128256), (128, 2, 256, 4, 2, 512)),
    }
    make, full, small = models[name]
    return make(*(small if smallest else full), dtype=dtype)


def dense(parameters: int, leaves: int) -> Any:
    """A tree of that many leaves and about that many parameters: equal square kernels, each with its bias."""
    width = max(8, 8 * round(math.sqrt(2 * parameters / leaves) / 8))  # a multiple of 8 shards over 8 devices
    return _shapes({f"layer{i:04}": _layer((width, width)) for i in range(leaves // 2)}, jnp.float32)


def layer_axes(path: str, shape: tuple[int, ...]) -> int:
    """1 for the leaves in which the decoder's layers are stacked to be scanned over, else 0."""
    del shape
    return int(path.startswith("scanned/"))


def count(shapes: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def size(shapes: Any) -> int:
    """The bytes of all arrays. For parameters, one *stream* is that many bytes read or written."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def vit(width: int, depth: int, heads: int, dtype: Any = jnp.float32) -> Any:
    """A vision transformer for patches of 16x16 in images of 224x224, 1,000 classes, as Flax keeps it."""
    dim = width // heads
    block = {
        "norm1": _norm(width),
        **{name: {"kernel": (width, heads, dim), "bias": (heads, dim)} for name in ("query", "key", "value")},
        "out": {"kernel": (heads, dim, width), "bias": (width,)},
        "norm2": _norm(width),
        "up": _layer((width, 4 * width)),
        "down": _layer((4 * width, width)),
    }
    model = {
        "patches": _layer((16, 16, 3, width)),
        "cls": (1, 1, width),
        "pos_embedding": (1, 197, width),
        **{f"block{i:02}": block for i in range(depth)},
        "norm": _norm(width),
        "head": _layer((width, 1000)),
    }
    return _shapes(model, dtype)


def decoder(width: int, depth: int, hidden: int, heads: int, shared: int, tokens: int, dtype: Any = jnp.float32) -> Any:
    """A language model with tied embeddings, grouped queries and gated layers, all layers stacked in front."""
    dim = width // heads
    kernels = {
        "query": (width, heads, dim),
        "key": (width, shared, dim),
        "value": (width, shared, dim),
        "out": (heads, dim, width),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
    }
    layers = {name: {"kernel": (depth, *kernel)} for name, kernel in kernels.items()}
    norms = {name: {"scale": (depth, width)} for name in ("norm1", "norm2")}
    embedding = {"embedding": (tokens, width)}
    return _shapes({"tokens": embedding, "scanned": {**layers, **norms}, "norm": {"scale": (width,)}}, dtype)


def _resnet(width: int, depths: tuple[int, ...], dtype: Any) -> Any:
    """A residual network of bottleneck blocks, 1,000 classes."""
    model: dict[str, Any] = {"stem": {"kernel": (7, 7, 3, width)}, "stem_norm": _norm(width)}
    channels = width
    for stage, depth in enumerate(depths):
        inside = width * 2**stage
        for i in range(depth):
            kernels = {"conv1": (1, 1, channels, inside), "conv2": (3, 3, inside, inside)}
            kernels["conv3"] = (1, 1, inside, 4 * inside)
            if i == 0:
                kernels["shortcut"] = (1, 1, channels, 4 * inside)
            norms = {f"{name}_norm": _norm(kernel[-1]) for name, kernel in kernels.items()}
            model[f"stage{stage}_block{i}"] = {**{name: {"kernel": k} for name, k in kernels.items()}, **norms}
            channels = 4 * inside
    return _shapes({**model, "head": _layer((channels, 1000))}, dtype)


def _shapes(plain: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, dtype), plain, is_leaf=lambda s: isinstance(s, tuple))


def _layer(kernel: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"kernel": kernel, "bias": kernel[-1:]}


def _norm(width: int) -> dict[str, tuple[int, ...]]:
    return {"scale": (width,), "bias": (width,)}
