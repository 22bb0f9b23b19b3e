"""The main job's loop in this process: what it records of any optimizer, and checkpoints that go on bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from ftp_optax import digrap, ftp, radii, strengths
from vision.data import ArrayDomain
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


def run(method: str, checkpoints: Path) -> Trained:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 2, 2, 3), np.uint8), rng.integers(0, 3, 40).astype(np.int32)
    network, params = split_model(Model())
    options: dict[str, Any] = {"batch_size": 8, "epochs": 3, "seed": 0, "checkpoints": checkpoints}
    domain = ArrayDomain("noise", images, labels)
    tx = optax.with_extra_args_support(METHODS[method]())
    return fine_tune(network, params, tx, domain, **options, on_step=lambda *_: None)


@pytest.mark.parametrize("method", METHODS)
def test_history_has_a_column_for_every_scalar_of_every_part(method, tmp_path):
    trained = run(method, tmp_path)
    for kind, read in (("radii", radii), ("strengths", strengths)):
        if kind in trained.history:
            learned = read(trained.opt_state, trained.params)
            columns = trained.history[kind]
            assert columns.shape == (15, len(learned))
            np.testing.assert_array_equal(columns[-1], np.float32(list(learned.values())))
    assert trained.history["radii"].shape[1] == (4 if method == "two parts" else 2)
    assert trained.history["radii"][-1].max() > 1e-3


def test_a_run_without_its_last_checkpoint_goes_on_bit_for_bit(tmp_path):
    whole = run("two parts", tmp_path)
    shutil.rmtree(tmp_path / "15")
    resumed = run("two parts", tmp_path)
    assert jax.tree.structure(whole.opt_state) == jax.tree.structure(resumed.opt_state)
    for one, other in zip(*(jax.tree.leaves((t.params, t.opt_state)) for t in (whole, resumed)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    np.testing.assert_array_equal(whole.history["radii"], resumed.history["radii"])
