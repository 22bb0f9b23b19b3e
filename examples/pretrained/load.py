"""Loads a pre-trained model from its files, and writes it back in the names, shapes and dtypes that they have."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from pretrained import big_vision, huggingface, timm
from pretrained.fields import read_json
from pretrained.files import Tensors, read_npz, read_tensors
from pretrained.model import Model
from pretrained.spec import Spec
from vision.errors import UserError
from vision.weights import model_variables

__all__ = ["Pretrained", "load", "save"]


class Scheme(Protocol):
    """A naming scheme of weights."""

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], source: str) -> Spec:
        """What a configuration says, with the tensors beside it."""
        ...

    def with_classes(self, config: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
        """The configuration of the same model with a classifier of these classes; None where the scheme has none."""
        ...


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model and where it came from.

    Attributes:
        model: The Flax NNX model.
        spec: What its configuration says.
        config: The configuration itself.
        tensors: Its tensors as they were read.
        scheme: The package of the naming scheme: it reads configurations, and gives a model other classes.
    """

    model: Model
    spec: Spec
    config: Mapping[str, Any]
    tensors: Tensors
    scheme: Scheme


def load(path: Path, *, dtype: DTypeLike = jnp.float32) -> Pretrained:
    """Loads a model from a directory or file as Hugging Face, timm or big_vision wrote it.

    Args:
        path: A directory with `config.json` and safetensors; a safetensors file beside its `config.json`; or an .npz
            file.
        dtype: Of the parameters; batch-norm statistics stay float32.

    Raises:
        UserError: The files are missing or damaged, ask for what is not supported, or do not fit each other.
    """
    if path.suffix == ".npz":
        scheme: Scheme = big_vision
        config, source, tensors = {}, path, big_vision.unstacked(read_npz(path))
    else:
        source = (path if path.is_dir() else path.parent) / "config.json"
        config, tensors = read_json(source), read_tensors(path)
        scheme = _scheme(config, source)
    spec = scheme.read(config, tensors.arrays, str(source))
    model = nnx.eval_shape(spec.build)
    fill(model, tensors, spec, dtype)
    return Pretrained(model, spec, config, tensors, scheme)


def _scheme(config: Mapping[str, Any], source: Path) -> Scheme:
    """The naming scheme of a `config.json`, by the field that every one of its library has."""
    if "model_type" in config:
        return huggingface
    if "architecture" in config:
        return timm
    raise UserError(
        f"{source}: has neither a field 'model_type', as of transformers, nor 'architecture', as of timm; give the "
        "directory of a model that one of them saved"
    )


def fill(model: Model, tensors: Tensors, spec: Spec, dtype: DTypeLike) -> None:
    """Puts the tensors into an abstract model; raises for one that is missing, not used, or of another shape."""
    variables = model_variables(model)
    names = {path: spec.name(path) for path in variables}
    arrays = tensors.arrays
    _refuse(tensors, "has no tensor", [name for name in names.values() if name not in arrays])
    unused = [name for name in arrays.keys() - names.values() if not re.fullmatch(spec.unused, name)]
    _refuse(tensors, "has a tensor that the model of its configuration has not,", unused)
    for path, variable in variables.items():
        name, shape = names[path], tuple(variable.shape)
        array = spec.layout.read(path, arrays[name], shape)
        if array.shape != shape:
            raise UserError(
                f"{tensors.source}: {name} has shape {arrays[name].shape}, which here is {array.shape}; by the "
                f"configuration it should be {shape}"
            )
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{tensors.source}: {name} has dtype {array.dtype}; floating-point numbers are needed")
        kept = np.float32 if isinstance(variable, nnx.BatchStat) else jnp.dtype(dtype)
        variable.set_value(jnp.asarray(np.array(array, kept, order="C")))


def save(pretrained: Pretrained, directory: Path, model: nnx.Module | None = None) -> None:
    """Writes a model's weights as its files had them: same names, shapes, dtypes and files.

    Args:
        pretrained: What `load` gave.
        directory: Where to; it must exist.
        model: Whose parameters to write in place of those with the same paths; by default the model itself. What the
            files have no place for is left out.
    """
    spec, tensors = pretrained.spec, pretrained.tensors
    arrays = dict(tensors.arrays)
    for path, variable in model_variables(model or pretrained.model).items():
        if (name := spec.name(path)) not in arrays:
            continue
        old = arrays[name]
        arrays[name] = spec.layout.write(path, np.asarray(variable.get_value()), old.shape).astype(old.dtype)
    tensors.write(directory, arrays)


def _refuse(tensors: Tensors, what: str, names: list[str]) -> None:
    """Raises for tensors that should or should not be there, of which it names the first three."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"{tensors.source}: {what} {', '.join(sorted(names)[:3])}{more}; download it again")
