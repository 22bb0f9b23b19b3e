"""The emoji data: matched, drawn, split and cached right. Nothing here needs a network: the package is written here."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import emoji_folders
from evidence import emoji, emoji_task
from evidence.emoji import STYLES, drawings, install, load_style, on_white, render
from evidence.emoji_table import CLASSES, TABLE, Emoji, emoji_table
from vision.cache import cache_dir
from vision.errors import UserError

SQUARE = '<rect x="4" y="4" width="8" height="8" fill="{}"/>'
EMOJI = (Emoji(("1F415",), 0, "dog"), Emoji(("1F3CC", "FE0F"), 1, "person golfing"), Emoji(("1F426",), 0, "bird"))


def write_package(folder, icons, aliases=None, codes=None):
    """An icon package as npm would leave it."""
    folder.mkdir(parents=True)
    drawn = {name: {"body": SQUARE.format(colour)} for name, colour in icons.items()}
    content = {"prefix": "test", "width": 16, "height": 16, "icons": drawn, "aliases": aliases or {}}
    (folder / "icons.json").write_text(json.dumps(content))
    (folder / "chars.json").write_text(json.dumps(codes or {}))
    return folder


def test_table_covers_sixteen_classes():
    table = emoji_table()
    counts = np.bincount([one.label for one in table])
    assert len(CLASSES) == len(counts) == 16
    assert counts.min() >= 20
    assert len({one.codes for one in table}) == len(table)
    assert TABLE.read_text().startswith("# From Unicode's emoji-test.txt, version")
    assert {CLASSES[one.label] for one in table if one.name in ("dog", "dog face")} == {"animal"}


def test_a_family_is_one_drawing_whatever_the_gender():
    woman, man = (Emoji(("1F3CC", "FE0F", "200D", sign, "FE0F"), 0, "golfing") for sign in ("2640", "2642"))
    assert woman.family == man.family == ("1F3CC",)
    assert Emoji(("1F468", "200D", "1F33E"), 0, "man farmer").family == ("1F9D1", "1F33E")


def test_drawings_match_by_code_by_name_and_by_alias(tmp_path):
    by_code = write_package(tmp_path / "a", {"hound": "red", "x": "blue"}, codes={"1f415": "hound", "1f3cc": "x"})
    assert list(drawings(by_code, EMOJI)) == [0, 1]
    by_name = write_package(tmp_path / "b", {"Dog": "red", "golfer": "blue"}, {"person-golfing": {"parent": "golfer"}})
    assert "red" in drawings(by_name, EMOJI)[0]
    assert "blue" in drawings(by_name, EMOJI)[1]


def test_a_drawing_is_used_once_and_never_mirrored(tmp_path):
    shared = write_package(tmp_path / "a", {"x": "red"}, codes={"1f415": "x", "1f426": "x"})
    assert list(drawings(shared, EMOJI)) == [0]
    mirrored = write_package(tmp_path / "b", {"x": "red"}, {"dog": {"parent": "x", "hFlip": True}})
    assert drawings(mirrored, EMOJI) == {}


def test_render_draws_the_shape_with_its_opacity():
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">{SQUARE.format("red")}</svg>'
    image = render(svg, 32)
    assert image.shape == (32, 32, 4)
    assert image.dtype == np.uint8
    assert (image[8:24, 8:24] == (255, 0, 0, 255)).all()
    assert image[..., 3].sum() == 255 * 16 * 16
    paper = on_white(image)
    assert (paper[0, 0] == 255).all()
    assert (paper[16, 16] == (255, 0, 0)).all()


def test_render_keeps_proportions_and_refuses_what_is_no_svg():
    wide = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><rect width="20" height="10"/></svg>'
    rows = render(wide, 32)[..., 3].any(1)
    assert rows.sum() == 16
    assert rows[8:24].all()
    with pytest.raises(ValueError, match="unknown token"):
        render("no svg", 32)


def test_a_style_is_rendered_once_and_then_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path))
    one = STYLES["noto"]
    table = emoji_table()
    dog = next(i for i, e in enumerate(table) if e.name == "dog")
    folder = write_package(cache_dir() / "emoji" / f"{one.name}-{one.version}", {"dog": "black"})
    first = load_style("noto", 16)
    assert first.emoji.tolist() == [dog]
    for file in folder.iterdir():
        file.unlink()  # not looked at again
    monkeypatch.setattr(emoji, "render", lambda *_: pytest.fail("rendered twice"))
    again = load_style("noto", 16)
    assert (again.rgba == first.rgba).all()


def test_folders_keep_the_split(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path))
    noto, table = STYLES["noto"], emoji_table()
    shown = {part: table[positions[0]] for part, positions in emoji_task.identities(3).items()}
    codes = {"-".join(one.codes).lower(): part for part, one in shown.items()}
    write_package(cache_dir() / "emoji" / f"noto-{noto.version}", dict.fromkeys(shown, "red"), codes=codes)
    monkeypatch.setattr(emoji_folders, "STYLES", {"noto": noto})
    monkeypatch.setattr(sys, "argv", ["emoji_folders.py", "--out", str(tmp_path / "out"), "--seed", "3"])
    emoji_folders.main()

    def line(part):
        one = shown[part]
        return f"noto/{CLASSES[one.label]}/{'-'.join(one.codes)}.png {one.label}"

    lists = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").glob("*.txt")}
    assert lists == {"noto_train.txt": [line("train"), line("validation")], "noto_test.txt": [line("test")]}
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")]
    assert sorted(files) == sorted(line.split(" ")[0] for lines in lists.values() for line in lines)
    with Image.open(tmp_path / "out" / files[0]) as image:
        assert (image.mode, image.size) == ("RGB", (256, 256))
        assert [image.getpixel((0, 0)), image.getpixel((128, 128))] == [(255, 255, 255), (255, 0, 0)]


def test_missing_npm_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is needed.*--experiment digits"):
        install(STYLES["noto"])


def test_failing_npm_tells_why_and_leaves_nothing(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error 404 no such package' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match="404 no such package"):
        install(STYLES["noto"])
    assert list((tmp_path / "cache" / "emoji").iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_share_no_family_and_have_all_classes(seed):
    table, parts = emoji_table(), emoji_task.identities(seed)
    families = {name: {table[i].family for i in chosen} for name, chosen in parts.items()}
    names = list(parts)
    for i, name in enumerate(names):
        assert all(families[name].isdisjoint(families[other]) for other in names[i + 1 :])
        assert {table[j].label for j in parts[name]} == set(range(16)) or name == "validation"
    people = sum(CLASSES[table[i].label] == "person" for chosen in parts.values() for i in chosen)
    assert people <= 120
    total = sum(map(len, parts.values()))
    for name, share in emoji_task.SPLITS.items():
        assert len(parts[name]) / total == pytest.approx(share, abs=0.03)


def test_splits_are_the_seeds():
    same, other = emoji_task.identities.__wrapped__(0), emoji_task.identities(1)
    assert all((same[name] == emoji_task.identities(0)[name]).all() for name in same)
    assert set(same["test"]) != set(other["test"])


def test_styles_have_roles():
    assert not set(emoji.SEEN) & set(emoji.HELD_OUT)
    assert set(STYLES) == {*emoji.SEEN, *emoji.HELD_OUT, "fluent-high-contrast"}
    notice = (TABLE.parent / "NOTICE").read_text()
    for style in STYLES.values():
        assert style.icons in notice
        assert style.author in notice
        assert style.licence in notice
