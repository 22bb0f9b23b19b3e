"""ResNet (He et al. 2016) as transformers stores it."""

from collections.abc import Collection

from pretrained.fields import DEEPEST, Fields
from pretrained.huggingface.common import activation, classifier, ignore_common
from pretrained.model import Model
from pretrained.resnet import ResNet, ResNetConfig
from pretrained.spec import Spec, renaming

__all__ = ["ARCHITECTURES", "read"]

ARCHITECTURES = {"resnet": ("ResNetModel", "ResNetForImageClassification")}

NAMES = (
    (r"^head\.", "classifier.1."),
    (r"^image\.stem\.", "image.embedder.embedder."),
    (r"^image\.stages\.(\d+)\.", r"image.encoder.stages.\1.layers."),
    (r"\.convs\.", ".layer."),
    (r"\.conv\.", ".convolution."),
    (r"\.norm\.", ".normalization."),
)


def read(fields: Fields, tensors: Collection[str], kind: str, architecture: str) -> Spec:
    """What a configuration of this family says."""
    del tensors, kind
    ignore_common(fields)
    fields.one_of("num_channels", [3], 3)
    widths = fields.integers("hidden_sizes", (256, 512, 1024, 2048))
    config = ResNetConfig(
        stem=fields.positive("embedding_size", 64),
        widths=widths,
        depths=fields.integers("depths", (3, 4, 6, 3), count=len(widths), most=DEEPEST),
        bottleneck=fields.one_of("layer_type", ["bottleneck", "basic"], "bottleneck") == "bottleneck",
        activation=activation(fields, default="relu"),  # inside a block transformers has ReLU, whatever this says
        first_stride=2 if fields.take("downsample_in_first_stage", bool, False) else 1,
        stride_first=fields.take("downsample_in_bottleneck", bool, False),
        pooled_axes=True,
    )
    head, classes = classifier(fields, architecture, widths[-1])
    return Spec(
        build=lambda: Model(ResNet(config), head=head),
        name=renaming([*NAMES, (r"^image\.", "resnet." if head else "")]),
        image_size=(224, 224),  # of all released ones; the configuration has no size
        unused=r".*\.num_batches_tracked",
        classes=classes,
    )
