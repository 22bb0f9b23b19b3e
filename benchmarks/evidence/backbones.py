"""A residual network and a vision transformer, of about the size of each experiment's main network.

Both keep no statistics of a batch: groups and layers are normalised in place of batches, since what fine-tuning and
projection see is to be parameters only.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision.networks import path_of

_GRID = {"resnet": 16, "vit": 4}  # height and width behind the stem, at any size of the images
_GROUP = 16  # channels normalised together
_SMALL = 32  # pixels up to which images get the small networks


class Stem(nnx.Module):
    """3x3 convolutions of stride 2, down to a grid, the channels doubling; one of stride 1 where nothing is to halve.

    For the transformer too: on a few thousand images it learns from these what it would not from single patches.
    """

    def __init__(self, image_size: int, grid: int, width: int, rngs: nnx.Rngs) -> None:
        halvings = max(1, (image_size // grid).bit_length() - 1)
        stride = 2 if image_size > grid else 1
        widths = [3, *(width >> i for i in reversed(range(halvings)))]
        self.convs = nnx.List(
            [
                nnx.Conv(inputs, outputs, (3, 3), strides=stride, rngs=rngs)
                for inputs, outputs in itertools.pairwise(widths)
            ]
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 127.5 - 1
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return x


class ResidualBlock(nnx.Module):
    """Two 3x3 convolutions, normalised in groups of channels, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        norm = lambda: nnx.GroupNorm(outputs, num_groups=outputs // _GROUP, rngs=rngs)
        self.conv1 = nnx.Conv(inputs, outputs, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.conv2 = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norm1, self.norm2 = norm(), norm()
        if inputs != outputs:
            self.shortcut = nnx.Conv(inputs, outputs, (1, 1), strides=stride, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class ResNet(nnx.Module):
    """ResNet-18 (He et al. 2016) of half the width, with group normalisation: 2.8 M parameters.

    For small images three stages of half that width: 175 k parameters.
    """

    def __init__(self, num_classes: int, image_size: int, rngs: nnx.Rngs) -> None:
        widths = (16, 32, 64) if image_size <= _SMALL else (32, 64, 128, 256)
        self.stem = Stem(image_size, _GRID["resnet"], widths[0], rngs)
        blocks, channels = [], widths[0]
        for width in widths:
            blocks.append(ResidualBlock(channels, width, 1 if width == channels else 2, rngs))
            blocks.append(ResidualBlock(width, width, 1, rngs))
            channels = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of images of 0..255."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


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
    """A vision transformer with a convolutional stem (Xiao et al. 2021): sixteen tokens, 2.9 M parameters.

    For small images half as deep and a third as wide: 175 k parameters.
    """

    def __init__(self, num_classes: int, image_size: int, rngs: nnx.Rngs) -> None:
        width, depth, heads = (64, 3, 2) if image_size <= _SMALL else (192, 6, 3)
        self.stem = Stem(image_size, _GRID["vit"], width, rngs)
        self.pos_embedding = nnx.Param(jnp.zeros((1, _GRID["vit"] ** 2, width)))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of images of 0..255."""
        x = self.stem(images)
        x = x.reshape(len(x), -1, x.shape[-1]) + self.pos_embedding[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


BACKBONES = {"resnet": ResNet, "vit": ViT}  # by name


def create_backbone(name: str, num_classes: int, image_size: int, seed: int) -> nnx.Module:
    """A network of `BACKBONES` with initial weights.

    Drawn by NumPy (He et al. 2015), since JAX would compile a program for each shape: minutes, in place of seconds.
    """
    structure, state = nnx.split(nnx.eval_shape(lambda: BACKBONES[name](num_classes, image_size, nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    drawn = jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(_initial(path_of(path), leaf, rng)), state)
    return nnx.merge(structure, drawn)


def _initial(path: str, leaf: jax.ShapeDtypeStruct, rng: np.random.Generator) -> np.ndarray:
    if "scale" in path:
        return np.ones(leaf.shape, np.float32)
    if "bias" in path:
        return np.zeros(leaf.shape, np.float32)
    if "pos_embedding" in path:
        return rng.normal(0, 0.02, leaf.shape).astype(np.float32)
    # attention's kernels are (width, heads, head width), and the other way round in its last
    inputs = leaf.shape[0] if any(name in path for name in ("query", "key", "value/")) else math.prod(leaf.shape[:-1])
    gain = 2.0 if "conv" in path else 1.0  # of ReLU
    return rng.normal(0, (gain / inputs) ** 0.5, leaf.shape).astype(np.float32)
