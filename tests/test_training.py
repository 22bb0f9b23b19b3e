"""The main job's loop in this process: what it records of any optimizer, and checkpoints that go on bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import averaged, digrap, ftp
from vision.config import Config
from vision.data import ArrayDomain, Reading, Task
from vision.devices import Devices
from vision.methods import Method
from vision.networks import split_model
from vision.training import Trained, fine_tune


class Model(nnx.Module):
    def __init__(self) -> None:
        self.hidden, self.head = nnx.Linear(12, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 3, rngs=nnx.Rngs(1))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.hidden(images.reshape(len(images), -1) / 255)))


def part_of(params: Any) -> Any:
    return {name: jax.tree.map(lambda _, name=name: name, part) for name, part in params.items()}


OPEN = {"hyper_optimizer": optax.adam(0.1)}
METHODS = {
    "two parts": lambda: optax.partition(
        {"hidden": ftp(optax.adam(1e-2), **OPEN), "head": ftp(optax.sgd(1e-2), kappa=0.5)}, part_of
    ),
    "part of a chain": lambda: optax.chain(
        digrap(), optax.partition({"hidden": ftp(optax.adam(1e-2), **OPEN), "head": optax.adam(1e-2)}, part_of)
    ),
}


def run(method: str, checkpoints: Path, **flags: Any) -> Trained:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 2, 2, 3), np.uint8), rng.integers(0, 3, 40).astype(np.int32)
    network, params = split_model(Model())
    domain = ArrayDomain("noise", images, labels)
    task = Task("noise", ("a", "b", "c"), 2, domain, domain, domain, {}, {})
    tx = METHODS[method]()
    if flags.get("average"):
        tx = averaged(tx, kind=flags["average"], decay=0.5)
    tx = optax.with_extra_args_support(tx)
    return fine_tune(
        method, Method(tx, averaged="average" in flags), network, params, task,
        Config(batch_size=8, epochs=3, keep=9, **flags), devices=Devices(None, False, Reading()),
        checkpoints=checkpoints / "all", best_checkpoints=checkpoints / "best", on_step=lambda *_: None,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_history_has_a_column_for_every_scalar_of_every_part(method, tmp_path):
    trained = run(method, tmp_path)
    for kind, learned in (("radii", trained.radii), ("strengths", trained.strengths)):
        if kind in trained.history:
            columns = trained.history[kind]
            assert columns.shape == (15, len(learned))
            np.testing.assert_array_equal(columns[-1], np.float32(list(learned.values())))
    assert trained.history["radii"].shape[1] == (4 if method == "two parts" else 2)
    assert trained.history["radii"][-1].max() > 1e-3


def test_a_run_without_its_last_checkpoint_goes_on_bit_for_bit(tmp_path):
    whole = run("two parts", tmp_path)
    shutil.rmtree(tmp_path / "all" / "15")
    resumed = run("two parts", tmp_path)
    for one, other in zip(*(jax.tree.leaves((t.weights, t.radii)) for t in (whole, resumed)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert whole.validations == resumed.validations
    np.testing.assert_array_equal(whole.history["radii"], resumed.history["radii"])


def test_an_average_is_what_is_validated_kept_and_gone_on_with(tmp_path):
    """Training is the same; the weights, the looks at the validation images and the best weights are the average's."""
    alone, whole = run("two parts", tmp_path / "alone"), run("two parts", tmp_path / "average", average="ema")
    np.testing.assert_array_equal(whole.history["loss"], alone.history["loss"])
    assert whole.radii == alone.radii
    assert [loss for _, _, loss in whole.validations] != [loss for _, _, loss in alone.validations]
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole.weights.params, alone.weights.params)
    assert min(jax.tree.leaves(gaps)) > 0
    shutil.rmtree(tmp_path / "average" / "all" / "15")
    resumed = run("two parts", tmp_path / "average", average="ema")
    for one, other in zip(*(jax.tree.leaves(t.weights) for t in (whole, resumed)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert whole.validations == resumed.validations
    step, accuracy, _ = max(whole.validations, key=lambda look: look[1])
    if whole.best is not None:
        assert (whole.best.step, whole.best.accuracy) == (step, accuracy)
