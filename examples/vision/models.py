"""The models that `finetune` knows by name."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

__all__ = ["DEFAULT_IMAGE_SIZE", "MODELS", "SmallCNN", "create_model"]

MODELS = ("small-cnn", "efficientnet-lite0")

DEFAULT_IMAGE_SIZE = {"small-cnn": 16, "efficientnet-lite0": 224}
"""Height and width a model was designed for; all of them pool over space, so any size works."""


class SmallCNN(nnx.Module):
    """Two strided convolutions, pooling to 4x4 and two linear layers: 153 k parameters with ten classes.

    No normalisation layers, so the state is parameters only. Strides rather than max-pooling, because on CPU the
    gradient of max-pooling costs more than the convolutions: a training step on 64 digits takes 34 ms with pooling
    after each 3x3 convolution, and 9 ms like this (two shared cores).

    Args:
        num_classes: Outputs of the classifier, `head`.
        width: Factor on the channels of every hidden layer.
        dtype: Of the parameters and of the computation; the logits are float32 in any case.
        rngs: Source of the initial weights.
    """

    def __init__(self, num_classes: int, *, width: float = 1.0, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        first, second, third = (round(width * n) for n in (32, 64, 128))
        conv = partial(nnx.Conv, strides=2, param_dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, param_dtype=dtype, rngs=rngs)
        self.conv1 = conv(3, first, kernel_size=(5, 5))
        self.conv2 = conv(first, second, kernel_size=(3, 3))
        self.hidden = linear(4 * 4 * second, third)
        self.head = linear(third, num_classes)

    def features(self, images: jax.Array) -> jax.Array:
        """What the head reads, `(n, features)`, of images `(n, height, width, 3)` with values in 0..255."""
        x = (images.astype(jnp.float32) / 127.5 - 1).astype(self.conv1.kernel.dtype)
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(x))))
        # Nothing to do for 16x16 images, an average over regions for larger ones: any size gives the same features.
        x = jax.image.resize(x, (len(x), 4, 4, x.shape[-1]), "linear", antialias=True)
        return nnx.relu(self.hidden(x.reshape(len(x), -1)))

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, float32 `(n, num_classes)`."""
        return self.head(self.features(images)).astype(jnp.float32)


def create_model(name: str, num_classes: int, *, dtype: DTypeLike = jnp.float32, seed: int = 0) -> nnx.Module:
    """A freshly initialised model.

    Every model maps images `(n, height, width, 3)`, float or uint8 with values in 0..255, to float32 logits, normalises
    its input itself, and has its classifier as the attribute `head`.

    Args:
        name: One of `MODELS`.
        num_classes: Outputs of the classifier.
        dtype: Of the parameters and of the computation.
        seed: Of the initial weights.

    Raises:
        ValueError: If no model has that name.
    """
    if name == "small-cnn":
        return SmallCNN(num_classes, dtype=dtype, rngs=nnx.Rngs(seed))
    if name == "efficientnet-lite0":
        # Imported here so that the default job does not pay for it.
        from vision.efficientnet import EfficientNetLite0

        return EfficientNetLite0(num_classes, dtype=dtype, seed=seed)
    raise ValueError(f"no model {name!r}; choose one of {', '.join(MODELS)}.")
