"""Time of one step over that of another: measured in turn, in one process, since a machine's speed drifts."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from measure import step as steps

_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How long a step takes over the base's."""

    ratio: float  # of the medians
    ratio_of_minima: float
    spread: tuple[float, float]  # the 10th and 90th percentile of the ratios round by round
    seconds: float  # the step's median
    base_seconds: float  # the base's median
    runs: int


def compare(base: steps.Step, other: steps.Step, runs: int, limit: float) -> Ratio | None:
    """Runs two steps in turn, A/B/A/B, each on arrays of its own.

    Args:
      base: the step to compare with.
      other: the step.
      runs: the number of rounds.
      limit: the bytes that may be allocated.

    Returns:
      The ratio, or None if the two do not fit into memory together.
    """
    if steps.needed(base, other) * _devices(base) > limit:
        return None
    grads = steps.arrays(base.params, scale=0.01)
    return ratio(*interleaved([steps.Runner(s, grads) for s in (base, other)], runs))


def interleaved(runners: Sequence[Callable[[], None]], runs: int) -> list[list[float]]:
    """The seconds of every call of every runner, called in turn."""
    seconds: list[list[float]] = [[] for _ in runners]
    for i in range(_WARM_UP + runs):
        for runner, taken in zip(runners, seconds, strict=True):
            start = time.perf_counter()
            runner()
            if i >= _WARM_UP:
                taken.append(time.perf_counter() - start)
    return seconds


def in_turn(runners: Mapping[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """The seconds of every call of every runner by name, the order reversed from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for i in range(_WARM_UP + runs):
        for name in list(runners)[:: -1 if i % 2 else 1]:
            start = time.perf_counter()
            runners[name]()
            if i >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio of two series that were measured in turn."""
    low, high = np.percentile(np.divide(other, base), (10, 90))
    base_median, median = statistics.median(base), statistics.median(other)
    return Ratio(
        ratio=median / base_median,
        ratio_of_minima=min(other) / min(base),
        spread=(float(low), float(high)),
        seconds=median,
        base_seconds=base_median,
        runs=len(base),
    )


def _devices(step: steps.Step) -> int:
    """How many devices the step runs on; they are the host's and share its memory."""
    sharding = jax.tree.leaves(step.params)[0].sharding
    return 1 if sharding is None else len(sharding.device_set)
