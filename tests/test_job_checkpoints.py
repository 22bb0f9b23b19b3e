"""The main job's checkpoints: what was saved comes back, and anything else is refused by name."""

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vision import checkpoints
from vision.errors import UserError

CONTENT = {"params": {"kernel": jnp.arange(300.0), "bias": jnp.ones(3, jnp.bfloat16)}, "history": np.arange(4)}


@pytest.fixture
def directory(tmp_path):
    """Two checkpoints."""
    with checkpoints.checkpoint_manager(tmp_path / "ftp") as manager:
        for step in (2, 4):
            checkpoints.save(manager, step, CONTENT)
    return tmp_path / "ftp"


def restored(directory, step=4, like=CONTENT):
    with checkpoints.checkpoint_manager(directory) as manager:
        return checkpoints.restore(manager, step, like)


def test_what_was_saved_comes_back_as_new_arrays(directory):
    found = restored(directory)
    assert found.keys() == CONTENT.keys()
    np.testing.assert_array_equal(found["params"]["kernel"], CONTENT["params"]["kernel"])
    assert found["params"]["bias"].dtype == jnp.bfloat16
    assert found["history"].flags.writeable


def test_a_content_that_is_not_what_was_saved_is_refused(tmp_path):
    """Readable to the last array, but for one bit: what only the digest can see."""
    content = {"kernel": np.arange(300.0, dtype=np.float32)}
    digest = checkpoints._digest(content)
    content["kernel"].view(np.uint8)[7] ^= 1
    with ocp.CheckpointManager(tmp_path / "ftp") as manager:
        manager.save(2, args=ocp.args.StandardSave({**content, "digest": digest}))
    with pytest.raises(UserError, match=r"ftp/2: a damaged checkpoint.*not what was saved.*remove that directory"):
        restored(tmp_path / "ftp", 2, content)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_there(directory):
    # not its arrays: of several, Orbax abandons those in flight at the first that fails, and complains of it later
    (directory / "4" / "default" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"ftp/4: a damaged checkpoint, or one of another version"):
        restored(directory)
    np.testing.assert_array_equal(restored(directory, 2)["params"]["kernel"], CONTENT["params"]["kernel"])


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/ftp: a checkpoint cannot be written \(Not a directory\)"),
        checkpoints.checkpoint_manager(tmp_path / "file" / "ftp"),
    ):
        pass
