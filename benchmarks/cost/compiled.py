"""One jitted, donated step: compiled from shapes alone, its costs read off the program, and timed if memory allows."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cost import hlo, methods, trees
from ftp_optax import state_shardings


class Step(NamedTuple):
    """A compiled step of an optimizer, the shapes it is for, and what it costs; on a mesh, on each device."""

    tx: optax.GradientTransformationExtraArgs
    params: Any
    state: Any
    program: Any
    start_seconds: float  # to trace, lower and compile: CPU time, which a busy machine does not stretch

    @property
    def bytes_accessed(self) -> float:
        return self.program.cost_analysis()["bytes accessed"]

    @property
    def memory(self) -> Any:
        """Bytes of arguments, which are parameters, state and gradients, and of the rest."""
        return self.program.memory_analysis()


def compiled(tx: optax.GradientTransformationExtraArgs, params: Any, *, cold: bool = False) -> Step:
    """Compiles a step for parameters of which only shapes and shardings are known; nothing is allocated.

    With `cold` all that was traced before is forgotten, so that a step does not find the pieces that it shares with
    another one ready: for a fair trace time.
    """
    state, places = jax.eval_shape(tx.init, params), None
    if jax.tree.leaves(params)[0].sharding is not None:
        place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        state = jax.tree.map(place, state, state_shardings(tx, params))
        places = jax.tree.map(lambda leaf: leaf.sharding, (params, state))

    # In this order: XLA pairs donated arguments with results of the same shape one after the other.
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        held_out_loss = lambda params: optax.tree.norm(params, squared=True) / 2
        updates, state = tx.update(grads, state, params, held_out_loss=held_out_loss)
        return optax.apply_updates(params, updates), state

    if cold:
        jax.clear_caches()
    start = time.process_time()
    program = jax.jit(step, donate_argnums=(0, 1), out_shardings=places).lower(params, state, params).compile()
    return Step(tx, params, state, program, time.process_time() - start)


def over_base(shapes: Any, base: methods.BaseName, names: Sequence[str], runs: int) -> list[dict[str, Any]]:
    """One row for the base optimizer and one for each method round it: what a step costs, alone and over the base's.

    A method and its base are run so many times in turn if both fit into memory.
    """
    compiled(methods.method(methods.BASE), trees.dense(10**4, 2))  # the first compilation of a process is slow
    steps = {name: compiled(methods.method(name, base), shapes, cold=True) for name in (methods.BASE, *names)}
    alone, parameters, size = steps[methods.BASE], trees.count(shapes), trees.size(shapes)
    return [
        {
            "method": name,
            "parameters": parameters,
            "leaves": len(jax.tree.leaves(shapes)),
            "bytes_accessed": step.bytes_accessed,
            "streams": step.bytes_accessed / size,
            "arguments": step.memory.argument_size_in_bytes / size,
            "temporary": step.memory.temp_size_in_bytes / size,
            "flops_per_parameter": step.program.cost_analysis()["flops"] / parameters,
            "collectives": {kind: len(sizes) for kind, sizes in hlo.collectives(step.program.as_text()).items()},
            "start_seconds": step.start_seconds,
            "start_over_base": step.start_seconds / alone.start_seconds,
            "bytes_over_base": step.bytes_accessed / alone.bytes_accessed,
            "time_over_base": _compared(alone, step, runs) if runs and needed(alone, step) <= memory_limit() else None,
        }
        for name, step in steps.items()
    ]


class Runner:
    """A compiled step with arrays of its own: every call makes one step, and gives the seconds that it took."""

    def __init__(self, program: Any, params: Any, state: Any, *batches: Any):
        self.program, self._params, self._state, self._batches = program, params, state, batches

    def __call__(self) -> float:
        start = time.perf_counter()
        self._params, self._state = jax.block_until_ready(self.program(self._params, self._state, *self._batches))
        return time.perf_counter() - start


def arrays(shapes: Any, scale: float) -> Any:
    """Normally distributed arrays of the given shapes and dtypes; a million numbers, over and over."""
    numbers = scale * np.random.default_rng(0).standard_normal(2**20, np.float32)
    return jax.tree.map(lambda s: jnp.asarray(np.resize(numbers, s.shape).astype(s.dtype)), shapes)


def needed(*steps: Step) -> int:
    """The bytes that it takes to run steps in turn, each with parameters and state of its own, the gradients shared."""
    shared = (len(steps) - 1) * trees.size(steps[0].params)
    memory = [step.memory for step in steps]
    arguments = sum(bytes_.argument_size_in_bytes for bytes_ in memory)
    return arguments - shared + max(bytes_.temp_size_in_bytes for bytes_ in memory)


def memory_limit() -> float:
    """The bytes that a benchmark may fill: 0.6 of the device's memory."""
    stats = jax.devices()[0].memory_stats() or {}  # the CPU has none
    return 0.6 * stats.get("bytes_limit", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def in_turn(runners: Mapping[str, Callable[[], float]], runs: int, warm_up: int = 2) -> dict[str, list[float]]:
    """The seconds of every call of every runner by name: in turn, in one process, since a machine's speed drifts.

    The order is reversed from round to round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(warm_up + runs):
        for name in list(runners)[:: -1 if i % 2 else 1]:
            seconds[name].append(runners[name]())
    return {name: each[warm_up:] for name, each in seconds.items()}


def ratio(base: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """How long a step takes over the base's: ratios of medians and of minima, 10th and 90th percentile by round."""
    low, high = np.percentile(np.divide(other, base), (10, 90))
    base_median, median = statistics.median(base), statistics.median(other)
    return {
        "ratio": median / base_median,
        "ratio_of_minima": min(other) / min(base),
        "spread": (float(low), float(high)),
        "seconds": median,
        "base_seconds": base_median,
        "runs": len(base),
    }


def _compared(base: Step, other: Step, runs: int) -> dict[str, Any]:
    """The `ratio` of two steps run in turn, each on arrays of its own."""
    grads = arrays(base.params, scale=0.01)

    def runner(step: Step) -> Runner:
        params = arrays(step.params, scale=0.1)
        return Runner(step.program, params, jax.jit(step.tx.init)(params), grads)

    seconds = in_turn({"base": runner(base), "other": runner(other)}, runs)
    return ratio(seconds["base"], seconds["other"])
