"""A long run of a small real job, on one device and on two: drift between them, memory, compilations, counters.

A network that reads handwritten digits is fine-tuned on the same digits moved by a pixel, with DiGraP and FTP round
AdamW.
"""

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from sklearn.datasets import load_digits

from ftp_optax import digrap, ftp

LAST = np.iinfo(np.int32).max
_COMPILED = "/jax/core/compile/backend_compile_duration"
BATCH = 32  # images in a step


def method(steps: int | None) -> optax.GradientTransformationExtraArgs:
    """Both methods, round AdamW: with a cosine schedule to zero, or without one."""
    rate = 1e-3 if steps is None else optax.cosine_decay_schedule(1e-3, steps)
    return optax.chain(digrap(), ftp(optax.adamw(rate, weight_decay=1e-4)))


def network(params: Any, images: jax.Array) -> jax.Array:
    """Logits of a perceptron with one hidden layer."""
    hidden = jnp.tanh(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def _loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    logits = network(params, images).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def runner(tx: optax.GradientTransformation, steps: int) -> Callable[..., Any]:
    """``chunk(params, state, images, labels, first) -> (params, state, mean loss)`` of so many steps, compiled once."""

    def chunk(params: Any, state: Any, images: jax.Array, labels: jax.Array, first: jax.Array) -> Any:
        def step(carry: Any, index: jax.Array) -> Any:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(jax.random.key(0), index), (BATCH,), 0, labels.size)
            loss, grads = jax.value_and_grad(_loss)(params, images[rows], labels[rows])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), first + jnp.arange(steps))
        return params, state, losses.mean()

    return jax.jit(chunk, donate_argnums=(0, 1))


def _start(dtype: Any) -> tuple[Any, jax.Array, jax.Array]:
    """The pre-trained network, and the images that it is fine-tuned on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    keys = jax.random.split(jax.random.key(1))
    params: Any = {
        "hidden": {"kernel": jax.random.normal(keys[0], (64, 32)) / 8, "bias": jnp.zeros(32)},
        "out": {"kernel": jax.random.normal(keys[1], (32, 10)) / 6, "bias": jnp.zeros(10)},
    }
    tx = optax.adam(3e-3)
    params, _, _ = runner(tx, 1_000)(params, tx.init(params), images[:900], labels[:900], jnp.int32(0))
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    moved = jnp.roll(images.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    return cast(params), cast(moved), labels


def _placed(tree: Any) -> Any:
    """The network cut over two devices, by outputs and by inputs."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"hidden": {"kernel": P(None, "x"), "bias": P("x")}, "out": {"kernel": P("x", None), "bias": P()}}
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def _memory() -> tuple[int, int]:
    """Bytes of all live arrays, and of the process."""
    gc.collect()
    live = sum(x.nbytes for x in jax.live_arrays())
    return live, int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Run(NamedTuple):
    """What a run has come to, what it started from, and what is recorded of it."""

    params: Any
    anchor: Any
    found: dict[str, Any]


def train(dtype: Any, steps: int, chunk: int, *, sharded: bool = False, counters: int = 0) -> Run:
    """One run, so many steps in each call of the compiled program; the state's counters start where they are told."""
    params, images, labels = _start(dtype)
    params = _placed(params) if sharded else params
    tx = method(None if counters else steps)  # a schedule would be past its end
    state = tx.init(params)
    state = jax.tree.map(lambda x: x + counters if x.dtype == jnp.int32 and x.ndim == 0 else x, state)
    anchor, run, compilations, losses, memory = jax.device_get(params), runner(tx, chunk), [], [], []
    count: Callable[..., None] = lambda event, *_, **__: compilations.append(event) if event == _COMPILED else None
    jax.monitoring.register_event_duration_secs_listener(count)
    for first in range(0, steps, chunk):
        params, state, loss = run(params, state, images, labels, jnp.int32(first))
        losses.append(float(loss))
        memory.append(_memory())
        if len(losses) == 2:  # on a mesh the second call compiles once more: new states lie where XLA put them
            compilations.clear()
    compiled = len(compilations)
    jax.monitoring.unregister_event_duration_listener(count)
    found = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "accuracy": float((network(params, images).argmax(-1) == labels).mean()),
        "compilations_after_the_second_chunk": compiled,
        "live_bytes_grown": memory[-1][0] - memory[2][0],
        "process_bytes_grown": memory[-1][1] - memory[2][1],
        "counters": sorted({int(x) for x in jax.tree.leaves(state) if x.dtype == jnp.int32 and x.ndim == 0}),
        "finite": all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((params, state))),
    }
    return Run(jax.device_get(params), anchor, found)


def compare(dtype: Any, steps: int, chunk: int) -> dict[str, Any]:
    """The same run on one device and on two, as one row of the report."""
    alone, sharded = (train(dtype, steps, chunk, sharded=on_two) for on_two in (False, True))
    distance = lambda a, b: optax.tree.norm(optax.tree.sub(*(optax.tree.cast(tree, jnp.float32) for tree in (a, b))))
    apart = distance(alone.params, sharded.params) / distance(alone.params, alone.anchor)
    return {
        "dtype": jnp.dtype(dtype).name,
        "steps": steps,
        "apart_over_distance_from_anchor": float(apart),
        "one_device": alone.found,
        "two_devices": sharded.found,
    }


def past_the_last_count(chunk: int = 200) -> dict[str, Any]:
    """A run whose step counters all start just below the last int32, and reach it in the first chunk."""
    return train(jnp.float32, 3 * chunk, chunk, counters=LAST - chunk // 2).found


# How far apart one device and two may end, over the distance from the anchor. They sum in another order, and every step
# passes the rounding on to the next.
BOUNDS = {"float32": 1e-2, "bfloat16": 5e-2}
_GROWTH = 16 * 2**20  # bytes: what an allocator may keep; a leak of one state a chunk would be more


def require(row: dict[str, Any]) -> None:
    """Raises unless a long run is as docs/reliability.md says."""
    assert row["apart_over_distance_from_anchor"] < BOUNDS[row["dtype"]], row
    for devices in ("one_device", "two_devices"):
        run = row[devices]
        assert run["finite"], row
        assert run["last_loss"] < 0.5 * run["first_loss"], row
        assert run["compilations_after_the_second_chunk"] == 0, row
        assert run["live_bytes_grown"] == 0, row
        assert run["process_bytes_grown"] < _GROWTH, row


def require_counters(end: dict[str, Any]) -> None:
    """Raises unless counters stopped at the last int32 and the run went on."""
    assert end["finite"], end
    assert max(end["counters"]) == LAST, end
    assert min(end["counters"]) >= 0, end
    assert end["last_loss"] < end["first_loss"], end


def survive(*, smallest: bool) -> dict[str, Any]:
    """Float32 and bfloat16, on one device and on two; then past the last int32."""
    dtypes = (jnp.float32,) if smallest else (jnp.float32, jnp.bfloat16)
    rows = [compare(dtype, *((2_000, 100) if smallest else (100_000, 1_000))) for dtype in dtypes]
    counters = past_the_last_count()
    Console().print_json(json.dumps([rows, counters]))  # before they are judged: they took long
    for row in rows:
        require(row)
    require_counters(counters)
    return {"rows": rows, "counters": counters}
