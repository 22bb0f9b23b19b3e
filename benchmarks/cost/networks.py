"""Networks as the main job and its readers of model files have them, of random weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.classifier import Classifier
from pretrained.preprocessing import Preprocessing
from pretrained.resnet import ResNet, ResNetConfig
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer
from vision.config import Config
from vision.methods import Method, create_method
from vision.models import create_model
from vision.networks import Params, path_of

VITS = {"vit-tiny": (32, 1, 2), "vit-small": (384, 12, 6), "vit-base": (768, 12, 12)}


def network(name: str, image_size: int, classes: int, dtype: Any = jnp.float32) -> nnx.Module:
    """A vision transformer of small random values, or a network that the main job knows by name."""
    if name not in VITS:
        return create_model(name, classes, dtype=dtype)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: vit(*VITS[name], image_size, classes)))
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.normal(0, 0.02, x.shape).astype(np.float32), dtype)
    return nnx.merge(graphdef, jax.tree.map(fill, state))


def vit(width: int, depth: int, heads: int, image_size: int = 224, classes: int = 1000) -> Classifier:
    """A vision transformer for patches of 16x16, without values: to be called in `nnx.eval_shape`."""
    blocks, grid = BlockConfig(width, depth, heads, width // heads, 4 * width, "gelu", 1e-6), image_size // 16
    return _classifier(ImageTransformer(ImageConfig(blocks, (16, 16), (grid, grid))), width, image_size, classes)


def resnet(stem: int, depths: tuple[int, ...]) -> Classifier:
    """A residual network of bottleneck blocks, likewise."""
    widths = tuple(4 * stem * 2**stage for stage in range(len(depths)))
    return _classifier(ResNet(ResNetConfig(stem, widths, depths, bottleneck=True)), widths[-1], 224, 1000)


def _classifier(image: Any, features: int, image_size: int, classes: int) -> Classifier:
    prepare = Preprocessing(image_size, (image_size, image_size), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Classifier(image, nnx.Linear(features, classes, rngs=nnx.Rngs(0)), prepare, unit=False)


def method(name: str, config: Config, params: Params) -> Method:
    """A method of the main job for these parameters."""
    order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return create_method(name, config, num_steps=100, order=order)
