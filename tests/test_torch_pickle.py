"""PyTorch checkpoints, good, damaged and hostile: tensors come back, or one line says why not."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from counting import count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.torch_pickle import read_state_dict

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
}
ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv.half": np.array([1.5, -2.0], np.float16),
    "conv.brain": np.array([[3.0], [0.5]], ml_dtypes.bfloat16),
    "norm.count": np.array(7, np.int64),
}


# An assembler of pickles: it writes what PyTorch writes, and what it never would.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return name_of(module, name) + tuple_of(*arguments) + b"R"


def storage(kind: str, key: str, count: int, *rest: bytes) -> bytes:
    kind_ = name_of("torch", kind)
    return tuple_of(text("storage"), kind_, text(key), text("cpu"), integer(count), *rest) + b"Q"


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    sizes = (tuple_of(*map(integer, numbers)) for numbers in (shape, stride))
    hooks = call("collections", "OrderedDict")
    arguments = (stored, integer(offset), *sizes, b"\x89", hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def document(entries: dict[str, bytes]) -> bytes:
    items = b"".join(text(name) + value for name, value in entries.items())
    metadata = b"}" + text("_metadata") + b"}s"
    return b"\x80\x02" + call("collections", "OrderedDict") + b"(" + items + b"u" + metadata + b"b."


def legacy(body: bytes, storages: dict[str, bytes], counts: dict[str, int]) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    raw = [struct.pack("<q", counts[key]) + data for key, data in storages.items()]
    return b"".join([*parts, body, pickle.dumps(list(storages), 2), *raw])


def zipped(body: bytes, storages: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("model/data.pkl", body)
        archive.writestr("model/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)
    return stream.getvalue()


def checkpoint(arrays: dict[str, np.ndarray], layout: str) -> bytes:
    kinds = {np.dtype(dtype): kind for kind, dtype in STORAGES.items()}
    entries, storages, counts = {}, {}, {}
    for index, (name, array) in enumerate(arrays.items()):
        key, rest = str(index), [b"N"] if layout == "legacy" else []
        strides = tuple(stride // array.itemsize for stride in array.strides)
        stored = storage(kinds[array.dtype], key, array.size, *rest)
        entries[name] = tensor(stored, 0, array.shape, strides)
        storages[key], counts[key] = array.tobytes("A"), array.size
    if layout == "zip":
        return zipped(document(entries), storages)
    return legacy(document(entries), storages, counts)


def one_tensor(value: bytes, size: int = 6) -> bytes:
    """A legacy file of one entry, over one storage "0" of `size` floats."""
    return legacy(document({"w": value}), {"0": bytes(4 * size)}, {"0": size})


def refused(tmp_path: Path, data: bytes, reason: str = "state dict") -> None:
    count("PyTorch checkpoints refused")
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


FLOATS = storage("FloatStorage", "0", 6, b"N")


@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_every_dtype_and_stride_is_read(tmp_path: Path, layout: str) -> None:
    arrays = ARRAYS | {"transposed": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))}
    path = tmp_path / "weights.pth"
    path.write_bytes(checkpoint(arrays, layout))
    found = read_state_dict(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


def test_a_window_on_a_shared_storage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    entries = {"row": tensor(FLOATS, 3, (3,), (1,)), "column": tensor(FLOATS, 1, (2,), (3,))}
    numbers = np.arange(6, dtype=np.float32)
    path.write_bytes(legacy(document(entries), {"0": numbers.tobytes()}, {"0": 6}))
    found = read_state_dict(path)
    assert found["row"].tolist() == [3, 4, 5]
    assert found["column"].tolist() == [1, 4]


class Marker:
    """A pickle of this creates a file when it is loaded by anything that executes it."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("layout", ["legacy", "zip"])
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_code_is_not_run(tmp_path: Path, function: Callable[..., object], layout: str, nested: bool) -> None:
    victim = tmp_path / "victim"
    code = f"touch {victim}" if function is os.system else f"__import__('os').mkdir({str(victim)!r})"
    attack = Marker(function, code)
    body = pickle.dumps({"weights": [{"deep": attack}]} if nested else attack, 2)
    pickle.loads(body)  # the attack is real: an ordinary unpickler runs it
    assert victim.exists()
    victim.unlink() if victim.is_file() else victim.rmdir()
    data = zipped(body, {}) if layout == "zip" else legacy(body, {}, {})
    refused(tmp_path, data, r"refused the global (posix|nt|builtins|__builtin__)\.")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "load"),
        ("torch", "QInt8Storage"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("vision.torch_pickle", "read_state_dict"),
        ("collections", "Counter"),
    ],
)
def test_every_other_global_is_named_and_refused(tmp_path: Path, module: str, name: str) -> None:
    refused(tmp_path, one_tensor(call(module, name)), rf"refused the global {module}\.{name}")


REBUILD, DICT = ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensor(FLOATS, 1, (2, 3), (3, 1)), "beyond its storage"),
        (tensor(FLOATS, 0, (2**40,), (0,)), "beyond its storage"),
        (tensor(FLOATS, 0, (2, 2), (2**62, 2**62)), "beyond its storage"),
        (tensor(FLOATS, -1, (2,), (1,)), "natural number"),
        (tensor(FLOATS, 4, (2,), (-1,)), "natural number"),
        (tensor(FLOATS, 0, (2, 3), (1,)), "unequal"),
        (tensor(FLOATS, 0, (1,) * 65, (1,) * 65), "65 dimensions"),
        (tensor(text("0"), 0, (2,), (1,)), "without a storage"),
        (tensor(storage("FloatStorage", "0", 7, b"N"), 0, (2,), (1,)), "not the size"),
        (tensor(storage("FloatStorage", "0", -1, b"N"), 0, (2,), (1,)), "natural number"),
        (tensor(storage("FloatStorage", "1", 6, b"N"), 0, (2,), (1,)), "storages are not"),
        (tensor(storage("FloatStorage", "0", 6, text("view")), 0, (2,), (1,)), "not a storage"),
        (tuple_of(FLOATS, storage("LongStorage", "0", 6, b"N")), "declared twice"),
        # Attributes of what the pickle is given can not be set, and no constructor is fed.
        (name_of(*REBUILD) + b"}" + text("__call__") + b"Nsb", "__dict__"),
        (name_of(*DICT) + b"}" + text("__call__") + b"Nsb", "__setstate__"),
        (call(*DICT, tuple_of(tuple_of(integer(1), integer(2)))), "__init__"),
    ],
)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(tmp_path: Path, value: bytes, reason: str) -> None:
    refused(tmp_path, one_tensor(value), reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\x96" + struct.pack("<Q", 2**60), "bytearray8"),  # would allocate 2**60 bytes
        (b"Nr" + struct.pack("<I", 2**31), "memo"),  # would allocate a memo of 2**31 entries
        # As dict keys: a tuple 200,000 deep overflows the C stack in hash(), and one that doubles
        # a hundred times takes for ever.
        (b"})" + b"\x85" * 200_000 + b"Ns", "dict key that is not a string"),
        (b"})q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100)) + b"Ns", "key"),
    ],
)
def test_pickles_that_harm_the_unpickler_itself_are_refused(tmp_path: Path, value: bytes, reason: str) -> None:
    refused(tmp_path, one_tensor(value), reason)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    body = document({"w": tensor(storage("FloatStorage", "0", 6), 0, (6,), (1,))})
    refused(tmp_path, zipped(body, {"0": bytes(24)}, method=zipfile.ZIP_DEFLATED), "compressed")
    refused(tmp_path, zipped(body, {"0": bytes(23)}), "ends before")
    refused(tmp_path, zipped(body, {}), "data/0")


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    refused(tmp_path, b"", "first bytes")
    refused(tmp_path, b"hello world", "first bytes")
    refused(tmp_path, pickle.dumps({"a": 1}, 2), "first bytes")
    refused(tmp_path, legacy(pickle.dumps([1], 2), {}, {}), "holds a list")
    refused(tmp_path, legacy(document({"epoch": integer(3)}), {}, {}), "'epoch' is not a tensor")
    with pytest.raises(UserError, match=r"none\.pth: cannot be read"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path, layout: str) -> None:
    data = checkpoint(ARRAYS, layout)
    for length in range(0, len(data), 7):
        refused(tmp_path, data[:length])
    refused(tmp_path, data[:-1])


@pytest.mark.parametrize("layout", ["legacy", "zip"])
@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_file_is_read_or_refused(tmp_path: Path, layout: str, edits: list[tuple[int, int]]) -> None:
    count("mutated PyTorch checkpoints")
    data = bytearray(checkpoint(ARRAYS, layout))
    for position, value in edits:
        data[position % len(data)] = value
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    try:
        found = read_state_dict(path)
    except UserError:  # any other exception fails the test
        return
    assert sum(array.nbytes for array in found.values()) <= len(data)
