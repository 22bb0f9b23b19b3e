"""Networks of random weights: what a step costs depends on shapes alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.classifier import Classifier
from pretrained.preprocessing import Preprocessing
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer
from vision.config import Config
from vision.methods import Method, create_method
from vision.models import create_model
from vision.networks import Params, path_of, split_model

CLASSES = 10


def network(name: str, image_size: int) -> tuple[Callable[..., jax.Array], Any]:
    """A network as a function from parameters and images to logits, and its parameters."""
    sizes = {"vit-tiny": (32, 1, 2), "vit-small": (384, 12, 6), "vit-base": (768, 12, 12)}
    model = classifier(*sizes[name], image_size, CLASSES) if name in sizes else create_model(name, CLASSES)
    network, params = split_model(model)
    return network.logits, params


def method(name: str, config: Config, params: Params) -> Method:
    """A method of the main job for these parameters."""
    order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return create_method(name, config, num_steps=100, order=order)


def classifier(width: int, depth: int, heads: int, size: int, classes: int, dtype: Any = None) -> Any:
    """A vision transformer for patches of 16x16 as the main job has it, of small random values."""
    blocks = BlockConfig(width, depth, heads, width // heads, 4 * width, "gelu", 1e-6)

    def build() -> Classifier:
        image = ImageTransformer(ImageConfig(blocks, (16, 16), (size // 16, size // 16)))
        head = nnx.Linear(width, classes, rngs=nnx.Rngs(0))
        prepare = Preprocessing(size, (size, size), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return Classifier(image, head, prepare, unit=False)

    graphdef, state = nnx.split(nnx.eval_shape(build))
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.normal(0, 0.02, x.shape).astype(np.float32), dtype or jnp.float32)
    return nnx.merge(graphdef, jax.tree.map(fill, state))
