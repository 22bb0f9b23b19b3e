"""WILDS' metadata CSVs: which image has which class in which official split."""

from pathlib import Path

import pytest
from image_trees import make_files

from vision.class_map import ClassMap
from vision.errors import UserError
from vision.wilds import wilds_task

# The columns of the released files, and rows of their form.
CAMELYON17 = """,patient,node,x_coord,y_coord,tumor,slide,center,split
0,004,4,3328,21792,1,0,0,0
1,004,4,3200,22272,0,0,0,0
2,017,1,64,96,1,4,0,1
3,010,1,1000,2000,0,5,1,0
4,010,1,1096,2000,1,5,1,1
5,051,2,640,960,1,30,2,0
6,072,3,96,192,0,40,4,1
"""
IWILDCAM = """split,location_remapped,location,sequence_remapped,sequence,datetime,y,filename,category_id,image_id
train,0,287,0,a,2013-06-05 05:44:19.000,1,one.png,2,1
train,0,287,0,a,2013-06-05 05:44:20.000,0,two.png,0,2
id_val,0,287,1,b,2013-06-05 05:44:21.000,1,three.png,2,3
id_test,0,287,2,c,2013-06-05 05:44:22.000,0,four.png,0,4
val,1,288,3,d,2013-06-05 05:44:23.000,0,five.png,0,5
test,2,289,4,e,2013-06-05 05:44:24.000,2,six.png,9,6
test,2,289,4,e,2013-06-05 05:44:25.000,1,seven.png,2,7
"""
CATEGORIES = (
    "y,category_id,name\n0,0,empty\n1,2,tayassu pecari\n2,9,puma concolor\n99999,3,dasyprocta punctata\n99999,4,start\n"
)
FMOW = """split,img_filename,spatial_reference,category,country_code,timestamp
train,a.jpg,"GEOGCS[""WGS 84"",DATUM]",zoo,FRA,2012-12-31T23:59:59Z
train,b.jpg,x,airport,USA,2009-03-01T10:00:00Z
train,c.jpg,x,airport,USA,2013-01-01T00:00:00Z
val,d.jpg,x,zoo,USA,2012-06-01T10:00:00Z
val,e.jpg,x,zoo,USA,2013-01-01T00:00:00Z
val,f.jpg,x,zoo,USA,2016-01-01T00:00:00Z
seq,g.jpg,x,barn,USA,2010-01-01T00:00:00Z
test,h.jpg,x,airport,USA,2011-01-01T00:00:00Z
test,i.jpg,x,airport,USA,2014-01-01T00:00:00Z
test,j.jpg,x,zoo,USA,2017-08-01T10:00:00Z
"""


def written(root: Path, content: str, images: list[str], name: str = "metadata.csv") -> Path:
    make_files(root, images)
    (root / name).write_text(content)
    return root / name


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def camelyon17(tmp_path) -> Path:
    rows = [line.split(",") for line in CAMELYON17.splitlines()[1:]]
    patches = [
        f"patches/patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
        for _, patient, node, x, y, *_ in rows
    ]
    return written(tmp_path, CAMELYON17, patches)


@pytest.fixture
def iwildcam(tmp_path) -> Path:
    names = ("one", "two", "three", "four", "five", "six", "seven")
    return written(tmp_path, IWILDCAM, [f"train/{name}.png" for name in names])


@pytest.fixture
def fmow(tmp_path) -> Path:
    return written(tmp_path, FMOW, [f"images/rgb_img_{i}.png" for i in range(10)], "rgb_metadata.csv")


def build(table: Path, *ood: str, **options):
    return wilds_task(table, ood, 8, **options)


def read(task) -> dict[str, list[tuple[str, str]]]:
    """By split the images, by the end of their names, and their classes."""
    parts = {task.train.name: task.train, task.validation.name: task.validation, task.id_test.name: task.id_test}
    return {
        name: [(path.stem, task.classes[label]) for path, label in zip(part.paths, part.labels, strict=True)]
        for name, part in (parts | dict(task.ood)).items()
    }


def test_camelyon17(camelyon17):
    task = build(camelyon17)
    assert task.classes == ("normal", "tumor")
    patch = lambda patient, node, x, y: f"patch_patient_{patient}_node_{node}_x_{x}_y_{y}"
    assert read(task) == {
        "train": [(patch("004", 4, 3200, 22272), "normal"), (patch("004", 4, 3328, 21792), "tumor")],
        "id_val": [(patch("072", 3, 96, 192), "normal"), (patch("017", 1, 64, 96), "tumor")],
        "val": [(patch("010", 1, 1000, 2000), "normal"), (patch("010", 1, 1096, 2000), "tumor")],
        "test": [(patch("051", 2, 640, 960), "tumor")],
    }
    assert task.id_test is task.validation
    assert task.notes == ("Official splits of Camelyon17: train; validation id_val; ID test id_val; OOD val, test",)


def test_iwildcam(iwildcam):
    written(iwildcam.parent, CATEGORIES, [], "categories.csv")
    task = build(iwildcam)
    assert task.classes == ("empty", "puma concolor", "tayassu pecari"), "those of the test images too"
    assert read(task) == {
        "train": [("two", "empty"), ("one", "tayassu pecari")],
        "id_val": [("three", "tayassu pecari")],
        "id_test": [("four", "empty")],
        "val": [("five", "empty")],
        "test": [("six", "puma concolor"), ("seven", "tayassu pecari")],
    }
    assert task.ood_labels == {}, "WILDS scores among all"
    assert task.notes == ("Official splits of iWildCam: train; validation id_val; ID test id_test; OOD val, test",)


def test_iwildcam_without_names(iwildcam):
    assert build(iwildcam).classes == ("0", "1", "2")


def test_fmow(fmow):
    assert read(build(fmow)) == {
        "train": [("rgb_img_1", "airport"), ("rgb_img_0", "zoo")],
        "id_val": [("rgb_img_3", "zoo")],
        "id_test": [("rgb_img_7", "airport")],
        "val": [("rgb_img_4", "zoo")],
        "test": [("rgb_img_9", "zoo")],
    }


def test_ood_splits_can_be_picked(iwildcam):
    assert list(build(iwildcam, "test").ood) == ["test"]
    for name in ("id_test", "train", "sketch"):
        with pytest.raises(UserError, match=rf"--ood {name}: no OOD split of .*metadata\.csv; choose val or test"):
            build(iwildcam, name)


def test_a_subset_where_it_is_asked_for(iwildcam):
    assert build(iwildcam, ood_subset=True).ood_labels == {"val": (0,), "test": (1, 2)}


def test_a_class_map_names_the_classes(iwildcam):
    class_map = ClassMap(Path("map.json"), {"0": "nothing", "2": None})
    task = build(iwildcam, class_map=class_map)
    assert task.classes == ("1", "nothing")
    assert read(task)["test"] == [("seven", "1")]
    assert task.notes[1:] == ("Left out by map.json: '2'",)


# What can be wrong


def error_of(table: Path) -> str:
    with pytest.raises(UserError) as caught:
        build(table)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    assert error_of(tmp_path / "metadata.csv").startswith(f"{tmp_path / 'metadata.csv'} does not exist")


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "split,y\ntrain,0\n"])
def test_columns_of_no_known_data_set(tmp_path, content):
    table = written(tmp_path, content, [])
    assert error_of(table).startswith(f"{table} has the columns of no data set that is known: Camelyon17 (center, ")


@pytest.mark.parametrize("content", [b"split,filename,y\n\xff,a,0\n", b'split,filename,y\n"a\n', b"\0" * 9])
def test_a_file_that_is_no_csv(tmp_path, content):
    table = tmp_path / "metadata.csv"
    table.write_bytes(content)
    assert error_of(table).startswith(f"{table} ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1,0,0,0\n1,", "2,0,0,0\n1,"),
        ("1,0,0,0\n1,", "1,0,0,5\n1,"),
        ("1,0,0,0\n1,", "1,0,0\n1,"),
        ("1,0,0,0\n1,", "1,0,0,0,0\n1,"),
    ],
    ids=["class", "split", "short", "long"],
)
def test_a_row_of_another_form(camelyon17, old, new):
    camelyon17.write_text(CAMELYON17.replace(old, new, 1))
    assert error_of(camelyon17) == f"{camelyon17}: row 1 is not as in Camelyon17's file: get it again."


def test_splits_and_times_of_another_form(tmp_path):
    table = written(tmp_path, IWILDCAM.replace("id_val", "validation"), [])
    assert error_of(table).endswith("row 3 is not as in iWildCam's file: get it again.")
    table.write_text(FMOW.replace("2009-03-01T10:00:00Z", "March 2009"))
    assert error_of(table).endswith("row 2 is not as in FMoW's file: get it again.")


def test_splits_that_are_not_there(iwildcam):
    iwildcam.write_text("".join(line for line in IWILDCAM.splitlines(keepends=True) if "id_val" not in line))
    assert error_of(iwildcam).startswith(f"{iwildcam} has no rows of the splits train and id_val")


def test_an_image_that_is_not_there(iwildcam):
    image = iwildcam.parent / "train" / "six.png"
    image.unlink()
    assert error_of(iwildcam).startswith(f"{image} does not exist")


@pytest.mark.parametrize("content", ["y,category_id\n0,0\n", "y,name\n0,cat\n1,cat\n", "y,name\n0,cat\n1\n"])
def test_names_of_classes_that_cannot_be_used(iwildcam, content):
    names = iwildcam.with_name("categories.csv")
    names.write_text(content)
    message = error_of(iwildcam)
    assert message.startswith(f"{names}")
    assert message.endswith("or remove it for numbers as names.")
