"""Every layer of Flax, Equinox, Haiku and Keras that holds parameters, and the same tensors in torch's layout.

A leaf's units and fibers are written down as axes, and beside them, as the truth, how the leaf becomes torch's. The
layers of Flax and Equinox are built by the test; Haiku's 0.0.17 and Keras' 3.15.1 were, for their names and shapes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx


class Kind(NamedTuple):
    """What becomes of a leaf, and what it is in torch; called with a shape, a leaf of this kind."""

    units: tuple[int, ...]  # the axes that the rule gives
    fibers: tuple[int, ...]
    torch: Callable[[Any], Any]  # to torch's layout; a leaf that torch keeps as several vectors: one in each row
    untold: str = ""  # not told by name and shape, so that units or fibers are not torch's: the docstring has this word

    def __call__(self, *shape: int) -> "Leaf":
        return Leaf(shape, self)


class Leaf(NamedTuple):
    shape: tuple[int, ...]
    kind: Kind


class Layer(NamedTuple):
    """A layer: its leaves by path, and how it is built, if the test builds it."""

    name: str
    leaves: dict[str, Leaf]
    build: Callable[[], Any] | None = None


def outputs_first(kernel: Any) -> Any:
    """[..., in, out] as [out, in, ...]; and [..., out, in], of a transposed convolution, as its [in, out, ...]."""
    return jnp.moveaxis(kernel, (-1, -2), (0, 1))


def flat(kernel: Any) -> Any:
    """[a, b, ...] with every axis but the first as outputs."""
    return kernel.reshape(len(kernel), -1).T


def each_dense(kernel: Any) -> Any:
    """[..., in, out] as the rows of as many dense layers."""
    return kernel.swapaxes(-2, -1).reshape(-1, kernel.shape[-2])


def same(leaf: Any) -> Any:
    return leaf


DENSE = Kind((1,), (1,), outputs_first)
CONV_1D = Kind((2,), (0, 2), outputs_first)
CONV = Kind((3,), (0, 1, 3), outputs_first)
CONV_3D = Kind((4,), (0, 1, 2, 4), outputs_first)
DEPTHWISE_1D = Kind((1, 2), (0, 1, 2), lambda k: outputs_first(k.reshape(k.shape[0], 1, -1)))  # torch: [out, 1, ...]
DEPTHWISE = Kind((2, 3), (0, 1, 2, 3), lambda k: outputs_first(k.reshape(*k.shape[:2], 1, -1)))
TO_HEADS = Kind((1, 2), (1, 2), flat)
FUSED_TO_HEADS = Kind((1, 2, 3), (1, 2, 3), flat)
FROM_HEADS = Kind((2,), (2,), lambda k: k.reshape(-1, k.shape[-1]).T)
VECTOR = Kind((), (), jnp.ravel)
ROWS = Kind((0,), (0,), same)
ROWS_3D = Kind((0,), (0, 2), same)
ROWS_4D = Kind((0,), (0, 2, 3), same)
ONE_ROW = Kind((), (0,), same)
ONE_ROW_3D = Kind((), (0, 2), same)
ONE_ROW_OF_GRIDS = Kind((), (0, 2, 3), same)
ONE_ROW_4D = Kind((), (0, 1, 3), same)  # (1, 1, 1, d), where torch's axes (0, 2, 3) say the same
LENGTHS = Kind((0,), (0,), lambda scale: scale[:, None])  # of weight normalisation: torch's weight_g is [out, 1]

# read as [..., in, out]
TRANSPOSED = Kind((3,), (0, 1, 3), lambda k: jnp.moveaxis(k, (-2, -1), (0, 1)), "ConvTranspose")
GENERAL = Kind((3,), (0, 1, 3), lambda k: k.reshape(k.shape[0] * k.shape[1], -1).T, "LinearGeneral")
GENERAL_OUT = Kind((2,), (0, 2), flat, "LinearGeneral")
EINSUM = Kind((2,), (0, 2), each_dense, "Einsum")
BATCHED = Kind((2,), (0, 2), each_dense, "batch_axis")
LOCAL_1D = Kind((2,), (0, 2), each_dense, "ConvLocal")
LOCAL = Kind((3,), (0, 1, 3), each_dense, "ConvLocal")
CONV_OF_HEADS = Kind((1, 2), (1, 2), outputs_first, "one-dimensional convolution")
# vectors that torch keeps as rows, and rows that torch keeps as a vector
BATCHED_BIAS = Kind((), (), same, "batch_axis")
SEVERAL_AXES = Kind((), (), lambda scale: scale.reshape(scale.shape[-2:]), "several axes")
TWO_BIASES = Kind((), (), same, "GRU")
SLOPES = Kind((2,), (0, 2), jnp.ravel, "PReLU")
SHARED_SLOPES = Kind((), (0, 2), jnp.ravel, "PReLU")
ANY_BIAS = Kind((1,), (1,), jnp.ravel, "hk.Bias")
TRANSPOSED_EQUINOX = Kind((0,), (0, 2, 3), lambda w: w.swapaxes(0, 1), "ConvTranspose")

KEY = jax.random.key(0)
SEQUENCE, IMAGES, WORDS = jnp.ones((2, 5, 6)), jnp.ones((2, 8, 8, 4)), jnp.ones((2,), int)


def of_nnx(make: Callable[..., nnx.Module], *settings: Any, **named: Any) -> Callable[[], Any]:
    return lambda: nnx.state(nnx.eval_shape(lambda: make(*settings, **named, rngs=nnx.Rngs(0))), nnx.Param)


def of_linen(module: nn.Module, *inputs: Any, **options: Any) -> Callable[[], Any]:
    return lambda: jax.eval_shape(lambda: module.init(KEY, *inputs, **options))["params"]


def of_cell(cell: Any, inputs: Any = SEQUENCE[:, 0]) -> Callable[[], Any]:
    return lambda: jax.eval_shape(lambda: cell.init(KEY, cell.initialize_carry(KEY, inputs.shape), inputs))["params"]


def of_equinox(make: Callable[..., eqx.Module], *settings: Any, **named: Any) -> Callable[[], Any]:
    return lambda: eqx.filter(make(*settings, **named), eqx.is_inexact_array)


NORM = {"scale": VECTOR(4), "bias": VECTOR(4)}
HEADS = {
    **{f"{name}/kernel": TO_HEADS(6, 2, 3) for name in ("query", "key", "value")},
    **{f"{name}/bias": VECTOR(2, 3) for name in ("query", "key", "value")},
    "out/kernel": FROM_HEADS(2, 3, 6),
    "out/bias": VECTOR(6),
    "query_ln/scale": VECTOR(3),
    "key_ln/scale": VECTOR(3),
}
LSTM = {
    **{f"i{gate}/kernel": DENSE(6, 4) for gate in "ifgo"},
    **{f"h{gate}/kernel": DENSE(4, 4) for gate in "ifgo"},
    **{f"h{gate}/bias": VECTOR(4) for gate in "ifgo"},
}

FLAX_NNX = [
    Layer("nnx.Linear", {"kernel": DENSE(5, 7), "bias": VECTOR(7)}, of_nnx(nnx.Linear, 5, 7)),
    Layer(
        "nnx.LinearGeneral, several axes in and out",
        {"kernel": GENERAL(2, 3, 4, 5), "bias": VECTOR(4, 5)},
        of_nnx(nnx.LinearGeneral, (2, 3), (4, 5), axis=(-2, -1)),
    ),
    Layer(
        "nnx.LinearGeneral, several axes out",
        {"kernel": GENERAL_OUT(6, 2, 4), "bias": VECTOR(2, 4)},
        of_nnx(nnx.LinearGeneral, 6, (2, 4)),
    ),
    Layer(
        "nnx.LinearGeneral, a batch",
        {"kernel": BATCHED(3, 6, 4), "bias": BATCHED_BIAS(3, 4)},
        of_nnx(nnx.LinearGeneral, 6, 4, batch_axis={0: 3}),
    ),
    Layer(
        "nnx.Einsum",
        {"kernel": EINSUM(8, 2, 4), "bias": VECTOR(8, 4)},
        of_nnx(nnx.Einsum, "nta,hab->nthb", (8, 2, 4), (8, 4)),
    ),
    Layer("nnx.Embed", {"embedding": ROWS(11, 8)}, of_nnx(nnx.Embed, 11, 8)),
    Layer("nnx.Conv, one dimension", {"kernel": CONV_1D(3, 4, 6), "bias": VECTOR(6)}, of_nnx(nnx.Conv, 4, 6, (3,))),
    Layer("nnx.Conv", {"kernel": CONV(3, 2, 4, 6), "bias": VECTOR(6)}, of_nnx(nnx.Conv, 4, 6, (3, 2))),
    Layer(
        "nnx.Conv, grouped",
        {"kernel": CONV(3, 2, 2, 6), "bias": VECTOR(6)},
        of_nnx(nnx.Conv, 4, 6, (3, 2), feature_group_count=2),
    ),
    Layer(
        "nnx.Conv, depthwise",
        {"kernel": CONV(3, 2, 1, 8), "bias": VECTOR(8)},
        of_nnx(nnx.Conv, 4, 8, (3, 2), feature_group_count=4),
    ),
    Layer(
        "nnx.Conv, three dimensions",
        {"kernel": CONV_3D(3, 2, 2, 4, 6), "bias": VECTOR(6)},
        of_nnx(nnx.Conv, 4, 6, (3, 2, 2)),
    ),
    Layer(
        "nnx.ConvTranspose",
        {"kernel": TRANSPOSED(3, 2, 4, 6), "bias": VECTOR(6)},
        of_nnx(nnx.ConvTranspose, 4, 6, (3, 2)),
    ),
    Layer(
        "nnx.ConvTranspose(transpose_kernel=True)",
        {"kernel": CONV(3, 2, 6, 4), "bias": VECTOR(6)},
        of_nnx(nnx.ConvTranspose, 4, 6, (3, 2), transpose_kernel=True),
    ),
    Layer("nnx.BatchNorm", NORM, of_nnx(nnx.BatchNorm, 4)),
    Layer("nnx.LayerNorm", NORM, of_nnx(nnx.LayerNorm, 4)),
    Layer("nnx.RMSNorm", {"scale": VECTOR(4)}, of_nnx(nnx.RMSNorm, 4)),
    Layer("nnx.GroupNorm", NORM, of_nnx(nnx.GroupNorm, 4, num_groups=2)),
    Layer("nnx.InstanceNorm", NORM, of_nnx(nnx.InstanceNorm, 4)),
    Layer(
        "nnx.WeightNorm",  # its scales are no nnx.Param
        {"layer_instance/kernel": DENSE(5, 7), "layer_instance/bias": VECTOR(7)},
        of_nnx(lambda rngs: nnx.WeightNorm(nnx.Linear(5, 7, rngs=rngs), rngs=rngs)),
    ),
    Layer(
        "nnx.SpectralNorm",
        {"layer_instance/kernel": DENSE(5, 7), "layer_instance/bias": VECTOR(7)},
        of_nnx(lambda rngs: nnx.SpectralNorm(nnx.Linear(5, 7, rngs=rngs), rngs=rngs)),
    ),
    Layer("nnx.MultiHeadAttention", HEADS, of_nnx(nnx.MultiHeadAttention, 2, 6, normalize_qk=True)),
    Layer(
        "nnx.LSTMCell",
        {("if_/kernel" if path == "if/kernel" else path): leaf for path, leaf in LSTM.items()},
        of_nnx(nnx.LSTMCell, 6, 4),
    ),
    Layer(
        "nnx.OptimizedLSTMCell",
        {"dense_i/kernel": DENSE(6, 16), "dense_h/kernel": DENSE(4, 16), "dense_h/bias": VECTOR(16)},
        of_nnx(nnx.OptimizedLSTMCell, 6, 4),
    ),
    Layer(
        "nnx.GRUCell",
        {"dense_i/kernel": DENSE(6, 12), "dense_i/bias": VECTOR(12), "dense_h/kernel": DENSE(4, 12)},
        of_nnx(nnx.GRUCell, 6, 4),
    ),
    Layer(
        "nnx.SimpleCell",
        {"dense_i/kernel": DENSE(6, 4), "dense_i/bias": VECTOR(4), "dense_h/kernel": DENSE(4, 4)},
        of_nnx(nnx.SimpleCell, 6, 4),
    ),
    Layer("nnx.LoRA", {"lora_a": DENSE(5, 2), "lora_b": DENSE(2, 7)}, of_nnx(nnx.LoRA, 5, 2, 7)),
    Layer(
        "nnx.LoRALinear, of rank 1",
        {"kernel": DENSE(5, 7), "bias": VECTOR(7), "lora/lora_a": DENSE(5, 1), "lora/lora_b": DENSE(1, 7)},
        of_nnx(nnx.LoRALinear, 5, 7, lora_rank=1),
    ),
    Layer("nnx.PReLU", {"negative_slope": VECTOR()}, of_nnx(lambda rngs: nnx.PReLU())),
]

FLAX_LINEN = [
    Layer("nn.Dense", {"kernel": DENSE(6, 7), "bias": VECTOR(7)}, of_linen(nn.Dense(7), SEQUENCE)),
    Layer(
        "nn.DenseGeneral, several axes in and out",
        {"kernel": GENERAL(5, 6, 2, 4), "bias": VECTOR(2, 4)},
        of_linen(nn.DenseGeneral((2, 4), axis=(-2, -1)), SEQUENCE),
    ),
    Layer(
        "nn.DenseGeneral, a batch",
        {"kernel": BATCHED(2, 6, 4), "bias": BATCHED_BIAS(2, 4)},
        of_linen(nn.DenseGeneral(4, batch_dims=(0,)), SEQUENCE),
    ),
    Layer(
        "nn.Einsum",
        {"kernel": EINSUM(2, 6, 4), "bias": VECTOR(2, 4)},
        of_linen(nn.Einsum((2, 6, 4), "btd,ndh->btnh"), SEQUENCE),
    ),
    Layer("nn.Embed", {"embedding": ROWS(11, 8)}, of_linen(nn.Embed(11, 8), WORDS)),
    Layer("nn.Conv", {"kernel": CONV(3, 2, 4, 6), "bias": VECTOR(6)}, of_linen(nn.Conv(6, (3, 2)), IMAGES)),
    Layer(
        "nn.Conv, depthwise",
        {"kernel": CONV(3, 2, 1, 8), "bias": VECTOR(8)},
        of_linen(nn.Conv(8, (3, 2), feature_group_count=4), IMAGES),
    ),
    Layer(
        "nn.ConvLocal, one dimension",
        {"kernel": LOCAL_1D(5, 18, 7), "bias": VECTOR(5, 7)},
        of_linen(nn.ConvLocal(7, (3,)), SEQUENCE),
    ),
    Layer(
        "nn.ConvLocal",
        {"kernel": LOCAL(8, 8, 24, 6), "bias": VECTOR(8, 8, 6)},
        of_linen(nn.ConvLocal(6, (3, 2)), IMAGES),
    ),
    Layer(
        "nn.ConvTranspose",
        {"kernel": TRANSPOSED(3, 2, 4, 6), "bias": VECTOR(6)},
        of_linen(nn.ConvTranspose(6, (3, 2)), IMAGES),
    ),
    Layer(
        "nn.ConvTranspose(transpose_kernel=True)",
        {"kernel": CONV(3, 2, 6, 4), "bias": VECTOR(6)},
        of_linen(nn.ConvTranspose(6, (3, 2), transpose_kernel=True), IMAGES),
    ),
    Layer("nn.BatchNorm", NORM, of_linen(nn.BatchNorm(use_running_average=False), IMAGES)),
    Layer("nn.LayerNorm", NORM, of_linen(nn.LayerNorm(), IMAGES)),
    Layer(
        "nn.LayerNorm, several axes",
        {"scale": SEVERAL_AXES(5, 6), "bias": SEVERAL_AXES(5, 6)},
        of_linen(nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=(-2, -1)), SEQUENCE),
    ),
    Layer("nn.RMSNorm", {"scale": VECTOR(4)}, of_linen(nn.RMSNorm(), IMAGES)),
    Layer("nn.GroupNorm", NORM, of_linen(nn.GroupNorm(2), IMAGES)),
    Layer("nn.InstanceNorm", NORM, of_linen(nn.InstanceNorm(), IMAGES)),
    Layer(
        "nn.WeightNorm",
        {
            "layers_0/layer_instance/kernel/scale": LENGTHS(7),
            "layers_0/layer_instance/kernel": DENSE(6, 7),
            "layers_0/layer_instance/bias": VECTOR(7),
        },
        of_linen(nn.Sequential([nn.WeightNorm(nn.Dense(7))]), SEQUENCE),
    ),
    Layer(
        "nn.SpectralNorm",
        {"layer_instance/kernel": DENSE(6, 7), "layer_instance/bias": VECTOR(7)},
        of_linen(nn.SpectralNorm(nn.Dense(7)), SEQUENCE, update_stats=True),
    ),
    Layer("nn.MultiHeadDotProductAttention", HEADS, of_linen(nn.MultiHeadAttention(2, normalize_qk=True), SEQUENCE)),
    Layer("nn.PReLU", {"negative_slope": VECTOR()}, of_linen(nn.PReLU(), SEQUENCE)),
    Layer("nn.LSTMCell", LSTM, of_cell(nn.LSTMCell(4))),
    Layer("nn.OptimizedLSTMCell", LSTM, of_cell(nn.OptimizedLSTMCell(4))),
    Layer(
        "nn.GRUCell",
        {
            **{f"i{gate}/kernel": DENSE(6, 4) for gate in "rzn"},
            **{f"i{gate}/bias": VECTOR(4) for gate in "rzn"},
            **{f"h{gate}/kernel": DENSE(4, 4) for gate in "rzn"},
            "hn/bias": VECTOR(4),
        },
        of_cell(nn.GRUCell(4)),
    ),
    Layer(
        "nn.MGUCell",
        {
            **{f"i{gate}/kernel": DENSE(6, 4) for gate in "fn"},
            **{f"i{gate}/bias": VECTOR(4) for gate in "fn"},
            **{f"h{gate}/kernel": DENSE(4, 4) for gate in "fn"},
            "hn/bias": VECTOR(4),
        },
        of_cell(nn.MGUCell(4)),
    ),
    Layer(
        "nn.SimpleCell",
        {"i/kernel": DENSE(6, 4), "i/bias": VECTOR(4), "h/kernel": DENSE(4, 4)},
        of_cell(nn.SimpleCell(4)),
    ),
    Layer(
        "nn.ConvLSTMCell",
        {"ih/kernel": CONV(3, 3, 4, 24), "ih/bias": VECTOR(24), "hh/kernel": CONV(3, 3, 6, 24), "hh/bias": VECTOR(24)},
        of_cell(nn.ConvLSTMCell(6, (3, 3)), IMAGES),
    ),
]

EQUINOX_NORM = {"weight": VECTOR(6), "bias": VECTOR(6)}

EQUINOX = [
    Layer("eqx.nn.Linear", {"weight": ROWS(7, 5), "bias": VECTOR(7)}, of_equinox(eqx.nn.Linear, 5, 7, key=KEY)),
    Layer(
        "eqx.nn.Conv1d", {"weight": ROWS_3D(6, 4, 3), "bias": VECTOR(6, 1)}, of_equinox(eqx.nn.Conv1d, 4, 6, 3, key=KEY)
    ),
    Layer(
        "eqx.nn.Conv2d",
        {"weight": ROWS_4D(6, 4, 3, 2), "bias": VECTOR(6, 1, 1)},
        of_equinox(eqx.nn.Conv2d, 4, 6, (3, 2), key=KEY),
    ),
    Layer(
        "eqx.nn.Conv2d, depthwise",
        {"weight": ROWS_4D(8, 1, 1, 1), "bias": VECTOR(8, 1, 1)},
        of_equinox(eqx.nn.Conv2d, 4, 8, 1, groups=4, key=KEY),
    ),
    Layer(
        "eqx.nn.ConvTranspose2d",
        {"weight": TRANSPOSED_EQUINOX(6, 4, 3, 2), "bias": VECTOR(6, 1, 1)},
        of_equinox(eqx.nn.ConvTranspose2d, 4, 6, (3, 2), key=KEY),
    ),
    Layer("eqx.nn.Embedding", {"weight": ROWS(11, 8)}, of_equinox(eqx.nn.Embedding, 11, 8, key=KEY)),
    Layer(
        "eqx.nn.MultiheadAttention",
        {
            **{f"{name}_proj/weight": ROWS(8, 8) for name in ("query", "key", "value", "output")},
            "query_proj/bias": VECTOR(8),
        },
        of_equinox(eqx.nn.MultiheadAttention, 2, 8, use_query_bias=True, key=KEY),
    ),
    Layer("eqx.nn.LayerNorm", EQUINOX_NORM, of_equinox(eqx.nn.LayerNorm, 6)),
    Layer(
        "eqx.nn.LayerNorm, several axes",
        {"weight": ROWS(4, 6), "bias": ROWS(4, 6)},
        of_equinox(eqx.nn.LayerNorm, (4, 6)),
    ),
    Layer("eqx.nn.GroupNorm", EQUINOX_NORM, of_equinox(eqx.nn.GroupNorm, 2, 6)),
    Layer(
        "eqx.nn.BatchNorm",  # with the first values of its statistics
        {**EQUINOX_NORM, **{f"batch_state_index/init/{i}": VECTOR(6) for i in (0, 1)}},
        of_equinox(eqx.nn.BatchNorm, 6, axis_name="batch", mode="batch"),
    ),
    Layer("eqx.nn.RMSNorm", EQUINOX_NORM, of_equinox(eqx.nn.RMSNorm, 6)),
    Layer(
        "eqx.nn.GRUCell",
        {"weight_ih": ROWS(18, 5), "weight_hh": ROWS(18, 6), "bias": VECTOR(18), "bias_n": VECTOR(6)},
        of_equinox(eqx.nn.GRUCell, 5, 6, key=KEY),
    ),
    Layer(
        "eqx.nn.LSTMCell",
        {"weight_ih": ROWS(24, 5), "weight_hh": ROWS(24, 6), "bias": VECTOR(24)},
        of_equinox(eqx.nn.LSTMCell, 5, 6, key=KEY),
    ),
    Layer("eqx.nn.PReLU", {"negative_slope": VECTOR()}, of_equinox(eqx.nn.PReLU)),
    Layer(
        "eqx.nn.WeightNorm",
        {"layer/weight": ROWS_4D(6, 4, 3, 3), "layer/bias": VECTOR(6, 1, 1), "g": ROWS_4D(6, 1, 1, 1)},
        of_equinox(eqx.nn.WeightNorm, eqx.nn.Conv2d(4, 6, 3, key=KEY)),
    ),
]

HAIKU = [
    Layer("hk.Linear", {"linear/w": DENSE(6, 7), "linear/b": VECTOR(7)}),
    Layer("hk.Linear, one input", {"linear/w": DENSE(1, 7)}),
    Layer("hk.Conv1D", {"conv1_d/w": CONV_1D(3, 6, 6), "conv1_d/b": VECTOR(6)}),
    Layer("hk.Conv2D", {"conv2_d/w": CONV(3, 2, 4, 6), "conv2_d/b": VECTOR(6)}),
    Layer("hk.Conv2D, one input, one tap", {"conv2_d/w": CONV(1, 1, 1, 6)}),
    Layer("hk.Conv2D(data_format='NCHW')", {"conv2_d/b": VECTOR(6, 1, 1)}),
    Layer("hk.Conv2DTranspose", {"conv2_d_transpose/w": CONV(3, 2, 6, 4)}),
    Layer("hk.DepthwiseConv2D", {"depthwise_conv2_d/w": CONV(3, 2, 1, 8)}),
    Layer("hk.SeparableDepthwiseConv2D", {"separable_depthwise_conv2_d/~/depthwise_conv2_d/w": CONV(3, 1, 1, 8)}),
    Layer("hk.Embed", {"embed/embeddings": ROWS(11, 8)}),
    Layer("hk.LayerNorm", {"layer_norm/scale": VECTOR(6), "layer_norm/offset": VECTOR(6)}),
    Layer(
        "hk.LayerNorm, several axes",
        {"layer_norm/scale": SEVERAL_AXES(1, 5, 6), "layer_norm/offset": SEVERAL_AXES(1, 5, 6)},
    ),
    Layer("hk.BatchNorm", {"batch_norm/scale": VECTOR(1, 1, 1, 4), "batch_norm/offset": VECTOR(1, 1, 1, 4)}),
    Layer("hk.GroupNorm", {"group_norm/scale": VECTOR(4), "group_norm/offset": VECTOR(4)}),
    Layer(
        "hk.MultiHeadAttention",
        {
            "multi_head_attention/query/w": DENSE(6, 6),
            "multi_head_attention/query/b": VECTOR(6),
            "multi_head_attention/linear/w": DENSE(6, 6),
        },
    ),
    Layer("hk.Bias", {"bias/b": ANY_BIAS(5, 6)}),
    Layer("hk.LSTM", {"lstm/linear/w": DENSE(12, 24), "lstm/linear/b": VECTOR(24)}),
    Layer("hk.GRU", {"gru/w_i": DENSE(6, 18), "gru/w_h": DENSE(6, 18), "gru/b": VECTOR(18)}),
    Layer("hk.Conv2DLSTM", {"conv2_dlstm/input_to_hidden/w": CONV(3, 3, 4, 24)}),
]

KERAS = [
    Layer("keras.Dense", {"dense/kernel": DENSE(6, 7), "dense/bias": VECTOR(7)}),
    Layer("keras.Dense with LoRA", {"dense/lora_kernel_a": DENSE(6, 2), "dense/lora_kernel_b": DENSE(2, 7)}),
    Layer("keras.EinsumDense", {"einsum_dense/kernel": GENERAL_OUT(6, 2, 4), "einsum_dense/bias": VECTOR(2, 4)}),
    Layer("keras.Embedding", {"embedding/embeddings": ROWS(11, 8)}),
    Layer(
        "keras.Embedding with LoRA",
        {"embedding/lora_embeddings_a": DENSE(11, 2), "embedding/lora_embeddings_b": DENSE(2, 8)},
    ),
    Layer("keras.ReversibleEmbedding", {"reversible_embedding/reverse_embeddings": DENSE(8, 11)}),
    Layer("keras.Conv1D", {"conv1d/kernel": CONV_1D(3, 6, 6)}),
    Layer("keras.Conv2D", {"conv2d/kernel": CONV(3, 2, 4, 6), "conv2d/bias": VECTOR(6)}),
    Layer("keras.Conv2D, one output", {"conv2d/kernel": CONV(3, 2, 4, 1)}),
    Layer("keras.Conv3D", {"conv3d/kernel": CONV_3D(2, 2, 2, 3, 6)}),
    Layer("keras.Conv1DTranspose", {"conv1d_transpose/kernel": CONV_1D(3, 7, 6)}),
    Layer("keras.Conv2DTranspose", {"conv2d_transpose/kernel": CONV(3, 2, 6, 4)}),
    Layer("keras.DepthwiseConv1D", {"depthwise_conv1d/kernel": DEPTHWISE_1D(3, 6, 1)}),
    Layer(
        "keras.DepthwiseConv2D", {"depthwise_conv2d/kernel": DEPTHWISE(3, 2, 4, 1), "depthwise_conv2d/bias": VECTOR(4)}
    ),
    Layer(
        "keras.DepthwiseConv2D, as keras.applications names them",
        {
            "block1a_dwconv/kernel": DEPTHWISE(3, 3, 4, 1),
            "block2b_dwconv2/kernel": DEPTHWISE(3, 3, 4, 1),
            "conv_dw_1/kernel": DEPTHWISE(3, 3, 4, 1),
            "expanded_conv_depthwise/kernel": DEPTHWISE(3, 3, 4, 1),
        },
    ),
    Layer("keras.DepthwiseConv2D(depth_multiplier=2)", {"depthwise_conv2d_1/kernel": DEPTHWISE(3, 2, 4, 2)}),
    Layer(
        "keras.SeparableConv2D",
        {
            "separable_conv2d/depthwise_kernel": DEPTHWISE(3, 2, 4, 2),
            "separable_conv2d/pointwise_kernel": CONV(1, 1, 8, 5),
            "separable_conv2d/bias": VECTOR(5),
        },
    ),
    Layer(
        "keras.SeparableConv1D, one input",
        {"separable_conv1d/depthwise_kernel": CONV_1D(3, 1, 2), "separable_conv1d/pointwise_kernel": CONV_1D(1, 1, 5)},
    ),
    Layer("keras.BatchNormalization", {"batch_normalization/gamma": VECTOR(4), "batch_normalization/beta": VECTOR(4)}),
    Layer(
        "keras.LayerNormalization, several axes",
        {"layer_normalization/gamma": ROWS(5, 6), "layer_normalization/beta": ROWS(5, 6)},
    ),
    Layer("keras.RMSNormalization", {"rms_normalization/scale": VECTOR(4)}),
    Layer(
        "keras.MultiHeadAttention",
        {
            **{f"multi_head_attention/{name}/kernel": TO_HEADS(6, 2, 4) for name in ("query", "key", "value")},
            **{f"multi_head_attention/{name}/bias": VECTOR(2, 4) for name in ("query", "key", "value")},
            "multi_head_attention/attention_output/kernel": FROM_HEADS(2, 4, 6),
            "multi_head_attention/attention_output/bias": VECTOR(6),
        },
    ),
    Layer(
        "keras.MultiHeadAttention(output_shape=(3, 2))",
        {"multi_head_attention/attention_output/kernel": GENERAL(2, 4, 3, 2)},
    ),
    Layer(
        "keras.GroupQueryAttention",
        {
            "grouped_query_attention/query/kernel": TO_HEADS(6, 4, 4),
            "grouped_query_attention/key/kernel": TO_HEADS(6, 2, 4),
            "grouped_query_attention/attention_output/kernel": FROM_HEADS(4, 4, 6),
        },
    ),
    Layer("keras.Attention", {"attention/scale": VECTOR(), "attention/concat_score_weight": VECTOR()}),
    Layer("keras.AdditiveAttention", {"additive_attention/scale": VECTOR(6)}),
    Layer(
        "keras.LSTM",
        {
            "lstm/lstm_cell/kernel": DENSE(6, 24),
            "lstm/lstm_cell/recurrent_kernel": DENSE(6, 24),
            "lstm/lstm_cell/bias": VECTOR(24),
        },
    ),
    Layer(
        "keras.GRU",
        {
            "gru/gru_cell/kernel": DENSE(6, 18),
            "gru/gru_cell/recurrent_kernel": DENSE(6, 18),
            "gru/gru_cell/bias": TWO_BIASES(2, 18),
        },
    ),
    Layer(
        "keras.ConvLSTM2D",
        {
            "conv_lstm2d/conv_lstm_cell/kernel": CONV(3, 3, 4, 20),
            "conv_lstm2d/conv_lstm_cell/recurrent_kernel": CONV(3, 3, 5, 20),
        },
    ),
    Layer("keras.PReLU", {"p_re_lu/alpha": SLOPES(8, 8, 4)}),
    Layer("keras.PReLU(shared_axes=[1, 2])", {"p_re_lu/alpha": SHARED_SLOPES(1, 1, 4)}),
]

# what models have beside layers, and layers under names of their own
MODELS = [
    Layer(
        "tokens and positions",
        {
            "cls": ONE_ROW_3D(1, 1, 8),
            "cls_token": ONE_ROW_3D(1, 1, 8),
            "class_embedding": VECTOR(8),
            "mask_token": ONE_ROW(1, 8),
            "register_tokens": ONE_ROW_3D(1, 4, 8),
            "query_tokens": ONE_ROW_3D(1, 4, 8),
            "pooling/probe": ONE_ROW_3D(1, 1, 8),
            "pos_embedding": ONE_ROW_3D(1, 5, 8),
            "pos_embed": ONE_ROW_OF_GRIDS(1, 3, 4, 8),
            "position_embeddings": ONE_ROW_3D(1, 5, 8),
            "positional_embedding": ROWS(5, 8),
            "token_embedding": ROWS(11, 8),
            "position_embedding/embedding": ROWS(5, 8),
            "relative_position_bias/embedding": ROWS(9, 2),
            "relative_position_bias_table": ROWS(9, 2),
        },
    ),
    Layer(
        "ConvNeXt V2's response normalisation",
        {"grn/weight": ONE_ROW_4D(1, 1, 1, 8), "grn/bias": ONE_ROW_4D(1, 1, 1, 8), "grn/gamma": ONE_ROW_4D(1, 1, 1, 8)},
    ),
    Layer("layer scale", {"lambda1": VECTOR(8), "layer_scale": VECTOR(8), "gamma": VECTOR(8)}),
    Layer("temperature", {"logit_scale": VECTOR()}),
    Layer(
        "attention under other names",
        {
            "attention/q_proj/kernel": TO_HEADS(6, 2, 4),
            "attention/k/kernel": TO_HEADS(6, 2, 4),
            "attention/to_v/kernel": TO_HEADS(6, 2, 4),
            "attention/q_proj/w": TO_HEADS(6, 2, 4),
            "attention/qkv/kernel": FUSED_TO_HEADS(6, 3, 2, 4),
            "attention/kv/kernel": FUSED_TO_HEADS(6, 2, 2, 4),
            "attention/qkv/bias": VECTOR(3, 2, 4),
            "attention/o_proj/kernel": FROM_HEADS(2, 4, 6),
            "attention/out_proj/kernel": FROM_HEADS(2, 4, 6),
        },
    ),
    Layer(
        "attention of convolutions",
        {
            "query/kernel": CONV(1, 1, 5, 6),
            "k/kernel": CONV(3, 3, 5, 6),
            "qkv/kernel": CONV_3D(1, 1, 1, 5, 6),
            "out/kernel": CONV(3, 3, 5, 6),
            "value/kernel": CONV_OF_HEADS(3, 5, 6),
        },
    ),
]

LAYERS = [*FLAX_NNX, *FLAX_LINEN, *EQUINOX, *HAIKU, *KERAS, *MODELS]
