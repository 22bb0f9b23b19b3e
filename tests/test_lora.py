"""Adapters: which there are, that they alone are trained, and that merged they are the model that they tuned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_models import HF, moved, tiny_images, tiny_model

from ftp_optax import ftp, radii
from pretrained.load import load
from vision.errors import UserError
from vision.lora import add_lora, merged
from vision.networks import Network, path_of, split_model
from vision.weights import model_variables

IMAGES = tiny_images()


def paths(tree: Any) -> list[str]:
    return [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def kernels(name: str) -> set[str]:
    """Paths of the layers of attention and MLP, from the file."""
    found = (path.split("/") for path in model_variables(load(HF / name).model))
    return {"/".join(path[:-1]) for path in found if path[-1] == "kernel" and {"attention", "mlp"} & set(path)}


@pytest.mark.parametrize("name", ["vit", "dinov2-registers-swiglu", "siglip-vision"])
def test_adapters_are_trained_and_merged(name: str) -> None:
    model = tiny_model(name)
    adapted = add_lora(model, 4, IMAGES)
    network, params = split_model(adapted)

    layers = {path.rsplit("/", 1)[0] for path in paths(params) if path.startswith("image/")}
    assert layers == kernels(name)
    assert len(paths(params)) == 2 * len(layers) + 2
    assert [path for path in paths(params) if path.startswith("head/")] == ["head/bias", "head/kernel"]
    compute = jax.jit(Network.logits)
    plain, start = split_model(model)
    np.testing.assert_allclose(compute(network, params, IMAGES), compute(plain, start, IMAGES), rtol=1e-5, atol=1e-5)

    tuned = moved(params)
    whole = merged(network.model(tuned))

    assert model_variables(whole).keys() == model_variables(model).keys()
    same, weights = split_model(whole)
    logits = compute(network, tuned, IMAGES)
    np.testing.assert_allclose(compute(same, weights, IMAGES), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(compute(plain, weights, IMAGES), logits, rtol=1e-4, atol=1e-4)
    assert np.abs(logits - compute(network, params, IMAGES)).max() > 0.1
    layer = next(iter(layers)).split("/")
    a, b = (_at(tuned, [*layer, f"kernel_lora_{which}"]) for which in "ab")
    np.testing.assert_allclose(_at(weights, [*layer, "kernel"]) - _at(start, [*layer, "kernel"]), a @ b, atol=1e-5)


def _at(tree: Any, path: list[str]) -> np.ndarray:
    for name in path:
        tree = tree[int(name) if name.isdigit() else name]
    return np.asarray(tree)


def test_windows_have_adapters_too() -> None:
    adapted = nnx.eval_shape(lambda model: add_lora(model, 2, jnp.asarray(IMAGES)), tiny_model("swin"))
    _, params = split_model(adapted)
    assert {path.rsplit("/", 1)[0] for path in paths(params["image"])} == {
        path.removeprefix("image/") for path in kernels("swin")
    }


def test_half_precision_and_blocks_computed_again() -> None:
    """Adapters of full rank: A, B and the kernel have one shape, and are told apart."""
    adapted = add_lora(tiny_model("vit"), 64, IMAGES)
    plain, params = split_model(adapted)
    other, _ = split_model(adapted, remat=True, compute_dtype="bfloat16")
    tuned = moved(params, 0.02)
    value = lambda params, network: jnp.square(network.train_logits(params, {}, IMAGES)[0]).sum()
    gradient = jax.jit(jax.value_and_grad(value))
    (exact, one), (rounded, narrow) = gradient(tuned, plain), gradient(tuned, other)
    assert abs(exact - rounded) < 0.1 * exact
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {jnp.dtype("float32")}
    error, size = optax.tree.norm(optax.tree.sub(one, narrow)), optax.tree.norm(one)
    assert 0 < error < 0.1 * size


def test_adapters_have_trust_regions_and_kernels_cost_nothing() -> None:
    """FTP learns a radius for each A and B, and holds nothing for the kernels."""
    network, params = split_model(add_lora(tiny_model("vit"), 4, IMAGES), frozen=["head/*"])
    tx = ftp(optax.adam(1e-2))
    state = tx.init(params)
    held, trained, kernels = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, params, network.rest))
    assert held < 5 * trained < kernels

    @jax.jit
    def step(network: Network, params: Any, state: Any) -> tuple[Any, Any]:
        loss = lambda p: network.train_logits(p, {}, IMAGES)[0][:, 0].mean()
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    tuned, first = step(network, params, state)
    for _ in range(3):
        tuned, first = step(network, tuned, first)
    assert set(radii(first, tuned)) == set(paths(params))
    before, after = (jax.jit(Network.logits)(network, p, IMAGES)[:, 0].mean() for p in (params, tuned))
    assert after < before


@pytest.mark.parametrize("name", ["small-cnn", "convnext", "resnet"])
def test_convolutions_have_no_adapters(name: str) -> None:
    with pytest.raises(UserError, match="--lora-rank 4: the model has no attention for adapters"):
        nnx.eval_shape(lambda model: add_lora(model, 4, jnp.asarray(IMAGES)), tiny_model(name))


def test_a_rank_above_that_of_the_kernels_is_refused() -> None:
    with pytest.raises(UserError, match="--lora-rank 65: the smallest kernel has rank 64; choose 1 to 64"):
        nnx.eval_shape(lambda model: add_lora(model, 65, jnp.asarray(IMAGES)), tiny_model("vit"))


def test_a_model_without_adapters_stays_as_it_is() -> None:
    assert merged(tiny_model("vit")) is tiny_model("vit")
