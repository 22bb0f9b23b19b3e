"""A vision transformer as the main job has it, of any values: what it costs depends on shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.classifier import Classifier
from pretrained.preprocessing import Preprocessing
from pretrained.transformer import BlockConfig, ImageConfig, ImageTransformer

__all__ = ["classifier", "filled"]


def classifier(width: int, depth: int, heads: int, size: int, classes: int, patch: int = 16) -> Any:
    """Shapes of a classifier with a transformer of such a size (`nnx.eval_shape`)."""
    blocks = BlockConfig(width, depth, heads, width // heads, 4 * width, "gelu", 1e-6)
    grid = (size // patch, size // patch)

    def build() -> Classifier:
        image = ImageTransformer(ImageConfig(blocks, (patch, patch), grid))
        head = nnx.Linear(width, classes, rngs=nnx.Rngs(0))
        prepare = Preprocessing(size, (size, size), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return Classifier(image, head, prepare, unit=False)

    return nnx.eval_shape(build)


def filled(model: Any, dtype: Any = jnp.float32) -> Any:
    """The model with small random values in place of shapes."""
    graphdef, state = nnx.split(model)
    draw = np.random.default_rng(0)
    fill = lambda x: jnp.asarray(draw.normal(0, 0.02, x.shape).astype(np.float32), dtype)
    return nnx.merge(graphdef, jax.tree.map(fill, state))
