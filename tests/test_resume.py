"""Exact resume: saved with Orbax in mid-training, restored in a new process, bit-identical to never stopping."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from ftp_optax import averaged, digrap, drift, ftp

PARAMS = {
    "body": {"kernel": jnp.sin(jnp.arange(20.0)).reshape(4, 5), "bias": jnp.zeros(5)},
    "blocks": {"kernel": jnp.cos(jnp.arange(24.0)).reshape(2, 4, 3)},
    "head": {"kernel": jnp.ones((3, 2))},
}
MASK = {"body": True, "blocks": True, "head": False}
LAYERS = {"layer_axes": lambda path, shape: int(path.startswith("blocks"))}
METHODS = {
    "ftp": lambda: ftp(optax.adamw(1e-2), mask=MASK, **LAYERS),
    "lean": lambda: ftp(optax.sgd(1e-2, momentum=0.9), mask=MASK, memory="lean", **LAYERS),
    "averaged": lambda: averaged(ftp(optax.adam(1e-2), mask=MASK, **LAYERS), kind="polynomial", start=2),
    "both": lambda: optax.chain(digrap(mask=MASK, **LAYERS), ftp(optax.adam(1e-2), mask=MASK, **LAYERS)),
}


def start(method, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    return METHODS[method](), params


def train(tx, params, state, first, last):
    update = jax.jit(tx.update)
    for step in range(first, last):
        grads = jax.tree.map(lambda x, s=step: (jnp.cos(x * 3) + 0.3 * jnp.sin(7.0 * s + x)).astype(x.dtype), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def resume(path, method, dtype):
    """What the new process does: restores with the target of eval_shape, goes on, saves what it ends with."""
    tx, params = start(method, dtype)
    target = jax.eval_shape(lambda p: (p, tx.init(p)), params)
    with ocp.StandardCheckpointer() as checkpointer:
        params, state = checkpointer.restore(pathlib.Path(path) / "middle", target)
        checkpointer.save(pathlib.Path(path) / "resumed", train(tx, params, state, 6, 12))


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("ftp", "float32"), ("ftp", "bfloat16"), ("lean", "float32"), ("both", "float32"), ("averaged", "bfloat16")],
)
def test_a_new_process_goes_on_bit_for_bit(tmp_path, method, dtype):
    tx, params = start(method, dtype)
    middle = train(tx, params, tx.init(params), 0, 6)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "middle", middle)
    subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"import test_resume; test_resume.resume({str(tmp_path)!r}, {method!r}, {dtype!r})",
        ],
        cwd=pathlib.Path(__file__).parent,
        check=True,
    )
    expected = train(tx, params, tx.init(params), 0, 12)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / "resumed", jax.eval_shape(lambda: expected))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for path, (one, other) in zip(
        (jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(expected)),
        zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True),
        strict=True,
    ):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), path
    if method == "ftp":
        assert (
            min(v for v in map(np.min, drift(*found[::-1]).values())) > 1e-3
        )  # the released code would be at the anchor


def test_a_checkpoint_of_another_mask_is_refused(tmp_path):
    tx, params = start("ftp", "float32")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", tx.init(params))
    other = jax.eval_shape(ftp(optax.adamw(1e-2), **LAYERS).init, params)
    with ocp.StandardCheckpointer() as checkpointer, pytest.raises(ValueError, match="head"):
        checkpointer.restore(tmp_path / "run", other)
