"""Checkpoints of every method's state: exact, onto any mesh, refused where they do not fit; the layout is public.

`test_resume.py` goes on training from one in a new process.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_contract import METHODS, step_of

from ftp_optax import digrap, ftp, pgm
from recipes import checkpoints

MASK = {"body": True, "head": False}
EVERY = tuple(METHODS)


def some_params() -> Any:
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    return {"body": {"bias": make(8), "kernel": make(8, 16)}, "head": {"kernel": make(16, 8)}}


def transform(method: str, **settings: Any) -> optax.GradientTransformationExtraArgs:
    make, base = METHODS[method]
    return make(base, **settings)


@functools.cache
def trained(method: str) -> tuple[Any, Any]:
    """Params and state after two steps: nothing in them is still as `init` made it."""
    tx, params = transform(method, mask=MASK), some_params()
    step, state = jax.jit(step_of(tx)), tx.init(params)
    for sign in (1.0, -0.5):
        params, state = step(params, state, jax.tree.map(lambda x, s=sign: s * jnp.cos(x), params))
    return params, state


def assert_same_bits(found: Any, expected: Any) -> None:
    chex.assert_trees_all_equal_structs(found, expected)
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype, path
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), path


def on(devices: int, *axes: str) -> jax.sharding.Mesh:
    shape = (devices,) if len(axes) == 1 else (devices // 2, 2)
    return jax.make_mesh(shape, axes, devices=jax.devices()[:devices], axis_types=(AxisType.Auto,) * len(axes))


def shapes_on(mesh: jax.sharding.Mesh, specs: Any) -> Any:
    """Parameters of which only the shapes are known, and where they are to lie."""
    place = lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
    return jax.tree.map(place, jax.eval_shape(some_params), specs)


ROWS = {"body": {"bias": P("x"), "kernel": P("x", None)}, "head": {"kernel": P("x", None)}}
COLUMNS = {"body": {"bias": P("y"), "kernel": P("x", "y")}, "head": {"kernel": P("y", "x")}}


@pytest.mark.parametrize("method", EVERY)
def test_every_state_goes_through_a_checkpoint_onto_other_meshes_and_back(method, tmp_path):
    """One device, eight devices by rows, a mesh of two axes, four devices: each reads what the one before wrote."""
    tx, (params, state) = transform(method, mask=MASK), trained(method)
    places = [(on(8, "x"), ROWS), (on(8, "x", "y"), COLUMNS), (on(4, "x"), ROWS)]
    for i, shapes in enumerate([*(shapes_on(*place) for place in places), some_params()]):
        checkpoints.save(tmp_path / str(i), params, state)
        params, state = checkpoints.restore(tmp_path / str(i), tx, shapes)
        assert_same_bits((params, state), trained(method))
        for leaf, want in zip(
            jax.tree.leaves((params, state)), jax.tree.leaves(checkpoints.target(tx, shapes)), strict=True
        ):
            assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
        assert jax.tree.leaves(params)[0].sharding == jax.tree.leaves(shapes)[0].sharding


def test_a_masked_state_of_nnx_variables_goes_through_a_checkpoint(tmp_path):
    """Read in the checkpoint's structure, and by Orbax alone in that of the state."""
    tx, params = transform("clip_digrap_ftp_adamw", mask=MASK), nnx.State(jax.tree.map(nnx.Param, some_params()))
    params, state = step_of(tx)(params, tx.init(params), jax.tree.map(jnp.cos, params))
    checkpoints.save(tmp_path / "run", params, state)
    assert_same_bits(checkpoints.restore(tmp_path / "run", tx, params), (params, state))
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "run", checkpoints.target(tx, params))
    assert_same_bits(found, (params, state))


def test_async_saving_is_not_disturbed_by_donation(tmp_path):
    """The next step overwrites donated buffers while the writer is at work; what is written is from before it."""
    tx, params = ftp(optax.adam(0.05)), some_params()
    step, state = jax.jit(step_of(tx), donate_argnums=(0, 1)), tx.init(params)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True)
    with ocp.CheckpointManager(tmp_path / "run", options=options) as manager:
        before = []
        for i in range(3):
            params, state = step(params, state, jax.tree.map(jnp.cos, params))
            before.append(jax.tree.map(lambda x: np.array(x, copy=True), (params, state)))
            manager.save(i, args=ocp.args.StandardSave((params, state)))
        manager.wait_until_finished()
        for i, expected in enumerate(before):
            target = jax.eval_shape(lambda: (params, state))
            assert_same_bits(manager.restore(i, args=ocp.args.StandardRestore(target)), expected)


# what does not fit is refused, and by name


@pytest.mark.parametrize("method", EVERY)
def test_a_run_with_another_mask_is_refused_by_the_name_of_a_parameter(method, tmp_path):
    params, state = trained(method)
    checkpoints.save(tmp_path / "run", params, state)
    more, fewer = None, {"body": {"bias": False, "kernel": True}, "head": False}
    with pytest.raises(ValueError, match=r"run has an array at '1\S*/head/kernel', the checkpoint has none.*mask"):
        checkpoints.restore(tmp_path / "run", transform(method, mask=more), params)
    with pytest.raises(ValueError, match=r"checkpoint has an array at '1\S*/body/bias', the run has none.*mask"):
        checkpoints.restore(tmp_path / "run", transform(method, mask=fewer), params)


def test_a_state_of_another_mask_is_refused_by_name_without_orbax():
    """A checkpoint that was read some other way: the first update tells the leaf."""
    tx, params = ftp(optax.sgd(0.1)), some_params()
    state = tx.init(params)
    fewer = {**params, "head": {}}
    with pytest.raises(ValueError, match=r"the state.*'head/kernel'"):
        tx.update(fewer, state, fewer)
    wider = {**params, "head": {"kernel": jnp.ones((16, 9))}}
    with pytest.raises(ValueError, match=r"the state has shape \(16, 8\) at 'head/kernel', the parameter \(16, 9\)"):
        tx.update(wider, state, wider)


def test_another_method_or_model_is_refused(tmp_path):
    params, tx = some_params(), ftp(optax.adam(1e-3))
    checkpoints.save(tmp_path / "run", params, tx.init(params))
    for other in (pgm(optax.adam(1e-3), radius=1.0), optax.chain(digrap(), optax.adam(1e-3)), optax.adam(1e-3)):
        with pytest.raises(ValueError, match=r"has an array at '1/\S*(anchor|displacement)\S*'"):
            checkpoints.restore(tmp_path / "run", other, params)
    layered = ftp(optax.adam(1e-3), layer_axes=lambda path, shape: int(path == "body/kernel"))
    with pytest.raises(ValueError, match=r"'1/radii' is float32\[3\] in the checkpoint, float32\[10\] in the run"):
        checkpoints.restore(tmp_path / "run", layered, params)
