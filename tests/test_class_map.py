"""Folders and classes of different names, and OOD folders with a subset of the classes."""

import json
from pathlib import Path

import pytest
from image_trees import make_domain

from vision.class_map import ClassMap, read_class_map, shortened
from vision.errors import UserError
from vision.folders import folder_task

SYNSETS = ("n01", "n02", "n03", "n04")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def imagenet(tmp_path) -> dict[str, Path]:
    """ImageNet and two of its shifts: the second has numbers for names, the third has half of the classes."""
    return {
        "train": make_domain(tmp_path / "train", SYNSETS),
        "val": make_domain(tmp_path / "val", SYNSETS),
        "v2": make_domain(tmp_path / "v2", ("0", "1", "2", "3")),
        "a": make_domain(tmp_path / "a", ("n02", "n04")),
    }


def build(folders: dict[str, Path], ood: str, class_map: dict[str, str | None] | None = None, **options):
    class_map = ClassMap(Path("map.json"), class_map or {})
    return folder_task(folders["train"], folders["val"], {ood: folders[ood]}, 8, class_map=class_map, **options)


def test_numbers_become_the_names_of_the_training_folders(imagenet):
    task = build(imagenet, "v2", {str(i): name for i, name in enumerate(SYNSETS)})
    assert task.classes == SYNSETS
    assert task.ood["v2"].labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert task.ood["v2"].paths[4] == imagenet["v2"] / "2" / "0.png"
    assert (task.ood_labels, task.notes) == ({}, ())


def test_several_folders_may_be_one_class_in_every_set(imagenet):
    task = build(imagenet, "a", {"n02": "n01", "n03": "fish", "n04": "fish"})
    assert task.classes == ("fish", "n01")
    assert task.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert task.validation.labels.tolist() == task.train.labels.tolist()
    assert task.ood["a"].labels.tolist() == [0, 0, 1, 1]
    assert [path.parent.name for path in task.train.paths[:4]] == ["n03", "n03", "n04", "n04"]


def test_null_leaves_folders_out_and_says_so(imagenet):
    (imagenet["v2"] / "3" / "no image.png").write_text("of no concern, for the folder is left out")
    task = build(imagenet, "v2", {"0": "n01", "1": "n02", "2": "n03", "3": None, "n04": None})
    assert task.classes == SYNSETS[:3]
    assert len(task.ood["v2"]) == 6
    assert task.notes == ("Left out by map.json: '3', 'n04'",)


def test_nothing_left(imagenet):
    with pytest.raises(UserError, match=r"v2 has no classes left: map\.json leaves out all its folders"):
        build(imagenet, "v2", dict.fromkeys("0123"))


def test_a_class_that_no_training_image_has(imagenet):
    with pytest.raises(UserError, match=r"map\.json: '3' is mapped to 'n05', which is no class of the training images"):
        build(imagenet, "v2", {"0": "n01", "1": "n02", "2": "n03", "3": "n05"})


def test_a_subset_is_an_error_that_names_the_flag(imagenet):
    with pytest.raises(UserError) as caught:
        build(imagenet, "a")
    assert str(caught.value).startswith(f"{imagenet['a']} does not have the class folders of {imagenet['train']}")
    assert "it lacks 'n01', 'n03'; " in str(caught.value)
    assert "--ood-subset" in str(caught.value)


def test_a_subset_is_scored_among_its_classes(imagenet):
    task = build(imagenet, "a", ood_subset=True)
    assert task.ood_labels == {"a": (1, 3)}
    assert task.ood["a"].labels.tolist() == [1, 1, 3, 3]


def test_all_classes_are_no_subset(imagenet):
    assert build(imagenet | {"a": imagenet["val"]}, "a", ood_subset=True).ood_labels == {}


def test_a_class_too_many_is_an_error_with_a_subset_too(imagenet):
    make_domain(imagenet["a"], ("n07",))
    with pytest.raises(UserError, match=r"a does not have .*: it has the extra 'n07'; .*--class-map") as caught:
        build(imagenet, "a", ood_subset=True)
    assert "lacks" not in str(caught.value)


def test_validation_images_may_lack_no_class(imagenet):
    with pytest.raises(UserError, match="lacks 'n01', 'n03'") as caught:
        build(imagenet | {"val": imagenet["a"]}, "a", ood_subset=True)
    assert "--ood-subset" not in str(caught.value)


# The file


def written(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "map.json"
    path.write_text(content, encoding="utf-8")
    return path


def test_what_a_file_says(tmp_path):
    class_map = read_class_map(written(tmp_path, json.dumps({"0": "dog", "1": None, "e\u0301meu": "bird"})))
    assert [class_map.of(folder) for folder in ("0", "1", "2", "\u00e9meu")] == ["dog", None, "2", "bird"]


@pytest.mark.parametrize(
    "content",
    ["", "{", '["0"]', '"0"', "null", '{"0": 1}', '{"0": {"1": "2"}}', '{"0": ["a"]}', "[" * 10**5],
    ids=["empty", "cut", "list", "string", "null", "number", "object", "list in it", "deep"],
)
def test_a_file_that_is_no_class_map(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_class_map(path)
    assert str(caught.value).startswith(f"{path} is no class map: ")


def test_a_file_in_another_encoding(tmp_path):
    path = written(tmp_path, "")
    path.write_bytes(b'{"0": "\xe9"}')
    with pytest.raises(UserError, match=r"map\.json is no class map: "):
        read_class_map(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"map\.json does not exist"):
        read_class_map(tmp_path / "map.json")


def test_a_folder_given_twice(tmp_path):
    with pytest.raises(UserError, match=r"map\.json: '0' is given twice"):
        read_class_map(written(tmp_path, '{"0": "a", "1": "b", "0": "b"}'))


@pytest.mark.parametrize(
    ("names", "shown"), [("a", "'a'"), ("bac", "'a', 'b', 'c'"), ("abcdef", "'a', 'b', 'c', 'd', 'e' and others")]
)
def test_long_lists_are_shortened(names, shown):
    assert shortened(names) == shown
