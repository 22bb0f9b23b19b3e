"""ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023) as timm has them."""

import re
from collections.abc import Collection
from typing import Any

from pretrained.convnext import ConvNeXt, ConvNeXtConfig
from pretrained.fields import DEEPEST
from pretrained.model import Model
from pretrained.spec import Spec, renaming
from pretrained.timm.config import Config
from pretrained.timm.vit import ACTIVATIONS

__all__ = ["ARCHITECTURES", "SIZES", "read"]

SIZES = {
    "atto": (40, [2, 2, 6, 2]),
    "femto": (48, [2, 2, 6, 2]),
    "pico": (64, [2, 2, 6, 2]),
    "nano": (80, [2, 2, 8, 2]),
    "tiny": (96, [3, 3, 9, 3]),
    "small": (96, [3, 3, 27, 3]),
    "base": (128, [3, 3, 27, 3]),
    "large": (192, [3, 3, 27, 3]),
    "xlarge": (256, [3, 3, 27, 3]),
    "huge": (352, [3, 3, 27, 3]),
    "xxlarge": (384, [3, 4, 30, 3]),
}
"""What the size in a name stands for: channels of the first stage, which double in each, and blocks in each."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)": {},
    r"convnext_large_mlp": {"head_hidden_size": 1536},
    r"convnext_xxlarge": {"norm_eps": 1e-5},
    r"convnextv2_(atto|femto|pico|nano|tiny|small|base|large|huge)": {"use_grn": True},
}
"""The arguments that timm makes each architecture with, by a pattern of names."""

# Of conv_mlp an MLP's layers are stored as 1x1 convolutions, which is the same.
_WITHOUT_EFFECT = ("conv_mlp", "head_init_scale")
_OFF = {
    "conv_bias": True,
    "head_norm_first": False,
    "kernel_sizes": 7,
    "norm_layer": None,
    "output_stride": 32,
    "patch_size": 4,
    "stem_type": "patch",
}

NAMES = (
    (r"^head\.", "head.fc."),
    (r"^image\.stem\.", "stem.0."),
    (r"^image\.stem_norm\.", "stem.1."),
    (r"^image\.norm\.", "head.norm."),
    (r"^image\.hidden\.", "head.pre_logits.fc."),
    (r"^image\.stages\.", "stages."),
    (r"\.downsample_norm\.", ".downsample.0."),
    (r"\.downsample\.(weight|bias)$", r".downsample.1.\1"),
    (r"\.depthwise\.", ".conv_dw."),
    (r"\.up\.", ".mlp.fc1."),
    (r"\.response_norm\.", ".mlp.grn."),
    (r"\.down\.", ".mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
)


def read(config: Config, tensors: Collection[str]) -> Spec:
    """What a configuration of this family says."""
    del tensors
    name, arguments = config.architecture, config.arguments
    own = next((arguments for names, arguments in ARCHITECTURES.items() if re.fullmatch(names, name)), None)
    if own is None:
        raise config.unknown_architecture()
    layer_scale = "use_grn" not in own
    if "ls_init_value" in arguments:  # of which null means none
        layer_scale = arguments.take("ls_init_value", float, None) is not None
    width, depths = SIZES[name.split("_")[1]]
    arguments.fill({"dims": [width * 2**index for index in range(4)], "depths": depths, **own})
    arguments.ignore(*_WITHOUT_EFFECT)
    for argument, off in _OFF.items():
        arguments.one_of(argument, [off], off)
    config.pooling("avg", ["avg"])
    epsilon = arguments.take("norm_eps", float, 1e-6)
    tower = ConvNeXtConfig(
        widths=arguments.integers("dims", count=4),
        depths=arguments.integers("depths", count=4, most=DEEPEST),
        activation=ACTIVATIONS[arguments.one_of("act_layer", ACTIVATIONS, "gelu")],
        epsilon=epsilon,
        last_epsilon=epsilon,
        layer_scale=layer_scale,
        response_norm=() if arguments.take("use_grn", bool, False) else None,
        hidden=arguments.count("head_hidden_size", 0) or None,
    )
    head = config.head(tower.widths[-1], tower.hidden)
    return Spec(
        build=lambda: Model(ConvNeXt(tower), head=head),
        name=renaming(NAMES),
        image_size=config.input_size,
        classes=config.labels,
    )
