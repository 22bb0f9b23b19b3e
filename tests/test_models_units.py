"""Our parameters have the units of the authors' layout of the same tensors: rows for FTP, fibers for DiGraP."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from ftp_optax import digrap, flax_fibers, flax_units, ftp, torch_fibers, torch_units
from pretrained.load import load
from pretrained.spec import TORCH
from vision.networks import split_model

DATA = Path(__file__).parent / "data"
# one of each network, and of each way in which a file fuses projections
MODELS = (
    *("hf/clip", "hf/vit", "hf/dinov2-registers-swiglu", "hf/dinov3_vit-gated", "hf/siglip"),
    *("hf/resnet", "hf/convnext", "hf/convnextv2-classification", "hf/swin"),
    *("timm/vit_base_patch16_siglip_224", "timm/vit_small_patch16_dinov3", "timm/convnext_atto"),
)
METHODS: dict[str, tuple[Any, Any]] = {
    "ftp": (ftp(optax.sgd(0.1)), ftp(optax.sgd(0.1), unit_axes=torch_units)),
    "digrap": (
        optax.chain(digrap(initial_strength=0.5), optax.sgd(0.1)),
        optax.chain(digrap(initial_strength=0.5, unit_axes=torch_fibers), optax.sgd(0.1)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_units_and_fibers_are_those_of_the_same_tensors_in_torch(name: str) -> None:
    """Over the sums of its units an array is the same in both layouts, so no element is in another unit."""
    loaded = load(DATA / name)
    generator = np.random.default_rng(0)
    for path, leaf in flat(split_model(loaded.model)[1]).items():
        shape = loaded.tensors.arrays[loaded.spec.name(path)].shape
        array = 1 + generator.random(np.shape(leaf))
        tensor = TORCH.write(path, array, shape)
        for ours, theirs in ((flax_units, torch_units), (flax_fibers, torch_fibers)):
            here = TORCH.write(path, array / sums(array, ours(path, array.shape)), shape)
            np.testing.assert_allclose(here, tensor / sums(tensor, theirs(path, shape)), err_msg=path)


def sums(array: np.ndarray, kept: tuple[int, ...]) -> np.ndarray:
    return array.sum(axis=tuple(axis for axis in range(array.ndim) if axis not in kept), keepdims=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["timm/vit_small_patch16_dinov3", "timm/convnext_atto"])
def test_steps_are_those_of_the_same_tensors_in_torch(name: str, method: str) -> None:
    loaded = load(DATA / name)
    _, params = split_model(loaded.model)
    shapes = {path: loaded.tensors.arrays[loaded.spec.name(path)].shape for path in flat(params)}

    def there(tree: Any) -> dict[str, jax.Array]:
        """The same numbers as torch has them. A path's slashes would be levels of a tree, so none is kept."""
        moved = {path: TORCH.write(path, np.asarray(array), shapes[path]) for path, array in flat(tree).items()}
        return {path.replace("/", "."): jnp.asarray(array) for path, array in moved.items()}

    ours, theirs = METHODS[method]
    state, twin = ours.init(params), theirs.init(there(params))
    tensors = there(params)
    generator = np.random.default_rng(0)
    step, twin_step = jax.jit(ours.update), jax.jit(theirs.update)
    for _ in range(3):
        draw = lambda x: jnp.asarray(generator.standard_normal(x.shape), x.dtype)
        gradients = jax.tree.map(draw, params)
        updates, state = step(gradients, state, params)
        twin_updates, twin = twin_step(there(gradients), twin, tensors)
        params, tensors = optax.apply_updates(params, updates), optax.apply_updates(tensors, twin_updates)
        for path, array in there(params).items():
            np.testing.assert_allclose(array, tensors[path], rtol=0, atol=1e-6, err_msg=path)


def flat(params: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): array for path, array in traverse_util.flatten_dict(params).items()}
