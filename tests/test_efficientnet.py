"""EfficientNet-Lite0: against an independent forward pass, on real photographs, in training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from sklearn.datasets import load_sample_image

from vision import depthwise
from vision.efficientnet import (
    NUM_PARAMETERS,
    EfficientNetLite0,
    from_torch,
    imagenet_file,
    load_imagenet,
    num_parameters,
)
from vision.errors import UserError
from vision.torch_pickle import read_state_dict
from vision.weights import fill_model, model_arrays

PALACE, DAISY = 698, 985

forward = nnx.jit(lambda model, images: model(images))


@pytest.fixture(scope="module")
def state_dict() -> dict[str, np.ndarray]:
    return read_state_dict(imagenet_file())


@pytest.fixture(scope="module")
def model() -> EfficientNetLite0:
    model = EfficientNetLite0()
    assert load_imagenet(model) == ()
    return model


def photograph(name: str, size: int) -> np.ndarray:
    """The central square, as ImageNet models are evaluated: 7/8 of the shorter side."""
    image = Image.fromarray(load_sample_image(name))
    side = min(image.size) * 7 // 8
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


# A second implementation, that shares no line with the first: NumPy, float64, channels first,
# PyTorch's names. The table is that of the paper, unrolled by hand: kernel size and stride.
BLOCKS = [(3, 1), (3, 2), (3, 1), (5, 2), (5, 1), (3, 2), (3, 1), (3, 1)]
BLOCKS += [(5, 1), (5, 1), (5, 1), (5, 2), (5, 1), (5, 1), (5, 1), (3, 1)]


def reference_logits(weights: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    def patches(x: np.ndarray, size: int, stride: int) -> np.ndarray:
        pads = []
        for n in x.shape[1:]:
            total = max((-(-n // stride) - 1) * stride + size - n, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), *pads])
        return sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, var, scale, bias = (
            weights[f"{name}.{leaf}"].astype(np.float64)[:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

    def pointwise(x: np.ndarray, name: str) -> np.ndarray:
        return np.tensordot(weights[name][:, :, 0, 0], x, 1)

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = (image.transpose(2, 0, 1) - 127.0) / 128.0
    stem = np.einsum("oiuv,ihwuv->ohw", weights["_conv_stem.weight"], patches(x, 3, 2))
    x = relu6(norm(stem, "_bn0"))
    for index, (size, stride) in enumerate(BLOCKS):
        name, y = f"_blocks.{index}", x
        if index > 0:
            y = relu6(norm(pointwise(y, f"{name}._expand_conv.weight"), f"{name}._bn0"))
        kernel = weights[f"{name}._depthwise_conv.weight"][:, 0]
        y = np.einsum("cuv,chwuv->chw", kernel, patches(y, size, stride))
        y = relu6(norm(y, f"{name}._bn1"))
        y = norm(pointwise(y, f"{name}._project_conv.weight"), f"{name}._bn2")
        x = x + y if x.shape == y.shape else y
    x = relu6(norm(pointwise(x, "_conv_head.weight"), "_bn1"))
    return weights["_fc.weight"] @ x.mean((1, 2)) + weights["_fc.bias"]


def test_the_published_number_of_parameters(model: EfficientNetLite0) -> None:
    assert num_parameters(model) == NUM_PARAMETERS == 4_652_008


def test_photographs_are_recognised(model: EfficientNetLite0) -> None:
    images = np.stack([photograph("china.jpg", 224), photograph("flower.jpg", 224)])
    logits = forward(model, images)
    assert logits.dtype == jnp.float32
    assert jnp.argmax(logits, -1).tolist() == [PALACE, DAISY]


# Odd sizes pad unevenly, and differently at each stage.
@pytest.mark.parametrize(("size", "dtype"), [(64, np.uint8), (75, np.float32)])
def test_logits_agree_with_an_independent_forward_pass(
    model: EfficientNetLite0, state_dict: dict[str, np.ndarray], size: int, dtype: type
) -> None:
    image = photograph("china.jpg", size)
    expected = reference_logits(state_dict, image)
    logits = forward(model, image[None].astype(dtype))[0]
    # Float32 through 50 layers against float64; measured 1.3e-6 of the largest logit.
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def test_a_head_of_another_size_keeps_its_initial_value(state_dict: dict[str, np.ndarray]) -> None:
    model, untouched = EfficientNetLite0(16, seed=3), EfficientNetLite0(16, seed=3)
    assert load_imagenet(model) == ("head/bias", "head/kernel")
    np.testing.assert_array_equal(model.head.kernel[...], untouched.head.kernel[...])
    np.testing.assert_array_equal(
        model.blocks[3].depthwise.kernel[2, 1, 0],
        state_dict["_blocks.3._depthwise_conv.weight"][:, 0, 2, 1],
    )
    np.testing.assert_array_equal(model.blocks[15].project_norm.var[...], state_dict["_blocks.15._bn2.running_var"])


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form that compiles three times faster; that both agree is tested below."""
    monkeypatch.setattr(depthwise, "depthwise_conv", depthwise.grouped)


@pytest.mark.usefixtures("grouped")
def test_a_train_step_moves_every_parameter_and_no_statistic(
    state_dict: dict[str, np.ndarray],
) -> None:
    model = EfficientNetLite0(4)
    fill_model(model, from_torch(state_dict), source="test")
    model.train()  # must not bring batch statistics back
    images = np.stack([photograph("china.jpg", 32), photograph("flower.jpg", 32)])

    @nnx.jit
    def step(model: EfficientNetLite0) -> None:
        def loss(model: EfficientNetLite0) -> jax.Array:
            log_probabilities = jax.nn.log_softmax(model(images))
            return -log_probabilities[0, 0] - log_probabilities[1, 1]

        gradients = nnx.grad(loss)(model)
        params = nnx.state(model, nnx.Param)
        nnx.update(model, jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradients))

    before = model_arrays(model)
    step(model)
    for path, array in model_arrays(model).items():
        statistic = path.endswith(("mean", "var"))
        assert np.isfinite(array).all(), path
        assert np.array_equal(array, before[path]) == statistic, path


@pytest.mark.usefixtures("grouped")
def test_bfloat16_logits_are_close_to_float32(model: EfficientNetLite0, state_dict: dict[str, np.ndarray]) -> None:
    half = EfficientNetLite0(dtype=jnp.bfloat16)
    fill_model(half, from_torch(state_dict), source="test")
    for path, array in model_arrays(half).items():
        assert array.dtype == (np.float32 if path.endswith(("mean", "var")) else jnp.bfloat16)
    image = photograph("china.jpg", 64)[None]
    exact, rounded = forward(model, image), forward(half, image)
    assert rounded.dtype == jnp.float32
    assert np.corrcoef(exact[0], rounded[0])[0, 1] > 0.99


def test_gradients_flow_through_a_block_in_bfloat16() -> None:
    block = EfficientNetLite0(2, dtype=jnp.bfloat16).blocks[2]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 24)), jnp.bfloat16)
    gradients = nnx.jit(nnx.grad(lambda block: (block(x).astype(jnp.float32) ** 2).sum()))(block)
    for path, gradient in nnx.to_flat_state(gradients):
        assert gradient[...].dtype == jnp.bfloat16
        assert np.abs(np.asarray(gradient[...], np.float32)).max() > 0, path


def test_the_seed_decides_the_initial_parameters() -> None:
    first, again, other = (EfficientNetLite0(2, seed=seed).stem.kernel[...] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not (first == other).any()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision.efficientnet.PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UserError, match="no-such-package-of-weights: the package is not installed"):
        load_imagenet(EfficientNetLite0(2))


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (1, 2)])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (4, 1)])
def test_both_depthwise_forms_agree_in_value_and_gradient(shape: tuple[int, int], size: int, stride: int) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *shape, 3)).astype(np.float32)
    kernel = generator.normal(size=(size, size, 1, 3)).astype(np.float32)
    out = depthwise.grouped(jnp.asarray(x), jnp.asarray(kernel), stride)
    cotangent = generator.normal(size=out.shape).astype(np.float32)

    def both(conv: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        value, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
        return value, *vjp(cotangent)

    expected = jax.jit(lambda: both(depthwise.grouped))()
    for form in (depthwise.shifted, depthwise.depthwise_conv):
        for actual, wanted in zip(jax.jit(lambda f=form: both(f))(), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


def test_the_platform_chooses_the_form() -> None:
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    traced = jax.jit(lambda x, kernel: depthwise.depthwise_conv(x, kernel, 1)).trace(x, kernel)
    on = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "stablehlo.convolution" not in on["cpu"]
    assert "stablehlo.convolution" in on["cuda"]
