"""What a jitted, donated step costs, read off the compiled program: bytes, buffers, copies. No timings.

In units of the parameters' size. XLA on CPU fuses no two results into one loop, so adamw alone moves 10 streams.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from ftp_optax import digrap, ftp

PARAMS = {
    f"layer{i}": {
        "kernel": jax.ShapeDtypeStruct((256, n), jnp.float32),
        "bias": jax.ShapeDtypeStruct((n,), jnp.float32),
    }
    for i, n in enumerate((512, 512, 1024))
}
SIZE = sum(4 * x.size for x in jax.tree.leaves(PARAMS))
INNER = optax.adamw(1e-3)


@functools.cache
def cost(method):
    """Streams, temporaries, the share of results that reuse donated buffers, and the number of large copies."""
    tx = {
        "adamw": lambda: INNER,
        "ftp": lambda: ftp(INNER),
        "exact": lambda: ftp(INNER, hypergradient="exact"),
        "lean": lambda: ftp(INNER, memory="lean"),
        "digrap": lambda: optax.chain(digrap(), INNER),
    }[method]()

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, PARAMS)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, state, PARAMS).compile()
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    large = [line for line in compiled.as_text().splitlines() if " copy(" in line and "f32[256," in line]
    reused = memory.alias_size_in_bytes / memory.output_size_in_bytes
    return analysis["bytes accessed"] / SIZE, memory.temp_size_in_bytes / SIZE, reused, len(large)


def test_the_yardstick():
    streams, temporary, reused, copies = cost("adamw")
    assert streams == pytest.approx(10, abs=0.1)
    assert temporary < 0.01
    assert copies == 0
    assert reused > 0.999


@pytest.mark.parametrize("method", ["ftp", "exact"])
def test_ftp_adds_nine_streams_and_no_temporary(method):
    """Two for the hyper-gradient, two for the norms of both displacements, five to write one and project."""
    streams, temporary, reused, copies = cost(method)
    assert streams <= 19.1
    assert temporary <= 0.01
    assert copies == 0
    assert reused > 0.999


@pytest.mark.parametrize(("method", "streams", "temporary"), [("lean", 21.1, 1.1), ("digrap", 22.1, 0.02)])
def test_lean_and_digrap_reuse_every_donated_buffer(method, streams, temporary):
    """Lean still keeps the base optimizer's update for a while: a temporary of the parameters' size."""
    found, kept, reused, copies = cost(method)
    assert found <= streams
    assert kept <= temporary
    assert copies == 0
    assert reused > 0.999
