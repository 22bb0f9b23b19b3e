"""Reads PyTorch checkpoints without PyTorch, and without trusting them.

A `.pth` file is a pickle, and an ordinary unpickler runs whatever code a pickle names. Here a pickle
passes two gates: its opcodes are read first and only those that a state dict needs are let through,
then an unpickler builds it that knows three names (`OrderedDict`, the tensor's rebuild function,
the storage types) and gives none of them as the real Python object. Every count, offset and stride
is checked against the bytes that are there. Tensors come back as read-only views of the file's
bytes, so that a small file cannot ask for a large allocation.

Both layouts are read: the stream of pickles and raw storages that PyTorch wrote before 1.6, and
the zip archive since.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from vision.errors import UserError
from vision.pickle_opcodes import check_opcodes

_LEGACY_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_PROTOCOL = 1001

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

_MAX_DIMENSIONS = 64  # NumPy's


class _Storage(NamedTuple):
    """A storage as the pickle declares it; its bytes lie elsewhere in the file."""

    dtype: np.dtype
    key: str
    size: int


class _Tensor(NamedTuple):
    """A tensor as the pickle declares it: a strided window on a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the state dict in a PyTorch checkpoint, in PyTorch's names and layouts.

    Args:
        path: a file written by `torch.save(model.state_dict(), path)`, of either file format.

    Returns:
        The tensors by name, read-only, possibly strided and unaligned.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors by name.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a .pth file") from error
    try:
        return _read(data)
    except Exception as error:  # a damaged pickle can raise anything at all
        reason = " ".join(str(error).encode("ascii", "backslashreplace").decode().split())
        raise UserError(
            f"{path}: not a PyTorch state dict that can be read safely "
            f"({reason[:200] or type(error).__name__}); "
            "save it anew with torch.save(model.state_dict(), ...), or download it again"
        ) from error


def _read(data: bytes) -> dict[str, np.ndarray]:
    if data.startswith(_ZIP_MAGIC):
        entries, storages = _read_zip(data)
    elif data.startswith(_LEGACY_MAGIC):
        entries, storages = _read_legacy(data)
    else:
        raise ValueError("the first bytes are those of no PyTorch checkpoint")
    if not isinstance(entries, Mapping):
        raise ValueError(f"it holds a {type(entries).__name__}, not tensors by name")
    for name, tensor in entries.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ValueError(f"the entry {str(name)[:80]!r} is not a tensor")
    return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in entries.items()}


def _read_legacy(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Reads magic, protocol, system, object and key pickles, then the storages in key order."""
    declared: dict[str, _Storage] = {}
    position = len(_LEGACY_MAGIC)
    protocol, position = _load_pickle(data, position, declared)
    system, position = _load_pickle(data, position, declared)
    if protocol != _LEGACY_PROTOCOL or system.get("little_endian") is not True:
        raise ValueError("unknown protocol or byte order")
    entries, position = _load_pickle(data, position, declared)
    keys, position = _load_pickle(data, position, {})
    if not all(type(key) is str for key in keys) or sorted(keys) != sorted(declared):
        raise ValueError("its storages are not those that its tensors name")
    storages = {}
    for key in keys:
        count = declared[key].size
        size = count * declared[key].dtype.itemsize
        if int.from_bytes(data[position : position + 8], "little") != count:
            raise ValueError(f"storage {key[:40]!r} has not the size that is declared")
        storages[key] = _slice(data, position + 8, size)
        position += 8 + size
    return entries, storages


def _read_zip(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Reads `*/data.pkl` and the records `*/data/KEY` that it names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        # Stored and no larger together than the file: overlapping or compressed entries, which
        # make zip bombs, are nothing that PyTorch writes.
        stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
        if not stored or sum(info.file_size for info in infos) > len(data):
            raise ValueError("its records are compressed or overlap")
        names = [info.filename for info in infos]
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it has not exactly one data.pkl")
        if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
            raise ValueError("unknown byte order")
        declared: dict[str, _Storage] = {}
        entries, _ = _load_pickle(archive.read(f"{roots[0]}data.pkl"), 0, declared)
        storages = {}
        for key, storage in declared.items():
            record = archive.read(f"{roots[0]}data/{key}")
            storages[key] = _slice(record, 0, storage.size * storage.dtype.itemsize)
    return entries, storages


def _slice(data: bytes, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise ValueError("it ends before its last tensor")
    return memoryview(data)[start : start + size]


def _view(tensor: _Tensor, storage: memoryview) -> np.ndarray:
    """Lays the tensor's window over its storage, in exact integers: NumPy's own check overflows."""
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    dtype = tensor.storage.dtype
    if count == 0:
        return np.zeros(tensor.shape, dtype)
    # A stride of 0 may repeat elements, but not make a tensor larger than what is stored.
    if max(last + 1, count) > tensor.storage.size:
        raise ValueError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    strides = tuple(s * dtype.itemsize if n > 1 else 0 for n, s in zip(*tensor[2:], strict=True))
    offset = tensor.offset * dtype.itemsize
    return np.ndarray(tensor.shape, dtype, storage, offset, strides)


def _load_pickle(data: bytes, start: int, declared: dict[str, _Storage]) -> tuple[Any, int]:
    """Loads the pickle that begins at `start`; returns its object and where it ends."""
    end = check_opcodes(data, start)
    return _Unpickler(data[start:end], declared).load(), end


class _StateDict(dict):
    """Stands for OrderedDict; drops the attributes (`_metadata`) that a pickle would set on it."""

    __slots__ = ()

    def __init__(self) -> None:  # no pairs, whose keys would not have been checked
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _StorageType(NamedTuple):
    """Stands for a storage type: a dtype, not callable and without attributes to set."""

    dtype: np.dtype


class _RebuildTensor:
    """Stands for `_rebuild_tensor_v2`: an object, since a function's attributes could be set."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> _Tensor:
        numbers = (offset, *shape, *stride)
        if not isinstance(storage, _Storage) or len(shape) != len(stride):
            raise ValueError("a tensor without a storage, or of unequal shape and stride")
        if len(shape) > _MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(shape)} dimensions")
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a tensor whose offset, shape or stride is not a natural number")
        return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _RebuildParameter:
    """Stands for `_rebuild_parameter`: the tensor itself."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_: object) -> _Tensor:
        if not isinstance(tensor, _Tensor):
            raise ValueError("a parameter that is not a tensor")
        return tensor


_GLOBALS: dict[tuple[str, str], type[_StateDict] | Callable[..., _Tensor]] = {
    ("collections", "OrderedDict"): _StateDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


class _Unpickler(pickle.Unpickler):
    """Builds `_StateDict`s of `_Tensor`s and notes the storages they name; refuses all else."""

    def __init__(self, data: bytes, declared: dict[str, _Storage]) -> None:
        super().__init__(io.BytesIO(data))
        self._declared = declared

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        if module == "torch" and name in _DTYPES:
            return _StorageType(_DTYPES[name])
        raise ValueError(f"refused the global {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count, *view = pid
        named = kind == "storage" and isinstance(storage_type, _StorageType)
        if not named or view not in ([], [None]) or type(key) is not str:
            raise ValueError("refused a persistent object that is not a storage")
        if type(count) is not int or count < 0:
            raise ValueError("a storage whose size is not a natural number")
        storage = _Storage(storage_type.dtype, key, count)
        if self._declared.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key[:40]!r} is declared twice, differently")
        return storage
