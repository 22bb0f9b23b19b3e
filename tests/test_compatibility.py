"""Checkpoints that earlier versions wrote are loaded, and training goes on from them to where it would have gone."""

import json

import jax
import kept_checkpoint
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from recipes import checkpoints

KEPT = sorted(kept_checkpoint.DATA.glob("checkpoint-*"))
STEPS, MORE = kept_checkpoint.STEPS, kept_checkpoint.MORE
kept = pytest.mark.parametrize("root", KEPT, ids=lambda path: path.name)


def shapes(make):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(make))


def assert_ends(root, name, params):
    wanted = json.loads((root / "ends.json").read_text())[name]
    assert jax.tree.structure(params) == jax.tree.structure(kept_checkpoint.params())
    for path, value in jax.tree.leaves_with_path(params):
        end = wanted
        for key in path:
            end = end[key.key]
        np.testing.assert_allclose(value, end, rtol=1e-5, atol=1e-6, err_msg=f"{name} {path}")


def test_a_checkpoint_is_kept():
    assert KEPT[0].name == "checkpoint-0.1.0"


@kept
def test_a_kept_checkpoint_is_loaded_and_gone_on_with(root):
    ends, start = json.loads((root / "ends.json").read_text()), kept_checkpoint.params()
    make = lambda: {name: (start, tx.init(start)) for name, tx in kept_checkpoint.METHODS.items() if name in ends}
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(root.resolve() / "states", shapes(make))
    for name, (params, state) in found.items():
        assert_ends(root, name, kept_checkpoint.train(name, params, state, STEPS, STEPS + MORE)[0])


@kept
def test_a_kept_state_of_nnx_variables_is_loaded_and_gone_on_with(root):
    """0.1.0 left an empty Variable where a leaf was masked, which Orbax takes for another structure."""
    name, start = kept_checkpoint.NNX, nnx.state(kept_checkpoint.model())
    tx = kept_checkpoint.METHODS[name]
    params, state = checkpoints.restore(root.resolve() / "nnx_variables", tx, start)
    assert jax.tree.structure((params, state)) == jax.tree.structure((start, tx.init(start)))
    end, _ = kept_checkpoint.train(name, params, state, STEPS, STEPS + MORE)
    assert_ends(root, name, nnx.to_pure_dict(end))


@kept
def test_a_kept_state_of_an_nnx_optimizer_is_loaded_and_gone_on_with(root):
    model = kept_checkpoint.model()
    optimizer = nnx.Optimizer(model, kept_checkpoint.METHODS[kept_checkpoint.NNX], wrt=nnx.Param)
    target = shapes(lambda: (nnx.state(model), nnx.state(optimizer)))
    arguments = ocp.args.PyTreeRestore(
        target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    with ocp.PyTreeCheckpointer() as checkpointer:
        params, state = checkpointer.restore(root.resolve() / "nnx_optimizer", args=arguments)
    nnx.update(model, params)
    nnx.update(optimizer, state)
    kept_checkpoint.train_nnx(model, optimizer, STEPS, STEPS + MORE)
    assert int(optimizer.step[...]) == STEPS + MORE
    assert_ends(root, kept_checkpoint.NNX, nnx.to_pure_dict(nnx.state(model)))
