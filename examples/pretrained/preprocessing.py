"""How a model wants its images: resize, crop, interpolation, mean and deviation, from the model's own files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
        rounds: Whether half a pixel beside the crop is rounded, as by torchvision, or cut off, as by transformers.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: int
    mean: Triple
    std: Triple
    scale: float = 1 / 255
    rounds: bool = False

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
            margins = ((image.size[1] - self.crop[0]) / 2, (image.size[0] - self.crop[1]) / 2)
            top, left = (round(margin) if self.rounds else math.floor(margin) for margin in margins)
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


class _Processor(NamedTuple):
    """What an image processor does where its file does not say.

    Attributes:
        shorter: Whether one number for the size is that of the shorter side.
        crops: Whether it crops.
        resample: Pillow's number of the filter; None where versions differ.
    """

    shorter: bool
    crops: bool
    resample: int | None


_BILINEAR, _BICUBIC = int(Image.Resampling.BILINEAR), int(Image.Resampling.BICUBIC)
_PROCESSORS = {
    "BitImageProcessor": _Processor(shorter=True, crops=True, resample=_BICUBIC),
    "CLIPImageProcessor": _Processor(shorter=True, crops=True, resample=_BICUBIC),
    "ConvNextImageProcessor": _Processor(shorter=True, crops=False, resample=None),
    "DINOv3ViTImageProcessor": _Processor(shorter=False, crops=False, resample=_BILINEAR),
    "DeiTImageProcessor": _Processor(shorter=False, crops=True, resample=_BICUBIC),
    "SiglipImageProcessor": _Processor(shorter=True, crops=False, resample=_BICUBIC),
    "ViTImageProcessor": _Processor(shorter=False, crops=False, resample=_BILINEAR),
}
_WITHOUT_EFFECT = (
    "_processor_class",
    "_valid_processor_keys",
    "data_format",
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
    fields.ignore(*_WITHOUT_EFFECT)
    resize, crop, resample = None, None, _BILINEAR
    if fields.take("do_resize", bool, True):
        resize, resample = _resize(fields, _PROCESSORS[kind])
    if fields.take("do_center_crop", bool, _PROCESSORS[kind].crops):
        crop = _pair(_size(fields, "crop_size", shorter=False))
    fields.ignore("size", "crop_size", "resample", "default_to_square")
    if kind == "ConvNextImageProcessor" and resize is not None:
        resize, crop = _convnext(resize, crop, fields)
    fields.ignore("crop_pct")
    scale = fields.take("rescale_factor", float, 1 / 255) if fields.take("do_rescale", bool, True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.take("do_normalize", bool, True):
        mean, std = _triple(fields, "image_mean"), _triple(fields, "image_std", positive=True)
    fields.ignore("rescale_factor", "image_mean", "image_std")
    for name in ("do_pad", "do_flip_channel_order", "do_reduce_labels"):
        fields.one_of(name, [False], False)
    fields.one_of("pad_size", [None], None)
    fields.close()
    return _checked(Preprocessing(resize, crop, resample, mean, std, scale), fields)


def _resize(fields: Fields, usual: _Processor) -> tuple[int | tuple[int, int], int]:
    """The size, and the filter."""
    square = fields.take("default_to_square", bool, None)
    size = _size(fields, "size", shorter=usual.shorter if square is None else not square)
    filters = [int(f) for f in Image.Resampling]
    if usual.resample is None:
        return size, fields.one_of("resample", filters)
    return size, fields.one_of("resample", filters, usual.resample)


def _convnext(
    size: int | tuple[int, int], crop: tuple[int, int] | None, fields: Fields
) -> tuple[int | tuple[int, int], tuple[int, int]]:
    """ConvNeXt's resizing: a larger size and a crop, from 384 on the size itself whatever the image's shape."""
    if not isinstance(size, int):
        raise fields.unsupported("size", size, "a shortest_edge is needed")
    if crop is not None:
        raise fields.unsupported("do_center_crop", True, "this processor crops by itself")
    share = fields.take("crop_pct", float, None) or 224 / 256
    if not 0 < share <= 1:
        raise fields.unsupported("crop_pct", share, "a share of 0 to 1 is needed")
    square = (size, size)
    return (int(size / share) if size < _WARPED_FROM else square), square


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


def _triple(fields: Fields, name: str, *, positive: bool = False) -> Triple:
    value = fields.take(name, list)
    if len(value) != 3 or not all(type(v) in (int, float) and math.isfinite(v) for v in value):
        raise fields.unsupported(name, value, "three finite numbers are needed")
    if positive and min(value) <= 0:
        raise fields.unsupported(name, value, "positive numbers are needed")
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
    size = fields.take("input_size", list)
    if len(size) != 3 or not all(type(n) is int and n > 0 for n in size):
        raise fields.unsupported("input_size", size, "channels, height and width are needed")
    channels, height, width = size
    if channels != 3:
        raise fields.unsupported("input_size", size, "three channels are needed")
    share = fields.take("crop_pct", float)
    if not 0 < share <= 1:
        raise fields.unsupported("crop_pct", share, "a share of 0 to 1 is needed")
    mode = fields.one_of("crop_mode", ["center", "squash"], "center")
    resample = _TIMM_FILTERS[fields.one_of("interpolation", _TIMM_FILTERS)]
    resized = (int(height / share), int(width / share))
    squashed = mode == "squash" or resized[0] != resized[1]
    if squashed and mode == "center":
        raise fields.unsupported("input_size", size, "a square is needed with crop_mode center")
    return _checked(
        Preprocessing(
            resized if squashed else resized[0],
            (height, width),
            int(resample),
            _triple(fields, "mean"),
            _triple(fields, "std", positive=True),
            rounds=True,
        ),
        fields,
    )


def _checked(found: Preprocessing, fields: Fields) -> Preprocessing:
    """Refuses to crop more than there is."""
    sides = (found.resize, found.resize) if isinstance(found.resize, int) else found.resize
    if found.crop and sides and (found.crop[0] > sides[0] or found.crop[1] > sides[1]):
        raise fields.unsupported("crop_size", found.crop, f"it must not exceed the size {found.resize}")
    return found
