"""Files that somebody else made to do harm: nothing runs, nothing is written or read elsewhere, memory is bounded."""

import functools
import io
import json
import operator
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from counting import count
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_torch_pickle import Marker, document, legacy, storage, tensor, zipped

from predict import load_model, weights_file
from vision import weights
from vision.config import load_config, parse_config
from vision.errors import UserError
from vision.folders import read_image
from vision.torch_pickle import read_state_dict

FUZZ = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(kind, call, *words):
    """One line that says what is wrong, and no other exception."""
    count(f"{kind} refused")
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


# Pickles that run code

GADGETS = {
    "system": lambda at: Marker(os.system, f"touch {at}"),
    "eval": lambda at: Marker(eval, f"open({str(at)!r}, 'w')"),
    "exec": lambda at: Marker(exec, f"open({str(at)!r}, 'w').close()"),
    "open": lambda at: Marker(open, str(at), "w"),
    "mkdir": lambda at: Marker(os.mkdir, str(at)),
    "popen": lambda at: Marker(subprocess.check_call, ["touch", str(at)]),
    "partial": lambda at: Marker(functools.partial(os.mkdir, str(at))),
    "methodcaller": lambda at: Marker(operator.methodcaller("touch"), Path(at)),
    "numpy": lambda at: Marker(np.save, str(at), 1),
}


@pytest.mark.parametrize("gadget", GADGETS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_runs_code(tmp_path, gadget, protocol):
    victim = tmp_path / "victim"
    for place in (lambda x: x, lambda x: {"w": x}, lambda x: {"w": [(x,)]}):
        body = pickle.dumps(place(GADGETS[gadget](victim)), protocol)
        for data in (legacy(body, {}, {}), zipped(body, {})):
            path = tmp_path / "weights.pth"
            path.write_bytes(data)
            refused("pickles that run code", lambda path=path: read_state_dict(path), "weights.pth")
            assert not victim.exists()


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_bytes_that_are_no_pickle_are_refused(tmp_path, body, as_zip):
    path = tmp_path / "weights.pth"
    path.write_bytes(zipped(body, {}) if as_zip else legacy(body, {}, {}))
    refused("files of random bytes", lambda: read_state_dict(path))


# Archives that name files elsewhere


@pytest.mark.parametrize(
    "name", ["../evil", "../../../evil", "/evil", "model/../../evil", "C:\\evil", "model/data/../../evil"]
)
def test_archives_write_nothing_and_read_nothing_outside(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("model/data.pkl", document({"w": tensor(storage("FloatStorage", name, 6), 0, (6,), (1,))}))
        archive.writestr(name, bytes(24))
        link = zipfile.ZipInfo("model/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../../secret")
    path = inside / "weights.pth"
    path.write_bytes(stream.getvalue())
    before = sorted(tmp_path.rglob("*"))
    refused("archives with paths elsewhere", lambda: read_state_dict(path))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_storage_key_is_no_path_on_disk(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(24))
    for key in ("../secret", str(tmp_path / "secret"), "../../secret"):
        body = document({"w": tensor(storage("FloatStorage", key, 6), 0, (6,), (1,))})
        path = tmp_path / "weights.pth"
        path.write_bytes(zipped(body, {"0": bytes(24)}))
        refused("archives with paths elsewhere", lambda path=path: read_state_dict(path))


# Run directories and weights that name files elsewhere, or sizes without end


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with a configuration, to be spoilt."""
    config = parse_config(("--smallest", "--out", str(tmp_path / "run")))
    (tmp_path / "run" / "weights").mkdir(parents=True)
    return tmp_path / "run", config.to_json()


SPOILT = {
    "methods": ["../../evil", "/evil", "ftp,../evil", "", 3, None, ["ftp"]],
    "model": ["../evil", None, 3, "resnet"],
    "epochs": [0, -1, "3", 1e300, None, True],
    "batch_size": [0, -1, "x"],
    "lr": [-1.0, "x", None],
    "radii_lr": [-1.0, "x", None, True],
    "dtype": ["object", "float128", None],
    "seed": [-1, 2**31, "x"],
    "wise_alpha": [2.0, "x"],
    "image_size": [4, -1, "x", 10**6],
    "ood": [3, [3], [["x"]], "x"],
    "smallest": ["yes", 3],
    "train": [3, "without validation images"],
    "dataset": [3, ["x"]],
    "id": [3, ["x"]],
    "val_fraction": [0, 0.5, "x", True],
    "class_map": [3, {}],
    "ood_subset": ["yes", 3, None],
}


@pytest.mark.parametrize("field", SPOILT)
def test_a_foreign_configuration_is_checked_like_a_command_line(run_dir, field):
    root, config = run_dir
    for value in SPOILT[field]:
        (root / "config.json").write_text(json.dumps({**config, field: value}))
        refused("configurations", lambda: load_config(root), "config.json")
        refused("configurations", lambda: parse_config(("--out", str(root), "--resume")))
        refused("configurations", lambda: weights_file(root))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"methods": "ftp"}', "[" * 100_000, '{"a":' * 100_000])
def test_a_configuration_that_is_none_is_named(run_dir, text):
    root, _ = run_dir
    (root / "config.json").write_text(text)
    refused("configurations", lambda: load_config(root), "config.json")


METADATA = {"model": "small-cnn", "classes": '["a", "b"]', "image_size": "16"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("classes", text) for text in ("", "3", "{", '"ab"', "[1, 2]", "null", '{"a": 1}', "[" * 50_000, "[]")),
        *(("image_size", text) for text in ("", "x", "-1", "0", "1000000000", "9" * 5000, "16.0")),
        *(("model", text) for text in ("", "../evil", "os.system", "SmallCNN")),
    ],
)
def test_metadata_of_foreign_weights_is_checked(tmp_path, key, value):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(2, np.float32)}, METADATA | {key: value}))
    refused("weights with hostile metadata", lambda: load_model(path), "w.safetensors")


# safetensors


def header(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_HEADERS = {
    "length beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "length of all ones": b"\xff" * 16,
    "no header": struct.pack("<Q", 0),
    "not JSON": header(b"{'a': 1}"),
    "not a mapping": header([1]),
    "deep": header(b"[" * 100_000),
    "offsets beyond the file": header({"a": {**ENTRY, "data_offsets": [0, 2**40]}}, bytes(8)),
    "offsets turned": header({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)),
    "offsets negative": header({"a": {**ENTRY, "data_offsets": [-8, 0]}}, bytes(8)),
    "overlap": header({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "hole": header({"a": {**ENTRY, "data_offsets": [8, 16]}}, bytes(16)),
    "shape beyond the data": header({"a": {**ENTRY, "shape": [2**40]}}, bytes(8)),
    "shape that overflows": header({"a": {**ENTRY, "shape": [2**32, 2**32]}}, bytes(8)),
    "shape negative": header({"a": {**ENTRY, "shape": [-2]}}, bytes(8)),
    "dtype unknown": header({"a": {**ENTRY, "dtype": "O8"}}, bytes(8)),
    "more data": header({"a": ENTRY}, bytes(1000)),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_safetensors_headers_are_checked(tmp_path, case):
    path = tmp_path / "w.safetensors"
    path.write_bytes(BAD_HEADERS[case])
    refused("safetensors headers", lambda: weights.load_safetensors(path), "w.safetensors")
    refused("safetensors headers", lambda: weights.load_metadata(path), "w.safetensors")


# Orbax


@pytest.fixture(scope="module")
def orbax_files(tmp_path_factory):
    """A checkpoint of one array, as paths and bytes."""
    root = tmp_path_factory.mktemp("orbax") / "checkpoint"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(root, {"scale": np.arange(300, dtype=np.float32)})
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@settings(FUZZ, max_examples=40)
@given(data=st.data())
def test_a_mutated_orbax_checkpoint_is_read_or_refused(tmp_path_factory, orbax_files, data):
    count("mutated Orbax checkpoints")
    root = tmp_path_factory.mktemp("mutated") / "checkpoint"
    victim = data.draw(st.sampled_from(sorted(orbax_files)))
    for name, content in orbax_files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        spoilt = bytearray(content)
        if name == victim:
            for _ in range(data.draw(st.integers(1, 4))):
                spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        (root / name).write_bytes(spoilt)
    try:
        found = weights.load_orbax(root)
    except UserError:  # any other exception fails the test
        return
    assert sum(np.asarray(x).nbytes for x in found.values()) <= 1200


# Image bombs: a few bytes that promise billions of pixels


def png(width, height, *chunks):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = (*(chunk(*c) for c in chunks), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + size + b"".join(parts)


def gif(width, height):
    screen = struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02D\x01\0;"


def bmp(width, height):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + info


def tiff(width, height):
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 10))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


BOMBS = {
    "png": png(100_000, 100_000),
    "png of the largest size": png(2**31 - 1, 2**31 - 1),
    "png with text": png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
    "gif": gif(65535, 65535),
    "bmp": bmp(90_000, 90_000),
    "tiff": tiff(100_000, 100_000),
    "ppm": b"P6\n100000 100000\n255\n",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_image_bombs_are_refused(tmp_path, kind):
    path = tmp_path / "bomb.png"
    path.write_bytes(BOMBS[kind])
    assert len(BOMBS[kind]) < 250_000
    refused("image bombs", lambda: read_image(path, 16), "bomb.png")
