"""Number formats: compute in bfloat16 over float32 parameters, and 64-bit mode, for every method.

Parameters of less than 32 bits are in `test_contract.py` and `test_ftp.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_contract import METHODS, step_of

STEPS = 30


def some_params(dtype: Any = jnp.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(0.3 * rng.standard_normal(shape), dtype)
    return {"body": {"bias": make(16), "kernel": make(8, 16)}, "head": {"kernel": make(16, 4)}}


def transform(method: str) -> Any:
    make, base = METHODS[method]
    return make(base)


def loss_of(params: Any, compute: Any) -> jax.Array:
    """Of a regression, the model computed in any format, the mean of the loss in float32."""
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.standard_normal((32, n)), compute) for n in (8, 4))
    low = jax.tree.map(lambda p: p.astype(compute), params)
    outputs = jnp.tanh(x @ low["body"]["kernel"] + low["body"]["bias"]) @ low["head"]["kernel"]
    return jnp.mean(jnp.square((outputs - y).astype(jnp.float32)))


def train(method: str, compute: Any) -> tuple[Any, Any]:
    tx, params = transform(method), some_params()

    @jax.jit
    def run(params: Any, state: Any) -> Any:
        step = lambda carry, _: (step_of(tx)(*carry, jax.grad(loss_of)(carry[0], compute)), None)
        return jax.lax.scan(step, (params, state), length=STEPS)[0]

    return run(params, tx.init(params))


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_compute_over_float32_parameters_trains_as_float32_does(method):
    full, low = train(method, jnp.float32), train(method, jnp.bfloat16)
    assert jax.tree.map(jnp.result_type, full) == jax.tree.map(jnp.result_type, low)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(low))
    start, *ends = (float(loss_of(p, jnp.float32)) for p in (some_params(), full[0], low[0]))
    assert max(ends) < 0.9 * start
    assert ends[0] == pytest.approx(ends[1], abs=0.03 * (start - ends[0]))


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_gradients_of_float32_parameters_are_taken(method):
    """As when a loss scale or an all-reduce in bfloat16 sits in front of the optimizer."""
    tx, params = transform(method), some_params()
    grads = jax.tree.map(lambda p: jnp.cos(p).astype(jnp.bfloat16), params)
    state = tx.init(params)
    dtypes = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
    (updates, new) = jax.eval_shape(tx.update, grads, state, params)
    fields = ("radii", "strengths", "anchor", "displacement")
    ours = lambda tree: [value for name in fields for _, value in optax.tree.get_all_with_path(tree, name)]
    assert dtypes(ours(new)) == dtypes(ours(state))
    assert dtypes(jax.eval_shape(optax.apply_updates, params, updates)) == dtypes(params)


@pytest.mark.parametrize("method", METHODS)
def test_64_bit_mode_leaves_float32_parameters_in_float32_and_takes_float64_ones(method):
    expected = jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(transform(method).init, some_params()))
    with jax.enable_x64(True):
        tx, params = transform(method), some_params()
        state = tx.init(params)
        (updates, new) = jax.eval_shape(tx.update, params, state, params)
        for found in (state, new):
            assert jax.tree.map(lambda leaf: leaf.dtype, found) == expected
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}

        params = some_params(jnp.float64)
        updates, new = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)
        arrays = jax.tree.leaves((updates, new))
        assert {leaf.dtype for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.floating)} == {jnp.dtype(jnp.float64)}
