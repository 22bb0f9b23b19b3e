"""Tensors in files as they came: one safetensors file, several with an index, or NumPy's .npz; and back."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from pretrained.fields import read_json
from vision.errors import UserError
from vision.files import atomic_write, replacing
from vision.weights import load_safetensors

__all__ = ["WHOLE", "Tensors", "read_npz", "read_tensors"]

_ONE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
WHOLE = (_ONE, _INDEX)
"""What a directory with all weights of a model has, one of the two."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model, and how they lie in files.

    Attributes:
        source: The file or directory, for messages.
        arrays: By name, in the dtypes of the file.
        files: The names of the tensors in each file, by the file's name.
        metadata: The strings in each file's header.
        index: The content of the index of several files.
        stacks: The name in the file of each tensor that is a part of one there, stacked along the first axis.
    """

    source: Path
    arrays: dict[str, np.ndarray]
    files: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    index: Mapping[str, object] | None = None
    stacks: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str], added: Mapping[str, np.ndarray]) -> "Tensors":
        """The tensors with other names, those without a new one left out, and others added to the last file."""
        files = {file: tuple(names[t] for t in tensors if t in names) for file, tensors in self.files.items()}
        last = next(reversed(files))
        files[last] = (*files[last], *added)
        arrays = {new: self.arrays[old] for old, new in names.items()} | dict(added)
        index = self.index
        if index is not None:
            size = sum(array.nbytes for array in arrays.values())
            places = {tensor: file for file, tensors in files.items() for tensor in tensors}
            index = {"metadata": {"total_size": size}, "weight_map": places}
        return replace(self, arrays=arrays, files=files, index=index)

    def write(self, directory: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes tensors of the same names to files of the same names and format, each file whole or not at all."""
        for name, tensors in self.files.items():
            part = {tensor: np.array(arrays[tensor], order="C") for tensor in tensors}
            if name.endswith(".npz"):
                with replacing(directory / name) as path:
                    np.savez(path, **self._stacked(part))  # pyright: ignore[reportArgumentType]
            else:
                # the writer for JAX's arrays takes bfloat16, NumPy's does not
                data = safetensors.flax.save(part, dict(self.metadata[name]) or None)  # pyright: ignore[reportArgumentType]
                atomic_write(directory / name, data)
        if self.index is not None:
            atomic_write(directory / _INDEX, (json.dumps(self.index, indent=2, sort_keys=True) + "\n").encode())

    def _stacked(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays as the file has them."""
        parts: dict[str, list[np.ndarray]] = {}
        for name, array in arrays.items():
            parts.setdefault(self.stacks.get(name, name), []).append(array)
        stacks = set(self.stacks.values())
        return {name: np.stack(each) if name in stacks else each[0] for name, each in parts.items()}


def read_tensors(path: Path) -> Tensors:
    """Reads the tensors of a directory as `save_pretrained` writes it, or of one safetensors file.

    Raises:
        UserError: A file is missing or damaged, or the index does not fit the files.
    """
    if path.is_file():
        return _read(path.parent, {path.name: None}, None, path)
    if (path / _ONE).exists():
        return _read(path, {_ONE: None}, None, path / _ONE)
    if not (path / _INDEX).exists():
        others = [name for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack") if (path / name).exists()]
        why = f"has {others[0]}; save it again with safe_serialization=True" if others else "has none of the two"
        raise UserError(f"{path}: needs {_ONE} or {_INDEX}; it {why}")
    index = read_json(path / _INDEX)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) and "/" not in v for v in places.values()):
        raise UserError(f"{path / _INDEX}: has no 'weight_map' from tensors to files; download it again")
    files = {name: {t for t, f in places.items() if f == name} for name in sorted(set(places.values()))}
    return _read(path, files, index, path / _INDEX)


def _read(
    directory: Path, files: Mapping[str, set[str] | None], index: Mapping[str, object] | None, source: Path
) -> Tensors:
    """Reads files, each of which must hold just the tensors that the index says."""
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, tuple[str, ...]] = {}
    metadata: dict[str, dict[str, str]] = {}
    for name, expected in files.items():
        part = load_safetensors(directory / name)
        if expected is not None and expected ^ part.keys():
            odd = min(expected ^ part.keys())
            raise UserError(f"{directory / name}: does not fit {source.name}, which differs in {odd!r}")
        arrays |= part
        found[name] = tuple(part)
        with safetensors.safe_open(directory / name, "numpy") as file:
            metadata[name] = dict(file.metadata() or {})
    return Tensors(source, arrays, found, metadata, index)


def read_npz(path: Path) -> Tensors:
    """Reads NumPy's archive of arrays.

    Raises:
        UserError: The file is missing or damaged, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: _typed(file[name]) for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; check the path") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: not a readable .npz file ({error}); download it again") from None
    return Tensors(path, arrays, {path.name: tuple(arrays)})


def _typed(array: np.ndarray) -> np.ndarray:
    """NumPy has no bfloat16: it writes JAX's as two bytes without a type."""
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array
