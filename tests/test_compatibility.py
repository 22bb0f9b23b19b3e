"""Checkpoints that earlier versions wrote are loaded, and training goes on from them to where it would have gone."""

import json

import jax
import kept_checkpoint
import numpy as np
import orbax.checkpoint as ocp
import pytest

KEPT = sorted(kept_checkpoint.DATA.glob("checkpoint-*"))


def test_a_checkpoint_is_kept():
    assert KEPT[0].name == "checkpoint-0.1.0"


@pytest.mark.parametrize("root", KEPT, ids=lambda path: path.name)
def test_a_kept_checkpoint_is_loaded_and_gone_on_with(root):
    ends = json.loads((root / "ends.json").read_text())
    start = kept_checkpoint.params()
    make = lambda: {name: (start, tx.init(start)) for name, tx in kept_checkpoint.METHODS.items() if name in ends}
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(make))
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(root.resolve() / "states", shapes)
    steps, more = kept_checkpoint.STEPS, kept_checkpoint.MORE
    for name, (params, state) in found.items():
        end, _ = kept_checkpoint.train(name, params, state, steps, steps + more)
        for path, value in jax.tree.leaves_with_path(end):
            wanted = ends[name]
            for key in path:
                wanted = wanted[key.key]
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=f"{name} {path}")
