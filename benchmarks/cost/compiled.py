"""One jitted, donated step: compiled from shapes alone, its costs read off the program, and timed if memory allows."""

import collections
import dataclasses
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from cost import trees

_WARM_UP = 2
_COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")

Placement = Callable[[tuple[int, ...]], jax.sharding.Sharding]


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a compiled step costs; on a mesh, on each device."""

    bytes_accessed: float
    flops: float
    argument_bytes: int  # parameters, state and gradients
    temporary_bytes: int
    reused: float  # the share of the results that takes the place of donated arguments
    collectives: dict[str, int]
    trace_seconds: float  # tracing and lowering, of CPU time, which a busy machine does not stretch
    compile_seconds: float  # XLA's part, all threads together

    @property
    def startup_seconds(self) -> float:
        """What the first call costs more than the others."""
        return self.trace_seconds + self.compile_seconds


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step of an optimizer, and the shapes it was compiled for."""

    tx: optax.GradientTransformation
    params: Any
    state: Any
    run: Callable[..., Any]
    costs: Costs


def donated(tx: optax.GradientTransformation, out_shardings: Any = None) -> Any:
    """The jitted step of an optimizer, from parameters, state and gradients to parameters and state."""

    # In this order: XLA pairs donated arguments with results of the same shape one after the other.
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1), out_shardings=out_shardings)


def placed(tx: optax.GradientTransformation, params: Any, placement: Placement | None) -> tuple[Any, Any]:
    """The shapes of parameters and of an optimizer's state for them, where they lie."""
    return _placed(params, placement), _placed(jax.eval_shape(tx.init, params), placement)


def compiled(
    tx: optax.GradientTransformation, params: Any, placement: Placement | None = None, *, cold: bool = False
) -> Step:
    """Compiles a step for parameters of which only the shapes are known; nothing is allocated.

    With `cold` all that was traced before is forgotten, so that a step does not find the pieces that it shares with
    another one ready: for a fair trace time.
    """
    params, state = placed(tx, params, placement)
    out = None if placement is None else jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    if cold:
        jax.clear_caches()
    start = time.process_time()
    lowered = donated(tx, out).lower(params, state, params)
    traced = time.process_time()
    program = lowered.compile()
    end = time.process_time()
    analysis: Any = program.cost_analysis()
    memory: Any = program.memory_analysis()
    costs = Costs(
        bytes_accessed=analysis["bytes accessed"],
        flops=analysis["flops"],
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        reused=memory.alias_size_in_bytes / memory.output_size_in_bytes,
        collectives=dict(collections.Counter(_COLLECTIVE.findall(program.as_text() or ""))),
        trace_seconds=traced - start,
        compile_seconds=end - traced,
    )
    return Step(tx, params, state, program, costs)


class Runner:
    """A compiled step with arrays to work on: every call makes one step and waits for it."""

    def __init__(self, step: Step, grads: Any):
        self._run, self._grads = step.run, grads
        self.params = arrays(step.params, scale=0.1)
        # a jitted init makes replicated moments on a mesh, unless it is told
        shardings = jax.tree.map(lambda leaf: leaf.sharding, step.state)
        self.state = jax.jit(step.tx.init, out_shardings=shardings)(self.params)

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self._run(self.params, self.state, self._grads))


def arrays(shapes: Any, scale: float) -> Any:
    """Normally distributed arrays of the given shapes, dtypes and shardings; a million numbers, over and over."""
    numbers = scale * np.random.default_rng(0).standard_normal(2**20, np.float32)
    make = lambda s: jax.device_put(np.resize(numbers, s.shape).astype(s.dtype), s.sharding)
    return jax.tree.map(make, shapes)


def needed(*steps: Step) -> int:
    """The bytes that it takes to run steps in turn, each with parameters and state of its own, the gradients shared."""
    shared = (len(steps) - 1) * trees.size(steps[0].params)
    return sum(s.costs.argument_bytes for s in steps) - shared + max(s.costs.temporary_bytes for s in steps)


def memory_limit(gigabytes: float | None = None) -> float:
    """The bytes that a benchmark may fill: what it was told, or 0.6 of the device's memory."""
    if gigabytes is not None:
        return 1e9 * gigabytes
    stats = jax.devices()[0].memory_stats() or {}  # the CPU has none
    return 0.6 * stats.get("bytes_limit", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def compare(base: Step, other: Step, runs: int, limit: float) -> dict[str, Any] | None:
    """The `ratio` of two steps run in turn, each on arrays of its own; None if that takes more bytes than `limit`."""
    sharding = jax.tree.leaves(base.params)[0].sharding
    devices = 1 if sharding is None else len(sharding.device_set)  # the host's, which share its memory
    if needed(base, other) * devices > limit:
        return None
    grads = arrays(base.params, scale=0.01)
    seconds = in_turn({"base": Runner(base, grads), "other": Runner(other, grads)}, runs)
    return ratio(seconds["base"], seconds["other"])


def in_turn(runners: Mapping[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """The seconds of every call of every runner by name: in turn, in one process, since a machine's speed drifts.

    The order is reversed from round to round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(_WARM_UP + runs):
        for name in list(runners)[:: -1 if i % 2 else 1]:
            start = time.perf_counter()
            runners[name]()
            if i >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


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


def _placed(shapes: Any, placement: Placement | None) -> Any:
    if placement is None:
        return shapes
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=placement(s.shape)), shapes)
