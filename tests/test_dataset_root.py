"""A root with one folder a domain: DomainNet, PACS, Office-Home and VLCS as they lie on disk."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from image_trees import make_domain, make_files

from vision.class_map import ClassMap
from vision.dataset_root import dataset_task
from vision.errors import UserError
from vision.splits import stratified

CLASSES = ("dog", "elephant", "giraffe")
OPTIONS = {"val_fraction": 0.1, "seed": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def pacs(tmp_path) -> Path:
    for name in ("art_painting", "cartoon", "photo", "sketch"):
        make_domain(tmp_path / "PACS" / name, CLASSES, images=10 if name == "photo" else 2)
    return tmp_path / "PACS"


@pytest.fixture
def domainnet(tmp_path) -> Path:
    """Two domains with lists, seven training and three test images a class, and a third without."""
    root = tmp_path / "DomainNet"
    for name in ("clipart", "real"):
        make_domain(root / name, CLASSES, images=10)
        for part, numbers in (("train", range(7)), ("test", range(7, 10))):
            lines = [f"{name}/{folder}/{i}.png {label}\n" for label, folder in enumerate(CLASSES) for i in numbers]
            (root / f"{name}_{part}.txt").write_text("".join(lines))
    make_domain(root / "quickdraw", CLASSES)
    return root


def build(root: Path, id_name: str | None, *ood: str, **options):
    return dataset_task(root, id_name, ood, 8, **OPTIONS | options)


def error_of(root: Path, id_name: str | None = "photo", *ood: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        build(root, id_name, *ood, **options)
    return str(caught.value)


# The split


def test_the_id_domain_is_split_and_the_others_are_tested_whole(pacs):
    task = build(pacs, "photo")
    assert (task.classes, task.name) == (CLASSES, "folders")
    parts = (task.train, task.validation, task.id_test)
    assert [part.name for part in parts] == ["photo"] * 3
    for part, images in zip(parts, (8, 1, 1), strict=True):
        assert np.bincount(part.labels).tolist() == [images] * 3
    paths = [path for part in parts for path in part.paths]
    assert sorted(paths) == sorted((pacs / "photo").glob("*/*.png"))
    assert list(task.ood) == ["art_painting", "cartoon", "sketch"]
    assert task.ood_groups == {"all": ("art_painting", "cartoon", "sketch")}
    assert all(sorted(domain.paths) == sorted((pacs / name).glob("*/*")) for name, domain in task.ood.items())
    assert task.notes == (
        "ID photo: 10 % of every class for validation and as many for the test, at random, seed 0",
        "OOD: all images of art_painting, cartoon, sketch",
    )


def test_the_split_depends_on_the_seed_alone(pacs, tmp_path):
    copy = shutil.copytree(pacs, tmp_path / "copy")
    relative = lambda task, root: [path.relative_to(root) for path in task.validation.paths]
    first = relative(build(pacs, "photo"), pacs)
    assert relative(build(copy, "photo", "sketch"), copy) == first
    assert relative(build(pacs, "photo", seed=1), pacs) != first


@pytest.mark.parametrize(("fraction", "held_out"), [(0.01, 1), (0.1, 2), (0.14, 3), (0.3, 6)])
def test_shares_are_of_every_class(fraction, held_out):
    images = {"a": np.arange(20), "b": np.arange(100, 120)}
    one, two, rest = stratified(images, fraction, 0, shares=2)
    for name, everything in images.items():
        assert len(one[name]) == len(two[name]) == held_out
        assert sorted([*one[name], *two[name], *rest[name]]) == everything.tolist()


@pytest.mark.parametrize(("total", "held_out"), [(1, 0), (2, 0), (3, 1)])
def test_training_comes_first_where_images_are_few(total, held_out):
    one, two, rest = stratified({"a": np.arange(total)}, 0.1, 0, shares=2)
    assert [len(part["a"]) for part in (one, two, rest)] == [held_out, held_out, total - 2 * held_out]


def test_classes_that_are_not_held_out_are_named(pacs):
    for i in range(8):
        (pacs / "photo" / "giraffe" / f"{i}.png").unlink()
    task = build(pacs, "photo")
    assert np.bincount(task.train.labels).tolist() == [8, 8, 2]
    assert task.notes[2:] == ("No validation images of 'giraffe'", "No test images of 'giraffe'")


def test_too_few_images_to_hold_any_out(tmp_path):
    make_domain(tmp_path / "photo", CLASSES, images=2)
    assert error_of(tmp_path) == (
        f"{tmp_path / 'photo'} has too few images to hold any out: add some, three of a class are the least."
    )


# Lists of images beside the folders


def test_lists_beside_the_folders_are_the_split(domainnet):
    task = build(domainnet, "real")
    names = lambda part: {path.name for path in part.paths}
    assert names(task.id_test) == names(task.ood["clipart"]) == {"7.png", "8.png", "9.png"}
    assert not names(task.train) & names(task.id_test)
    assert not names(task.validation) & names(task.id_test)
    assert [np.bincount(part.labels).tolist() for part in (task.train, task.validation)] == [[6] * 3, [1] * 3]
    assert len(task.ood["quickdraw"]) == 6
    assert task.notes == (
        "ID real: split by real_train.txt and real_test.txt; 10 % of the former for validation, at random, seed 0",
        "OOD: the images of clipart_test.txt",
        "OOD: all images of quickdraw",
    )


def test_a_class_without_a_listed_image_is_a_class(domainnet):
    """The cleaned lists of DomainNet's painting lack `t-shirt` in the training images and `syringe` in the others."""
    for name, lost in (("real_train", "dog"), ("real_test", "giraffe"), ("clipart_test", "giraffe")):
        path = domainnet / f"{name}.txt"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if lost not in line))
    task = build(domainnet, "real")
    assert task.classes == CLASSES
    assert np.bincount(task.train.labels).tolist() == [0, 6, 6]
    assert task.ood_labels == {}, "its folder has the class"
    assert task.notes[3:] == (
        "No training images of 'dog'",
        "No validation images of 'dog'",
        "No test images of 'giraffe'",
    )


def test_a_class_map_holds_for_lists_too(domainnet):
    class_map = ClassMap(Path("map.json"), {"dog": "animal", "giraffe": "animal", "elephant": None, "quick": None})
    make_domain(domainnet / "real", ("cat",))
    make_domain(domainnet / "clipart", ("cat",))
    task = build(domainnet, "real", "clipart", class_map=class_map)
    assert task.classes == ("animal", "cat")
    assert len(task.ood["clipart"]) == 6
    assert {path.parent.name for path in task.train.paths} == {"dog", "giraffe"}


def test_one_list_without_the_other(domainnet):
    (domainnet / "clipart_train.txt").unlink()
    missing, found = (domainnet / f"clipart_{part}.txt" for part in ("train", "test"))
    assert error_of(domainnet, "real").startswith(f"{missing} does not exist, but {found} does: ")


@pytest.mark.parametrize(
    "line",
    ["real/dog/0.png", "dog/0.png 3", "clipart/dog/0.png 3", "real/zebra/0.png 3", "real/../0.png 3", "/real/dog/0 3"],
)
def test_a_line_of_another_form(domainnet, line):
    path = domainnet / "real_test.txt"
    path.write_text(f"\nreal/dog/0.png 0\n{line}\n")
    assert error_of(domainnet, "real").startswith(
        f"{path}: line 3 is not of the form real/CLASS/IMAGE LABEL with a class of {domainnet / 'real'}; "
    )


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_a_list_of_nothing(domainnet, content):
    (domainnet / "real_test.txt").write_bytes(content)
    assert error_of(domainnet, "real").startswith(f"{domainnet / 'real_test.txt'} ")


def test_a_listed_image_that_is_not_there(domainnet):
    (domainnet / "real" / "dog" / "8.png").unlink()
    assert error_of(domainnet, "real").startswith(f"{domainnet / 'real' / 'dog' / '8.png'} does not exist")


# Domains


def test_ood_domains_can_be_picked(pacs):
    assert list(build(pacs, "photo", "sketch", "cartoon").ood) == ["sketch", "cartoon"]


def test_names_with_spaces_and_accents(tmp_path):
    for name in ("Real World", unicodedata.normalize("NFD", "Dessins animés")):
        make_domain(tmp_path / name, ("Alarm Clock", "Bike"), images=5)
    task = build(tmp_path, "Real World", "Dessins animés")
    assert task.train.name == "Real World"
    assert list(task.ood) == ["Dessins animés"]


def test_folders_that_are_no_domains_are_named(pacs):
    (pacs / "splits").mkdir()
    (pacs / "splits" / "photo_kfold.txt").touch()
    (pacs / "README.txt").touch()
    task = build(pacs, "photo")
    assert list(task.ood) == ["art_painting", "cartoon", "sketch"]
    assert task.notes[2:] == ("No domain, for there are no folders in it: 'splits'",)


def test_a_domain_with_fewer_classes(pacs):
    shutil.rmtree(pacs / "sketch" / "dog")
    message = error_of(pacs)
    assert message.startswith(f"{pacs / 'sketch'} does not have the class folders of {pacs / 'photo'}: it lacks 'dog'")
    assert "--ood-subset" in message
    assert build(pacs, "photo", ood_subset=True).ood_labels == {"sketch": (1, 2)}
    assert build(pacs, "photo", "cartoon").ood_labels == {}, "it is not asked about"


def test_no_domain_is_named(pacs):
    assert error_of(pacs, None) == (
        f"{pacs}: name the domain to fine-tune on, --id NAME; it has art_painting, cartoon, photo, sketch."
    )


def test_a_domain_that_is_not_there(pacs):
    known = f"{pacs} has no such domain; it has art_painting, cartoon, photo, sketch."
    assert error_of(pacs, "Photo") == f"--id Photo: {known}"
    assert error_of(pacs, "photo", "sketches") == f"--ood sketches: {known}"


def test_the_id_domain_is_not_ood(pacs):
    assert error_of(pacs, "photo", "sketch", "photo").startswith("--ood photo: is the domain to fine-tune on")


def test_a_root_that_is_not_there(tmp_path):
    assert error_of(tmp_path / "no").startswith(f"{tmp_path / 'no'} does not exist")


def test_a_root_one_level_too_low(pacs):
    assert error_of(pacs / "photo").startswith(f"{pacs / 'photo'} has no domains: give a folder with one sub-folder a")


def test_a_root_one_level_too_high(pacs):
    assert "is a folder inside a class folder" in error_of(pacs.parent, "PACS")


def test_a_root_of_wilds(tmp_path):
    (tmp_path / "metadata.csv").touch()
    make_files(tmp_path, ["train/0.png"])
    assert f"a class, or --dataset {tmp_path / 'metadata.csv'} if this is" in error_of(tmp_path)
    make_files(tmp_path, ["patches/patient_004_node_4/0.png"])
    assert f"it has patches, or --dataset {tmp_path / 'metadata.csv'} if this is" in error_of(tmp_path, None)


def test_a_damaged_image_of_any_domain_is_found(pacs):
    bad = pacs / "sketch" / "dog" / "1.png"
    bad.write_bytes(b"bad")
    assert error_of(pacs).startswith(f"{bad} is not an image")
