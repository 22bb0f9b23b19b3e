"""The experiments: which trials answer which question."""

from collections.abc import Iterator, Sequence

from past.runs import Trial

__all__ = ["EXPERIMENTS", "SCALE_KNOBS", "scale_axes"]

SCALE_KNOBS = {"vanilla": 0.0, "ftp": 0.03, "ftp scale-free": 1.0}
"""Settings of about the same strength at the standard point; the question is whether it stays the same elsewhere."""


def scale_axes(task: str) -> dict[str, list[dict[str, float]]]:
    """By axis, the points along it: what differs from the standard point, which is the empty one."""
    axes: dict[str, list[dict[str, float]]] = {
        "learning rate": [{"rate": 1e-4}, {"rate": 3e-4}, {}, {"rate": 3e-3}, {"rate": 1e-2}],
        "steps": [{"epochs": 15 / 4}, {}, {"epochs": 60}],
        "batch": [{"batch": 8}, {}, {"batch": 128}],
        "width": [{"width": 0.5}, {}, {"width": 2.0}],
    }
    if task == "emoji":  # pre-trained weights come in one width; a step on 128 images takes too long
        axes = {
            "learning rate": [{"rate": 1e-4}, {}, {"rate": 1e-2}],
            "steps": [{"epochs": 2.5}, {"epochs": 10}],
            "batch": [{"batch": 8}, {}],
        }
        standard = {"epochs": 10}
        axes = {name: [standard | point for point in points] for name, points in axes.items()}
    return axes


def _scale(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Does one setting mean the same for other learning rates, run lengths, batches and widths?"""
    for seed in seeds:
        for points in scale_axes(task).values():
            for point in points:
                for method, knob in SCALE_KNOBS.items():
                    yield Trial(task, method, knob, seed, **point)  # pyright: ignore[reportArgumentType]


def _judges(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Which hyper-gradient gives the best frontier?"""
    epochs = 10 if task == "emoji" else 15
    knobs = (0.01, 0.1) if task == "emoji" else (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    for seed in seeds:
        yield Trial(task, "vanilla", 0.0, seed, epochs=epochs)
        for knob in knobs:
            for method in ("ftp", "ftp exact", "ftp smoothed"):
                yield Trial(task, method, knob, seed, epochs=epochs)
            for every in (4,) if task == "emoji" else (1, 4):
                yield Trial(task, "ftp", knob, seed, epochs=epochs, judge_every=every)


def _strengths(task: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """When does DiGraP act, and does it help?"""
    emoji = task == "emoji"
    epochs = 10 if emoji else 15
    lengths = (epochs,) if emoji else (15, 60)
    learned = ("digrap", "digrap from 1", "digrap after adam", "digrap after adam from 1")
    for seed in seeds:
        for length in lengths:
            yield Trial(task, "vanilla", 0.0, seed, epochs=length)
            for knob in (0.5,) if emoji else (0.01, 0.1, 0.5, 2.0, 10.0):
                for method in learned if emoji else (*learned, "digrap from 0.5"):
                    yield Trial(task, method, knob, seed, epochs=length)
            for method in ("digrap fixed", "digrap after adam fixed"):
                for knob in (1.0,) if emoji else (0.5, 1.0):
                    yield Trial(task, method, knob, seed, epochs=length)
        for rate in () if emoji else (3e-4, 3e-3):
            yield Trial(task, "vanilla", 0.0, seed, rate=rate)
            for method in ("digrap", "digrap after adam from 1"):
                yield Trial(task, method, 0.5, seed, rate=rate)
        for knob in (0.01, 0.1):
            for method in ("ftp", "digrap+ftp"):
                yield Trial(task, method, knob, seed, epochs=epochs)


EXPERIMENTS = {"scale": _scale, "judges": _judges, "strengths": _strengths}
"""By name, from a task and seeds to trials. Trials that two experiments share are run once."""
