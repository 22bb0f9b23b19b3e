"""From a pre-trained model to a classifier of the user's classes, and to the files that it is kept in."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.load import Pretrained
from pretrained.model import unit
from pretrained.preprocessing import Preprocessing
from vision.errors import UserError
from vision.weights import model_variables, set_arrays

__all__ = ["Classifier", "Classifying", "classify", "linear", "zero_shot"]


class Classifier(nnx.Module):
    """From images of 0 to 255 to logits: preprocessing's last part, image tower, linear head.

    Args:
        image: The image tower.
        head: A linear layer on its features.
        preprocessing: The mean and deviation are taken from it; sizes are the caller's.
        unit: Whether features are brought to length 1, as those that a zero-shot head is for.
    """

    def __init__(self, image: Any, head: nnx.Linear, preprocessing: Preprocessing, *, unit: bool) -> None:
        self.image, self.head = image, head
        self.preprocessing, self.unit = preprocessing, unit

    def features(self, images: jax.Array) -> jax.Array:
        """What the head reads, `(n, features)`, of images `(n, height, width, 3)`."""
        pixels = self.preprocessing.normalise(images.astype(jnp.float32))
        found = self.image.features(pixels.astype(self.head.kernel.dtype))
        return unit(found.astype(jnp.float32)).astype(found.dtype) if self.unit else found

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits, float32 `(n, classes)`."""
        return self.head(self.features(images)).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class Classifying:
    """A classifier, and how it is kept.

    Attributes:
        model: The classifier.
        origin: What it is written back as: the pre-trained model, with these classes where its format has any.
        new_head: Whether the head has random values.
    """

    model: Classifier
    origin: Pretrained
    new_head: bool


def classify(loaded: Pretrained, classes: Sequence[str], preprocessing: Preprocessing, *, seed: int) -> Classifying:
    """A classifier of these classes on the features of a pre-trained model.

    The model's own head is kept where it has one class of each of these names, in the order asked for; else it is new.

    Args:
        loaded: The pre-trained model.
        classes: Names of the classes.
        preprocessing: Of the images.
        seed: Of a new head.

    Raises:
        UserError: The model has no image tower.
    """
    image, dtype = _image_tower(loaded)
    known = loaded.spec.classes or ()
    if all(known.count(name) == 1 for name in classes):
        own = loaded.model.head
        columns = np.array([known.index(name) for name in classes])
        kernel = np.asarray(own.kernel[...])[:, columns]
        bias = None if own.bias is None else np.asarray(own.bias[...])[columns]
        new_head = False
    else:
        spot = jax.ShapeDtypeStruct((1, *(loaded.spec.image_size or ()), 3), dtype)
        width = nnx.eval_shape(lambda image, x: image.features(x), image, spot).shape[-1]
        kernel = np.random.default_rng(seed).standard_normal((width, len(classes))) / np.sqrt(width)
        bias = np.zeros(len(classes))
        new_head = True
    head = linear(kernel, bias, dtype)
    origin = loaded if tuple(classes) == known else _with_classes(loaded, classes)
    return Classifying(Classifier(image, head, preprocessing, unit=False), origin, new_head)


def zero_shot(loaded: Pretrained, embeddings: np.ndarray, preprocessing: Preprocessing) -> Classifying:
    """The classifier that the embeddings of the classes' texts make: logits are scaled cosines, as in CLIP.

    Args:
        loaded: A model whose image tower embeds images in the space of the texts.
        embeddings: `(classes, features)`; their lengths do not matter.
        preprocessing: Of the images.

    Raises:
        UserError: The model has no image tower, no scale, or embeddings of another width.
    """
    image, dtype = _image_tower(loaded)
    source = loaded.tensors.source
    if not hasattr(loaded.model, "logit_scale"):
        raise UserError(f"{source}: has no logit_scale, so no zero-shot head; leave out --head-from")
    spot = jax.ShapeDtypeStruct((1, *(loaded.spec.image_size or ()), 3), dtype)
    width = nnx.eval_shape(lambda image, x: image.features(x), image, spot).shape[-1]
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise UserError(f"{source}: embeds images in {width} features; the head has shape {embeddings.shape}")
    scale = float(np.exp(np.asarray(loaded.model.logit_scale[...], np.float32)).reshape(()))
    kernel = scale * np.asarray(unit(embeddings.astype(np.float32))).T
    return Classifying(Classifier(image, linear(kernel, None, dtype), preprocessing, unit=True), loaded, new_head=False)


def _image_tower(loaded: Pretrained) -> tuple[Any, Any]:
    """The image tower, and the dtype of its parameters."""
    if not hasattr(loaded.model, "image"):
        raise UserError(f"{loaded.tensors.source}: the model has no image tower; choose another --model")
    return loaded.model.image, jax.tree.leaves(nnx.state(loaded.model.image, nnx.Param))[0].dtype


def linear(kernel: np.ndarray, bias: np.ndarray | None, dtype: Any) -> nnx.Linear:
    """A linear layer of these values."""
    layer = nnx.eval_shape(lambda: nnx.Linear(*kernel.shape, use_bias=bias is not None, rngs=nnx.Rngs(0)))
    values = {"kernel": kernel} | ({} if bias is None else {"bias": bias})
    set_arrays(layer, {name: jnp.asarray(array, dtype) for name, array in values.items()})
    return layer


def _with_classes(loaded: Pretrained, classes: Sequence[str]) -> Pretrained:
    """The origin with a classifier of these classes, if its format has one: other tensors, and perhaps other names."""
    config = loaded.scheme.with_classes(loaded.config, classes)
    old, tensors = loaded.spec, loaded.tensors
    if config is None:  # a head of other classes does not stay in the files
        heads = [old.name(path) for path in model_variables(loaded.model) if path.startswith("head/")]
        kept = {name: name for name in tensors.arrays if name not in heads}
        return dataclasses.replace(loaded, tensors=tensors.renamed(kept, {}))
    new = loaded.scheme.read(config, tensors.arrays, str(tensors.source))
    paths = model_variables(nnx.eval_shape(new.build))
    bodies = [path for path in paths if not path.startswith("head/")]
    names = {old.name(path): new.name(path) for path in bodies}
    # a name that gains a prefix gives it to what is not used too
    before, after = next(iter(names.items()))
    prefix = after.removesuffix(before) if after.endswith(before) else ""
    for name in tensors.arrays.keys() - names.keys():
        if re.fullmatch(new.unused, prefix + name):
            names[name] = prefix + name
    dtype = tensors.arrays[before].dtype
    heads = {
        new.name(path): np.zeros(new.layout.write(path, np.empty(paths[path].shape), None).shape, dtype)
        for path in paths.keys() - set(bodies)
    }
    return dataclasses.replace(loaded, spec=new, config=config, tensors=tensors.renamed(names, heads))
