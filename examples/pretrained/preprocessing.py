"""How a model wants its images: resize, crop, interpolation, mean and deviation, from the model's own files."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrained.fields import Fields, read_json
from vision.errors import UserError

__all__ = ["PREPROCESSOR_FILE", "Preprocessing", "read_preprocessing"]

PREPROCESSOR_FILE = "preprocessor_config.json"

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """From an image to what a model takes.

    Attributes:
        resize: The shorter side, whose ratio to the longer one is kept; or height and width; None for no resizing.
        crop: Height and width of the middle that is cut out; None for no cropping.
        interpolation: Pillow's number of the filter.
        mean, std: Of the three channels, taken off and divided by.
        scale: Factor on the values of 0 to 255 before that.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: int
    mean: Triple
    std: Triple
    scale: float = 1 / 255

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the result; None if images keep sizes of their own."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def at(self, size: int) -> "Preprocessing":
        """The same for square images of another size: as much of the image is cut off as before."""
        if self.size == (size, size):
            return self
        resize: int | tuple[int, int] = (size, size)
        if isinstance(self.resize, int) and self.crop:
            resize = round(self.resize * size / min(self.crop))
        elif isinstance(self.resize, tuple) and self.crop:
            resize = (round(self.resize[0] * size / self.crop[0]), round(self.resize[1] * size / self.crop[1]))
        return dataclasses.replace(self, resize=resize, crop=(size, size) if self.crop else None)

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image, resized and cropped."""
        if isinstance(self.resize, int):
            short, long = sorted(image.size)
            longer = int(self.resize * long / short)
            wide = image.size[0] > image.size[1]
            image = image.resize((longer, self.resize) if wide else (self.resize, longer), self._filter)
        elif self.resize is not None:
            height, width = self.resize
            image = image.resize((width, height), self._filter)
        if self.crop is not None:
            top, left = (image.size[1] - self.crop[0]) // 2, (image.size[0] - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return image

    def normalise(self, images: Any) -> Any:
        """Values of 0 to 255, channels last, as the model takes them; NumPy or JAX arrays."""
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return (images * np.float32(self.scale) - mean) / std

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling(self.interpolation)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """From what `to_json` gave."""
        pairs: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**pairs)


def read_preprocessing(model: Path, file: Path | None = None) -> Preprocessing:
    """The preprocessing of a model.

    Args:
        model: Its directory or file: Hugging Face's `preprocessor_config.json` is looked for there, or the
            `pretrained_cfg` of timm's `config.json`.
        file: A `preprocessor_config.json` to read instead.

    Raises:
        UserError: There is none, or it asks for what is not supported.
    """
    directory = model if model.is_dir() else model.parent
    path = file or directory / PREPROCESSOR_FILE
    if file is None and model.suffix == ".npz":
        raise UserError(f"{model}: says nothing of its preprocessing; give it with --preprocessor FILE")
    if path.exists() or file is not None:
        return _from_transformers(Fields(read_json(path), str(path)))
    config = read_json(directory / "config.json")
    if "pretrained_cfg" in config:
        return _from_timm(Fields(config, str(directory / "config.json")).within("pretrained_cfg"))
    raise UserError(
        f"{path}: does not exist, so the model's mean, size and interpolation are not known; copy it from where the "
        "model is from, or give one with --preprocessor FILE"
    )


# By image processor: whether one number for the size is the shorter side, and whether it crops by default.
_PROCESSORS = {
    "BitImageProcessor": (True, True),
    "CLIPImageProcessor": (True, True),
    "ConvNextImageProcessor": (True, False),
    "DINOv3ViTImageProcessor": (False, False),
    "DeiTImageProcessor": (False, True),
    "SiglipImageProcessor": (False, False),
    "ViTImageProcessor": (False, False),
}
_WITHOUT_EFFECT = (
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
    "default_to_square",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "processor_class",
    "return_tensors",
)
# ConvNeXt's processor crops below this size and warps from it on.
_WARPED_FROM = 384


def _from_transformers(fields: Fields) -> Preprocessing:
    """What an image processor of transformers does. Pillow's filters are those of its slow processors."""
    kind = _processor(fields)
    shorter, crops = _PROCESSORS[kind]
    fields.ignore(*_WITHOUT_EFFECT)
    resample = fields.one_of("resample", [int(f) for f in Image.Resampling], int(Image.Resampling.BILINEAR))
    resize: int | tuple[int, int] | None = None
    if fields.take("do_resize", bool, True):
        resize = _size(fields, "size", shorter=shorter)
    crop = None
    if fields.take("do_center_crop", bool, crops):
        crop = _size(fields, "crop_size", shorter=False)
    fields.ignore("size", "crop_size")
    share = fields.take("crop_pct", float, None) or 224 / 256
    if kind == "ConvNextImageProcessor" and isinstance(resize, int):
        crop = (resize, resize)
        resize = int(resize / share) if resize < _WARPED_FROM else crop
    scale = fields.take("rescale_factor", float, 1 / 255) if fields.take("do_rescale", bool, True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.take("do_normalize", bool, True):
        mean, std = _triple(fields, "image_mean"), _triple(fields, "image_std")
    fields.ignore("rescale_factor", "image_mean", "image_std")
    for name in ("do_pad", "do_flip_channel_order", "do_reduce_labels"):
        fields.one_of(name, [False], False)
    fields.one_of("pad_size", [None], None)
    fields.close()
    return _checked(Preprocessing(resize, _pair(crop), resample, mean, std, scale), fields)


def _processor(fields: Fields) -> str:
    """The processor's name in today's form: `CLIPFeatureExtractor` and `CLIPImageProcessorFast` are the same."""
    names = [fields.take(name, str, "") for name in ("image_processor_type", "feature_extractor_type")]
    found = next((name for name in names if name), "")
    kind = found.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in _PROCESSORS:
        known = ", ".join(_PROCESSORS)
        raise fields.unsupported("image_processor_type", found or None, f"supported: {known}")
    return kind


def _size(fields: Fields, name: str, *, shorter: bool) -> int | tuple[int, int]:
    """The shorter side, or height and width."""
    value = fields.take(name, object)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value if shorter else (value, value)
    if isinstance(value, list):
        value = dict(zip(("height", "width"), value, strict=False)) if len(value) == 2 else {}
    if isinstance(value, dict):
        sides = {side: n for side, n in value.items() if n is not None}
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides.values()):
            if sides.keys() == {"shortest_edge"} and name == "size":
                return sides["shortest_edge"]
            if sides.keys() == {"height", "width"}:
                return sides["height"], sides["width"]
    raise fields.unsupported(name, value, "one number, a shortest_edge, or height and width are needed")


def _triple(fields: Fields, name: str) -> Triple:
    value = fields.take(name, list)
    if len(value) != 3 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise fields.unsupported(name, value, "three numbers are needed")
    return float(value[0]), float(value[1]), float(value[2])


def _pair(value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value


_TIMM_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _from_timm(fields: Fields) -> Preprocessing:
    """What timm's transforms for evaluation do."""
    channels, height, width = fields.take("input_size", list)
    if channels != 3:
        raise fields.unsupported("input_size", [channels, height, width], "three channels are needed")
    share = fields.take("crop_pct", float)
    mode = fields.one_of("crop_mode", ["center", "squash"], "center")
    resample = _TIMM_FILTERS[fields.one_of("interpolation", _TIMM_FILTERS)]
    resized = (int(height / share), int(width / share))
    squashed = mode == "squash" or resized[0] != resized[1]
    if squashed and mode == "center":
        raise fields.unsupported("input_size", [channels, height, width], "a square is needed with crop_mode center")
    return _checked(
        Preprocessing(
            resized if squashed else resized[0],
            (height, width),
            int(resample),
            _triple(fields, "mean"),
            _triple(fields, "std"),
        ),
        fields,
    )


def _checked(found: Preprocessing, fields: Fields) -> Preprocessing:
    """Refuses to crop more than there is, and to divide by nothing."""
    shorter = min(found.resize) if isinstance(found.resize, tuple) else found.resize
    if found.crop and shorter and max(found.crop) > shorter and found.crop != found.resize:
        raise fields.unsupported("crop_size", found.crop, f"it must not exceed the size {found.resize}")
    if min(found.std) <= 0:
        raise fields.unsupported("image_std", found.std, "positive numbers are needed")
    return found
