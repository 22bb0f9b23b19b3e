"""ResNet (He et al. 2016) as timm has it: v1.5, with a 7x7 stem and plain shortcuts."""

from collections.abc import Collection

from pretrained.fields import DEEPEST
from pretrained.model import Model
from pretrained.resnet import ResNet, ResNetConfig
from pretrained.spec import Spec, one_more, renaming
from pretrained.timm.config import Config
from pretrained.timm.vit import ACTIVATIONS

__all__ = ["DEPTHS", "read"]

DEPTHS = {
    "resnet18": [2, 2, 2, 2],
    "resnet34": [3, 4, 6, 3],
    "resnet50": [3, 4, 6, 3],
    "resnet101": [3, 4, 23, 3],
    "resnet152": [3, 8, 36, 3],
}
_BASIC = ("resnet18", "resnet34")

_WITHOUT_EFFECT = ("drop_block_rate", "stem_width", "zero_init_last")
# Arguments that make what has another name among timm's architectures, such as resnet50d.
_OFF = {
    "avg_down": False,
    "base_width": 64,
    "block_reduce_first": 1,
    "cardinality": 1,
    "down_kernel_size": 1,
    "output_stride": 32,
    "replace_stem_pool": False,
    "stem_type": "",
}

NAMES = (
    (r"^head\.", "fc."),
    (r"^image\.stem\.conv\.", "conv1."),
    (r"^image\.stem\.norm\.", "bn1."),
    (r"^image\.stages\.(\d+)\.", one_more("layer", ".")),
    (r"\.convs\.(\d+)\.conv\.", one_more(".conv", ".")),
    (r"\.convs\.(\d+)\.norm\.", one_more(".bn", ".")),
    (r"\.shortcut\.conv\.", ".downsample.0."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
)


def read(config: Config, tensors: Collection[str]) -> Spec:
    """What a configuration of this family says."""
    del tensors
    if config.architecture not in DEPTHS:
        raise config.unknown_architecture()
    arguments = config.arguments
    arguments.ignore(*_WITHOUT_EFFECT)
    for name, off in _OFF.items():
        arguments.one_of(name, [off], off)
    bottleneck = config.architecture not in _BASIC
    channels = arguments.integers("channels", (64, 128, 256, 512), count=4)
    activation = ACTIVATIONS[arguments.one_of("act_layer", ACTIVATIONS, "relu")]
    config.pooling("avg", ["avg"])
    tower = ResNetConfig(
        stem=64,
        widths=tuple(width * (4 if bottleneck else 1) for width in channels),
        depths=arguments.integers("layers", tuple(DEPTHS[config.architecture]), count=4, most=DEEPEST),
        bottleneck=bottleneck,
        activation=activation,
        inner_activation=activation,
    )
    head = config.head(tower.widths[-1])
    return Spec(
        build=lambda: Model(ResNet(tower), head=head),
        name=renaming(NAMES),
        image_size=config.input_size,
        unused=r".*\.num_batches_tracked",
        classes=config.labels,
    )
