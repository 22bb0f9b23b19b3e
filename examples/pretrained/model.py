"""A whole pre-trained model: image tower, text tower, classifier, whichever of them its files have."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from pretrained.transformer import Outputs, TextTransformer

__all__ = ["ImageTower", "Model", "unit"]


class ImageTower(Protocol):
    """What every family's image tower offers."""

    def __call__(self, pixels: jax.Array) -> Outputs:
        """Last hidden state and pooled vector of normalised pixels `(n, height, width, 3)`."""
        ...

    def project(self, pooled: jax.Array | None) -> jax.Array | None:
        """The embedding in the space that images and texts share; None for a tower without one of its own."""
        ...

    def features(self, pixels: jax.Array) -> jax.Array:
        """What a classifier reads, `(n, features)`."""
        ...


class Model(nnx.Module):
    """The parts that a file holds.

    Args:
        image: The image tower.
        text: The text tower.
        head: Features and outputs of the classifier, a linear layer on what `features` of the image tower gives.
        scale: Whether there is a `logit_scale`, and of which shape.
        bias: Likewise a `logit_bias`.
    """

    def __init__(
        self,
        image: Any = None,
        text: TextTransformer | None = None,
        head: tuple[int, int] | None = None,
        *,
        scale: tuple[int, ...] | None = None,
        bias: tuple[int, ...] | None = None,
    ) -> None:
        if image is not None:
            self.image = image
        if text is not None:
            self.text = text
        if head is not None:
            self.head = nnx.Linear(*head, kernel_init=nnx.initializers.zeros, rngs=nnx.Rngs(0))
        if scale is not None:
            self.logit_scale = nnx.Param(jnp.zeros(scale))
        if bias is not None:
            self.logit_bias = nnx.Param(jnp.zeros(bias))

    def outputs(self, pixels: jax.Array | None = None, ids: jax.Array | None = None) -> dict[str, jax.Array]:
        """What the model computes, named and shaped as transformers has it.

        Args:
            pixels: Normalised images `(n, height, width, 3)`.
            ids: Token ids `(n, length)`.

        Returns:
            Whichever there is of `tokens` and `pooled` (of the image tower, or of the text tower of a model without
            one), `logits`, `image_embeds` and `text_embeds`. The embeddings of a model with both towers have length 1.
        """
        both = hasattr(self, "image") and hasattr(self, "text")
        found: dict[str, jax.Array | None] = {}
        for tower, inputs, name in (("text", ids, "text_embeds"), ("image", pixels, "image_embeds")):
            if inputs is None:
                continue
            module = getattr(self, tower)
            tokens, pooled = module(inputs)
            if tower == "image" or not both:
                found |= {"tokens": tokens, "pooled": pooled}
            projected = module.project(pooled)
            found[name] = pooled if projected is None and both else projected
        if pixels is not None and hasattr(self, "head"):
            found["logits"] = self.head(self.image.features(pixels))
        if both:
            found |= {name: unit(array) for name, array in found.items() if array is not None and "_embeds" in name}
        return {name: array for name, array in found.items() if array is not None}

    def similarity(self, image_embeds: ArrayLike, text_embeds: ArrayLike) -> jax.Array:
        """`logits_per_image` `(images, texts)` of embeddings of length 1."""
        cosines = jnp.matmul(image_embeds, jnp.transpose(text_embeds), precision="highest")
        scaled = cosines * jnp.exp(self.logit_scale[...])
        return scaled + self.logit_bias[...] if hasattr(self, "logit_bias") else scaled


def unit(x: ArrayLike) -> jax.Array:
    """Vectors of length 1."""
    return jnp.asarray(x) / jnp.linalg.norm(x, axis=-1, keepdims=True)
