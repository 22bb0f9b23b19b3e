"""Directories that are whole when they have their name."""

import pytest

from vision.errors import UserError
from vision.files import new_directory


def test_a_directory_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "above" / "new"
    with new_directory(path) as unfinished:
        (unfinished / "file").write_text("text")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["file"]
    assert [entry.name for entry in path.parent.iterdir()] == ["new"]
    (tmp_path / "usual").mkdir()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_nothing_is_left_of_a_directory_that_failed(tmp_path, error):
    with pytest.raises(error, match="half way"), new_directory(tmp_path / "new"):
        raise error("half way")
    assert list(tmp_path.iterdir()) == []


def test_no_directory_is_written_over(tmp_path):
    with pytest.raises(UserError, match="exists already"), new_directory(tmp_path):
        pytest.fail("entered")


def test_a_full_disk_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"new: cannot be created \(No space left"), new_directory(tmp_path / "new"):
        raise OSError(28, "No space left on device")
