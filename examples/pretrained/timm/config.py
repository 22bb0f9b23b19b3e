"""What every timm `config.json` has."""

from collections.abc import Collection, Mapping
from typing import Any

from pretrained.fields import Fields
from vision.errors import UserError

__all__ = ["Config"]

# What is known of the weights and changes nothing in what a model computes; preprocessing is read by itself.
_ABOUT = (
    "architecture",
    "classifier",
    "crop_mode",
    "crop_pct",
    "custom_load",
    "description",
    "file",
    "first_conv",
    "hf_hub_filename",
    "hf_hub_id",
    "interpolation",
    "license",
    "mean",
    "min_input_size",
    "notes",
    "origin_url",
    "paper_ids",
    "paper_name",
    "pool_size",
    "source",
    "std",
    "tag",
    "test_crop_pct",
    "test_input_size",
    "test_pool_size",
    "url",
)
# Arguments that a family's model takes for training, or for how torch runs it.
_WITHOUT_EFFECT = ("drop_path_rate", "drop_rate", "exportable", "no_jit", "scriptable")


class Config:
    """A `config.json`, read as timm's factory reads it.

    A family fills `arguments` with those that the architecture's name stands for and takes what it knows; what is
    left there is refused by `close`.

    Args:
        config: The file's content.
        source: The file, for messages.

    Attributes:
        architecture: Its name.
        arguments: `model_args`.
        input_size: Height and width of the images that the weights are from.
        classes: Outputs of the classifier; 0 for none.
        labels: Their names, where they are given.
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self._fields = Fields(config, source)
        self.architecture = self._fields.take("architecture", str)
        self.arguments = Fields(self._fields.take("model_args", dict, {}), f"{source}: model_args")
        self.arguments.ignore(*_WITHOUT_EFFECT)
        pretrained = self._fields.within("pretrained_cfg")
        pretrained.ignore(*_ABOUT)
        pretrained.one_of("label_offset", [0], 0)
        size = pretrained.take("input_size", list, [3, 224, 224])
        if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
            raise pretrained.unsupported("input_size", size, "channels, height and width are needed")
        if "in_chans" not in self.arguments and size[0] != 3:
            raise pretrained.unsupported("input_size", size, "three channels are needed")
        self.arguments.one_of("in_chans", [3], 3)
        self.input_size = (size[1], size[2])
        self._fixed = pretrained.take("fixed_input_size", bool, False)
        self.classes = self._classes(pretrained)
        self.labels = self._labels(pretrained)
        pretrained.close()

    def image_size(self, default: tuple[int, int]) -> tuple[int, int]:
        """The argument `img_size`, whose default is for weights that are not for images of one size."""
        return self.arguments.pair("img_size", self.input_size if self._fixed else default)

    def pooling(self, default: str, supported: Collection[str]) -> str:
        """The argument `global_pool`, of which the file holds a second record that must agree."""
        pooling = self.arguments.one_of("global_pool", supported, default)
        self._fields.one_of("global_pool", [pooling], pooling)
        return pooling

    def head(self, features: int, hidden: int | None = None) -> tuple[int, int] | None:
        """The classifier's inputs and outputs; None without a classifier.

        It reads the model's features, which the file records too, or what a hidden layer makes of them.
        """
        self._fields.one_of("num_features", [features], features)
        return (features if hidden is None else hidden, self.classes) if self.classes else None

    def unknown_architecture(self) -> UserError:
        """The error for a name that no family knows."""
        return self._fields.unsupported(
            "architecture", self.architecture, "supported are timm's ConvNeXt, ResNet, Swin, ViT and DeiT, most of them"
        )

    def close(self) -> None:
        """Raises UserError if a field is left that nobody took."""
        self.arguments.close()
        self._fields.close()

    def _classes(self, pretrained: Fields) -> int:
        recorded = pretrained.count("num_classes", 1000)
        recorded = self._fields.count("num_classes", recorded)
        count = self.arguments.count("num_classes", recorded)
        if count != recorded:
            raise self.arguments.unsupported("num_classes", count, f"the file itself says {recorded}")
        return count

    def _labels(self, pretrained: Fields) -> tuple[str, ...] | None:
        """Names of the classes: a list, or an object from numbers to names."""
        names = pretrained.take("label_names", object, None)
        names = self._fields.take("label_names", object, names)
        pretrained.ignore("label_descriptions")
        self._fields.ignore("label_descriptions")
        if names is None or self.classes == 0:
            return None
        if isinstance(names, dict):
            names = [names.get(str(i)) for i in range(len(names))]
        given = names if isinstance(names, list) else []
        labels = tuple(name for name in given if isinstance(name, str))
        if len(given) != self.classes or len(labels) != self.classes:
            raise self._fields.unsupported("label_names", names, f"{self.classes} names are needed")
        return labels
