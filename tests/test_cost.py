"""What a jitted, donated step costs, read off the compiled program: bytes, buffers, copies. No timings.

In units of the parameters' size. XLA on CPU fuses no two results into one loop, so adamw alone moves 10 streams.
"""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from ftp_optax import averaged, digrap, ftp

PARAMS = {
    f"layer{i}": {
        "kernel": jax.ShapeDtypeStruct((768, n), jnp.float32),
        "bias": jax.ShapeDtypeStruct((n,), jnp.float32),
    }
    for i, n in enumerate((96, 96, 128, 128) * 3)
}
SIZE = sum(4 * x.size for x in jax.tree.leaves(PARAMS))
INNER = optax.adamw(1e-3)


def lowered(method, params):
    """The jitted, donated step of a method round adamw, not yet compiled."""
    tx = {
        "adamw": lambda: INNER,
        "ftp": lambda: ftp(INNER),
        "exact": lambda: ftp(INNER, hypergradient="exact"),
        "lean": lambda: ftp(INNER, memory="lean"),
        "digrap": lambda: optax.chain(digrap(), INNER),
        "averaged": lambda: averaged(INNER),
    }[method]()

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)


@functools.cache
def cost(method):
    """Streams, temporaries, the share of results that reuse donated buffers, and the number of large copies."""
    program = lowered(method, PARAMS).compile()
    memory, analysis = program.memory_analysis(), program.cost_analysis()
    large = [line for line in program.as_text().splitlines() if " copy(" in line and "f32[768," in line]
    reused = memory.alias_size_in_bytes / memory.output_size_in_bytes
    return analysis["bytes accessed"] / SIZE, memory.temp_size_in_bytes / SIZE, reused, len(large)


def test_the_yardstick():
    streams, temporary, reused, copies = cost("adamw")
    assert streams == pytest.approx(10, abs=0.1)
    assert temporary < 0.01
    assert copies == 0
    assert reused > 0.999


@pytest.mark.parametrize("method", ["ftp", "exact"])
def test_ftp_adds_eight_streams_and_no_temporary(method):
    """Two for both sums of the hyper-gradient, one for the norms of the new displacement, five to write it and project.

    The fraction is what is left of a leaf between two sums, written and read.
    """
    streams, temporary, reused, copies = cost(method)
    assert streams <= 18.25
    assert temporary <= 0.01
    assert copies == 0
    assert reused > 0.999


@pytest.mark.parametrize(("method", "streams", "temporary"), [("lean", 20.25, 1.02), ("digrap", 19.5, 0.02)])
def test_lean_and_digrap_reuse_every_donated_buffer(method, streams, temporary):
    """Lean still keeps the base optimizer's update for a while: a temporary of the parameters' size."""
    found, kept, reused, copies = cost(method)
    assert found <= streams
    assert kept <= temporary
    assert copies == 0
    assert reused > 0.999


def test_averaging_adds_three_streams():
    """Read the average, read what the parameters have become, write the average: one loop, in place."""
    streams, temporary, reused, copies = cost("averaged")
    assert streams <= 13.05
    assert temporary < 0.01
    assert copies == 0
    assert reused > 0.999


COMPUTATION = re.compile(r"^%(\S+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
NOISE = re.compile(r", (metadata|backend_config)=.*")


def loops(method, leaves):
    """The number of different loops over matrices that a step of equal leaves is made of, names apart."""
    params = {f"kernel{i}": jax.ShapeDtypeStruct((256, 512), jnp.float32) for i in range(leaves)}
    text = lowered(method, params).compile().as_text()
    bodies = set()
    for name, body in COMPUTATION.findall(text):
        seen = {}
        body = re.sub(
            r"%[\w.-]+", lambda found, seen=seen: f"%{seen.setdefault(found[0], len(seen))}", NOISE.sub("", body)
        )
        if f"calls=%{name}" in text and "f32[256,512]" in body:
            bodies.add(body)
    return len(bodies)


@pytest.mark.parametrize("method", ["adamw", "ftp", "digrap"])
def test_leaves_of_one_shape_share_their_loops(method):
    """Each loop is compiled once: which scalar of the stacked ones is the leaf's must not be part of its code."""
    assert loops(method, 6) == loops(method, 3) < 12


@pytest.mark.parametrize(("method", "most"), [("adamw", 0), ("ftp", 4), ("digrap", 2)])
def test_conditionals_do_not_grow_with_the_leaves(method, most):
    """The platform is asked for once a pass, not once a leaf, which the compiler paid for."""
    for leaves in (2, 5):
        params = {f"kernel{i}": jax.ShapeDtypeStruct((256, 512), jnp.float32) for i in range(leaves)}
        assert lowered(method, params).as_text().count("stablehlo.case") == most


@pytest.mark.parametrize(("method", "most"), [("adamw", 6), ("ftp", 14), ("digrap", 16)])
def test_a_layer_adds_few_loops(method, most):
    """What compiling takes time for; one layer is a kernel and a bias. Leaf by leaf `ftp` took 22, `digrap` 24."""

    def count(layers):
        shapes = {"kernel": (384, 192), "bias": (192,)}
        layer = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
        text = lowered(method, {f"layer{i:02}": layer for i in range(layers)}).compile().as_text()
        return len(re.findall(r" (?:fusion|reduce|reduce-window)\(", text[text.index("\nENTRY") :]))

    assert (count(24) - count(8)) / 16 <= most
