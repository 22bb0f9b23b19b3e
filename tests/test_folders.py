"""The user's own folders: what is read, and every way in which they can be wrong."""

import io
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from counting import count
from image_trees import make_domain, picture
from PIL import Image

from vision.errors import UserError
from vision.folders import SUFFIXES, folder_task, read_image

CLASSES = ("cat", "dog", "émeu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    return {name: make_domain(tmp_path / name, CLASSES) for name in ("train", "val", "sketch")}


def build(folders: dict[str, Path], **options):
    return folder_task(folders["train"], folders["val"], {"sketch": folders["sketch"]}, 16, **options)


def error_of(folders: dict[str, Path]) -> str:
    count("damaged images and folders refused")
    with pytest.raises(UserError) as caught:
        build(folders)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# What is read


def test_a_task_of_folders(folders):
    task = build(folders)
    assert task.classes == CLASSES
    assert (task.name, task.image_size, task.pretrain) == ("folders", 16, None)
    assert task.id_test is task.validation
    assert (list(task.ood), task.ood_groups) == (["sketch"], {"all": ("sketch",)})
    for domain in (task.train, task.validation, task.ood["sketch"]):
        assert len(domain) == 6
        assert domain.labels.dtype == np.int32
        assert domain.labels.tolist() == [0, 0, 1, 1, 2, 2]
    example = task.train[3]
    assert example["label"] == 1
    np.testing.assert_array_equal(example["image"], read_image(folders["train"] / "dog" / "1.png", 16))


def test_test_images_apart_from_validation(folders, tmp_path):
    test = make_domain(tmp_path / "test", CLASSES, images=1)
    task = build(folders, test=test)
    assert (len(task.validation), len(task.id_test), task.id_test.name) == (6, 3, "test")
    shutil.rmtree(test / "dog")
    with pytest.raises(UserError, match="test does not have the class folders of"):
        build(folders, test=test)


def test_no_ood_folders_are_fine(folders):
    task = folder_task(folders["train"], folders["val"], {}, 16)
    assert (task.ood, task.ood_groups) == ({}, {})


def test_progress_is_told_until_all_images_are_checked(folders, monkeypatch):
    monkeypatch.setattr("vision.checks._IMAGES_BETWEEN_CALLS", 8)
    told = []
    build(folders, on_checked=lambda done, total: told.append((done, total)))
    assert told == [(8, 18), (16, 18), (18, 18)]


def test_hidden_and_other_files_are_ignored(folders):
    for place in (folders["train"], folders["train"] / "cat"):
        (place / "README.md").write_text("not an image")
        (place / ".DS_Store").write_bytes(b"\0")
        (place / "._0.png").write_bytes(b"\0")
        (place / ".thumbnails").mkdir()
    assert len(build(folders).train) == 6


@pytest.mark.parametrize("suffix", sorted(SUFFIXES | {".PNG", ".JpG"}))
def test_every_documented_suffix_is_read(folders, suffix):
    picture().save(folders["train"] / "cat" / f"one more{suffix}")
    assert len(build(folders).train) == 7


def test_links_are_followed(folders, tmp_path):
    elsewhere = shutil.move(folders["train"] / "cat", tmp_path / "elsewhere")
    (folders["train"] / "cat").symlink_to(elsewhere)
    (folders["train"] / "dog" / "link.png").symlink_to(Path(elsewhere) / "0.png")
    assert len(build(folders).train) == 7


def test_composed_and_decomposed_accents_are_the_same_class(folders):
    composed = folders["val"] / "émeu"
    composed.rename(composed.with_name(unicodedata.normalize("NFD", "émeu")))
    assert build(folders).classes == CLASSES


# How an image is read


def gradient(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards."""
    rows, columns = np.indices((height, width))
    channels = (columns * 255 // (width - 1), rows * 255 // (height - 1), np.full_like(rows, 100))
    return np.stack(channels, axis=-1).astype(np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "image.png", **options) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("size", [8, 16, 31])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5, 5), (100, 3)])
def test_every_shape_becomes_a_square(tmp_path, shape, size):
    image = read_image(saved(tmp_path, picture(shape)), size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)


def test_an_image_of_the_right_size_is_unchanged(tmp_path):
    image = picture((16, 16))
    np.testing.assert_array_equal(read_image(saved(tmp_path, image), 16), np.asarray(image))


def test_the_shorter_side_is_resized_and_the_middle_is_kept(tmp_path):
    image = read_image(saved(tmp_path, Image.fromarray(gradient(200, 100))), 20).astype(int)
    assert abs(image[10, :, 0].min() - 255 * 0.25) < 10  # red: the middle half of the width
    assert abs(image[10, :, 0].max() - 255 * 0.75) < 10
    assert image[:, 10, 1].min() < 10  # green: the whole height
    assert image[:, 10, 1].max() > 245


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    upright = Image.fromarray(gradient(64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    path = saved(tmp_path, upright.rotate(90, expand=True), f"turned{suffix}", exif=exif)
    shown = read_image(path, 32).astype(int)
    expected = read_image(saved(tmp_path, upright), 32)
    assert np.abs(shown - expected).mean() < 6


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_white(tmp_path, mode):
    image = Image.new(mode, (16, 16))  # all zero: black, and transparent
    options = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
    name = "image.tif" if mode == "PA" else "image.png"
    assert (read_image(saved(tmp_path, image, name, **options), 16) == 255).all()


def test_half_transparent_is_blended(tmp_path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert np.unique(read_image(saved(tmp_path, image), 16)).tolist() == [127]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    grey = Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode)
    image = read_image(saved(tmp_path, grey, "image.tif", compression="tiff_lzw"), 16)
    assert image.shape == (16, 16, 3)
    assert image.min() > 250


def test_16_bit_grey_keeps_its_values(tmp_path):
    values = np.full((16, 16), 100 * 256 + 7, np.uint16)
    assert np.unique(read_image(saved(tmp_path, Image.fromarray(values)), 16)).tolist() == [100]


def test_a_large_jpeg_decoded_at_a_fraction_looks_like_the_whole(tmp_path):
    image = Image.fromarray(gradient(640, 640))
    from_jpeg = read_image(saved(tmp_path, image, "large.jpg", quality=95), 32).astype(int)
    assert np.abs(from_jpeg - read_image(saved(tmp_path, image), 32)).max() < 8


# What can be wrong


@pytest.mark.parametrize("which", ["train", "val", "sketch"])
def test_missing_folder(folders, which):
    shutil.rmtree(folders[which])
    assert error_of(folders) == f"{folders[which]} does not exist: check the path."


def test_a_file_where_a_folder_should_be(folders, tmp_path):
    folders["val"] = tmp_path / "val.zip"
    folders["val"].touch()
    assert error_of(folders).startswith(f"{folders['val']} is not a folder")


@pytest.mark.parametrize("which", ["train", "val", "sketch"])
def test_no_class_folders(folders, which):
    shutil.rmtree(folders[which])
    folders[which].mkdir()
    assert error_of(folders).startswith(f"{folders[which]} has no class folders")


def test_images_directly_in_the_folder(folders):
    stray = saved(folders["val"], picture())
    assert error_of(folders).startswith(f"{stray} is in no class folder: put it into a sub-folder of {folders['val']}")


@pytest.mark.parametrize("left", ["nothing", "a text"])
def test_a_class_folder_without_images(folders, left):
    empty = folders["sketch"] / "dog"
    for path in empty.iterdir():
        path.unlink()
    if left == "a text":
        (empty / "labels.csv").touch()
    assert error_of(folders).startswith(f"{empty} has no images (.bmp, ")


def test_folders_in_class_folders(folders):
    (folders["train"] / "cat" / "siamese").mkdir()
    assert error_of(folders).startswith(f"{folders['train'] / 'cat' / 'siamese'} is a folder inside a class folder")


def test_a_folder_one_level_too_high(folders, tmp_path):
    folders["train"] = tmp_path
    assert "is a folder inside a class folder" in error_of({**folders, "val": tmp_path, "sketch": tmp_path})


def test_a_single_class(tmp_path):
    root = make_domain(tmp_path / "one", classes=("cat",))
    with pytest.raises(UserError, match=r"has only one class folder \(cat\)"):
        folder_task(root, root, {}, 16)


@pytest.mark.parametrize("which", ["val", "sketch"])
def test_classes_that_differ(folders, which):
    (folders[which] / "dog").rename(folders[which] / "Dog")
    message = error_of(folders)
    assert message.startswith(f"{folders[which]} does not have the class folders of {folders['train']}")
    assert "it lacks 'dog' and has the extra 'Dog';" in message


def test_many_missing_classes_are_shortened(tmp_path):
    train = make_domain(tmp_path / "train", classes=[f"c{i:02}" for i in range(12)], images=1)
    val = make_domain(tmp_path / "val", classes=["c00"], images=1)
    with pytest.raises(UserError, match="lacks 'c01', 'c02', 'c03', 'c04', 'c05' and others; rename"):
        folder_task(train, val, {}, 16)


def test_one_class_name_in_two_encodings(folders):
    make_domain(folders["train"], classes=[unicodedata.normalize("NFD", "émeu")])
    assert "but for its encoding: merge the two" in error_of(folders)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"BM"])
def test_a_file_that_is_no_image(folders, content):
    bad = folders["val"] / "cat" / "bad.png"
    bad.write_bytes(content)
    assert error_of(folders).startswith(f"{bad} ")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".gif"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_image(folders, suffix, kept):
    bad = saved(folders["sketch"] / "dog", picture((64, 64)), f"bad{suffix}")
    content = bad.read_bytes()
    bad.write_bytes(content[: int(kept * len(content))])
    message = error_of(folders)
    assert message.startswith(f"{bad} ")
    ways_out = ("replace it or remove it", "remove it or save it as PNG or JPEG")
    assert message.endswith(tuple(f"{way_out}; --on-bad-image skip passes over it." for way_out in ways_out))


def test_the_first_of_many_bad_images_is_named(folders):
    for name in ("b.png", "a.png", "c.png"):
        (folders["train"] / "dog" / name).write_bytes(b"bad")
    assert error_of(folders).startswith(f"{folders['train'] / 'dog' / 'a.png'} is not an image")


@pytest.mark.parametrize("pixels", [10**8, 10**9, 4 * 10**9])
def test_a_decompression_bomb(folders, pixels):
    # A PNG whose header alone promises the pixels.
    buffer = io.BytesIO()
    picture((1, 1)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = struct.pack(">II", pixels // 10**4, 10**4)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    bomb = folders["train"] / "cat" / "bomb.png"
    bomb.write_bytes(content)
    assert error_of(folders) == (
        f"{bomb} has more than 89 million pixels: shrink it or remove it; --on-bad-image skip passes over it."
    )


def test_a_link_to_nothing(folders):
    link = folders["train"] / "cat" / "gone.png"
    link.symlink_to("nowhere.png")
    assert error_of(folders).startswith(f"{link} does not exist (or is a link to a file that is gone)")


def test_grey_values_without_a_scale(folders):
    bad = saved(folders["train"] / "cat", Image.new("F", (16, 16), 0.5), "depth.tif")
    assert error_of(folders).startswith(f"{bad} cannot be read (its 32-bit grey values have no fixed white")


def test_a_name_with_a_line_break_still_gives_one_line(folders):
    bad = folders["train"] / "cat" / "two\nlines.png"
    bad.write_bytes(b"bad")
    assert "two\\nlines.png is not an image" in error_of(folders)
