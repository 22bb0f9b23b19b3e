"""Networks of random weights: what a step costs depends on shapes alone."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.classifier import Classifier
from pretrained.preprocessing import Preprocessing
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer
from vision.efficientnet import EfficientNetLite0

NetworkName: TypeAlias = Literal["vit-small", "vit-base", "efficientnet-lite0"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
CLASSES = 10


class Block(nnx.Module):
    """A transformer block, norms first."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """A vision transformer that classifies by the mean of its tokens."""

    def __init__(self, image_size: int, patch: int, width: int, depth: int, heads: int, rngs: nnx.Rngs):
        tokens = (image_size // patch) ** 2
        self.patches = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.pos_embedding = nnx.Param(jnp.zeros((1, tokens, width)))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patches(images / 255)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.pos_embedding[...]
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(self.norm(x), axis=1))


def network(name: NetworkName, image_size: int, *, smallest: bool = False) -> tuple[Callable[..., jax.Array], Any]:
    """A network as a function from parameters and images to logits, and the shapes of its parameters."""
    width, depth, heads = {"vit-small": (384, 12, 6), "vit-base": (768, 12, 12)}.get(name, (0, 0, 0))
    if smallest:
        width, depth, heads = 32, 1, 2
    models: dict[NetworkName, Callable[[], nnx.Module]] = {
        "vit-small": lambda: ViT(image_size, 16, width, depth, heads, nnx.Rngs(0)),
        "vit-base": lambda: ViT(image_size, 16, width, depth, heads, nnx.Rngs(0)),
        "efficientnet-lite0": lambda: EfficientNetLite0(CLASSES),
    }
    graphdef, params, rest = nnx.split(models[name](), nnx.Param, ...)
    run: Callable[..., jax.Array] = lambda params, images: nnx.merge(graphdef, params, rest)(images)
    return run, nnx.to_pure_dict(params)


def classifier(width: int, depth: int, heads: int, size: int, classes: int, patch: int = 16, dtype: Any = None) -> Any:
    """A vision transformer as the main job has it, of small random values."""
    blocks = BlockConfig(width, depth, heads, width // heads, 4 * width, "gelu", 1e-6)

    def build() -> Classifier:
        image = ImageTransformer(ImageConfig(blocks, (patch, patch), (size // patch, size // patch)))
        head = nnx.Linear(width, classes, rngs=nnx.Rngs(0))
        prepare = Preprocessing(size, (size, size), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return Classifier(image, head, prepare, unit=False)

    graphdef, state = nnx.split(nnx.eval_shape(build))
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.normal(0, 0.02, x.shape).astype(np.float32), dtype or jnp.float32)
    return nnx.merge(graphdef, jax.tree.map(fill, state))
