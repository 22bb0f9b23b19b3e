"""Parameter trees of well-known models, as shapes only: what an optimizer's step costs depends on nothing else."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from cost import networks

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
    return cast(make(*(small if smallest else full)), dtype)


def cast(shapes: Any, dtype: Any) -> Any:
    """The same shapes in another dtype."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes)


def dense(parameters: int, leaves: int) -> Any:
    """A tree of that many leaves and about that many parameters: equal square kernels, each with its bias."""
    width = max(8, 8 * round(math.sqrt(2 * parameters / leaves) / 8))  # a multiple of 8 shards over 8 devices
    return _shapes({f"layer{i:04}": {"kernel": (width, width), "bias": (width,)} for i in range(leaves // 2)})


def layer_axes(path: str, shape: tuple[int, ...]) -> int:
    """1 for the leaves in which the decoder's layers are stacked to be scanned over, else 0."""
    del shape
    return int(path.startswith("scanned/"))


def count(shapes: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def size(shapes: Any) -> int:
    """The bytes of all arrays, on each device. For parameters, one *stream* is that many bytes read or written."""
    part = lambda leaf: leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return sum(math.prod(part(leaf)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def vit(width: int, depth: int, heads: int) -> Any:
    """A vision transformer for patches of 16x16 in images of 224x224, 1,000 classes."""
    return _parameters(lambda: networks.vit(width, depth, heads))


def decoder(width: int, depth: int, hidden: int, heads: int, shared: int, tokens: int) -> Any:
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
    return _shapes({"tokens": embedding, "scanned": {**layers, **norms}, "norm": {"scale": (width,)}})


def _resnet(stem: int, depths: tuple[int, ...]) -> Any:
    return _parameters(lambda: networks.resnet(stem, depths))


def _parameters(make: Callable[[], nnx.Module]) -> Any:
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make), nnx.Param))


def _shapes(plain: Any) -> Any:
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), plain, is_leaf=lambda s: isinstance(s, tuple))
