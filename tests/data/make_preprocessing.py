"""Write what the image processors of transformers and the transforms of timm make of one image.

python tests/data/make_preprocessing.py    # torch, torchvision, transformers and timm; the directory preprocessing
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import timm
from PIL import Image
from transformers import AutoImageProcessor

DIRECTORY = Path(__file__).parent / "preprocessing"
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OLD = {"do_normalize": True, "do_resize": True}
CROPPED = {"size": {"shortest_edge": 20}, "crop_size": {"height": 15, "width": 15}}
TRANSFORMERS = {
    # as versions before 4.26 wrote them: a number for a size, another name
    "clip-old": {**OLD, **HALF, "feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "resample": 3}
    | {"crop_size": 16, "do_center_crop": True},
    "vit-old": {**OLD, **HALF, "feature_extractor_type": "ViTFeatureExtractor", "size": 16, "resample": 2},
    "convnext-old": {**OLD, **IMAGENET, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 16}
    | {"crop_pct": 0.8, "resample": 3},
    "deit-old": {**OLD, **IMAGENET, "feature_extractor_type": "DeiTFeatureExtractor", "size": 20, "resample": 3}
    | {"crop_size": 15, "do_center_crop": True},
    "clip": {**HALF, **CROPPED, "image_processor_type": "CLIPImageProcessor", "resample": 3, "do_rescale": True},
    # what is absent has the processor's own value
    "clip-short": {**HALF, **CROPPED, "image_processor_type": "CLIPImageProcessor"},
    "vit-short": {**HALF, "image_processor_type": "ViTImageProcessor", "size": {"height": 14, "width": 18}},
    "siglip-short": {**HALF, "image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
    "bit-short": {**IMAGENET, **CROPPED, "image_processor_type": "BitImageProcessor"},
    "deit-short": {**HALF, "image_processor_type": "DeiTImageProcessor"}
    | {"size": {"height": 20, "width": 20}, "crop_size": {"height": 15, "width": 16}},
    "convnext-short": {**HALF, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 17}}
    | {"resample": 3},  # versions of transformers differ in its own value
    "siglip-number": {**HALF, "image_processor_type": "SiglipImageProcessor", "size": 16},
    "vit-number": {**HALF, "image_processor_type": "ViTImageProcessor", "size": 16, "default_to_square": False},
    "bit": {
        **IMAGENET,
        **CROPPED,
        "image_processor_type": "BitImageProcessorFast",
        "resample": 3,
        "do_convert_rgb": True,
    },
    "siglip-plain": {**HALF, "image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}}
    | {"resample": 2, "do_normalize": False, "do_convert_rgb": None},
    "vit-no-rescale": {**HALF, "image_processor_type": "ViTImageProcessorFast", "size": {"height": 16, "width": 16}}
    | {"resample": 0, "do_rescale": False, "default_to_square": True, "device": None, "data_format": "channels_first"},
    "vit-factor": {**HALF, "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    | {"resample": 1, "rescale_factor": 0.5},
    "clip-no-resize": {**HALF, "image_processor_type": "CLIPImageProcessor", "do_resize": False}
    | {"crop_size": {"height": 16, "width": 15}, "size": {"shortest_edge": 20}},
    "convnext-warped": {**HALF, "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}
    | {"resample": 0},
}
TIMM = {
    "crop": {"crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "center"},
    "odd-margin": {"crop_pct": 0.85, "interpolation": "bilinear", "crop_mode": "center"},  # 19, so 1.5 at each end
    "whole": {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center"},
    "squash": {"crop_pct": 0.84, "interpolation": "bicubic", "crop_mode": "squash"},
    "squash-whole": {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash"},
    "rectangle": {"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash", "input_size": [3, 12, 16]},
    "lanczos": {"crop_pct": 0.95, "interpolation": "lanczos", "crop_mode": "center"},
    "short": {"crop_pct": 0.875, "interpolation": "bicubic"},
}


def by_transformers(config: dict, image: Image.Image) -> np.ndarray:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "preprocessor_config.json").write_text(json.dumps(config))
        # the processors on Pillow, as those of versions before 5
        processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    return processor(image, return_tensors="np")["pixel_values"][0]


def by_timm(config: dict, image: Image.Image) -> np.ndarray:
    options = timm.data.resolve_data_config(pretrained_cfg=config)
    return timm.data.create_transform(**options, is_training=False)(image).numpy()


def main() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((53, 38), Image.Resampling.BICUBIC)
    DIRECTORY.mkdir(exist_ok=True)
    noise.save(DIRECTORY / "image.png")
    tall = noise.transpose(Image.Transpose.ROTATE_90)
    given = {"input_size": [3, 16, 16], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    configs = {f"transformers/{name}": config for name, config in TRANSFORMERS.items()}
    configs |= {f"timm/{name}": given | config for name, config in TIMM.items()}
    arrays = {}
    for name, config in configs.items():
        make = by_timm if name.startswith("timm/") else by_transformers
        for turned, image in (("wide", noise), ("tall", tall)):
            made = make(config, image)
            # what is warped to 384 is itself again from every 16th pixel
            arrays[f"{name}/{turned}"] = made[:, ::16, ::16] if "warped" in name else made
    (DIRECTORY / "configs.json").write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(DIRECTORY / "expected.npz", **arrays)
    for name, array in arrays.items():
        print(name, array.shape)


if __name__ == "__main__":
    main()
