"""Results of a run that was never made: what the report and the figures are drawn from."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from vision.config import Config
from vision.data import ArrayDomain, Task
from vision.evaluation import Candidate, Predicted
from vision.results import START, Results, candidates, test_sets


@dataclass(frozen=True)
class Unreadable(ArrayDomain):
    """A domain with images that cannot be read."""

    bad: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert index not in self.bad, "an image that was passed over is not read again"
        return super().__getitem__(index)


def domain(name: str, labels: list[int], bad: tuple[int, ...] = ()) -> ArrayDomain:
    images = np.full((len(labels), 4, 4, 3), 90, np.uint8)
    return Unreadable(name, images, np.array(labels, np.int32), bad)


def trained(params: Any, radii: dict[str, Any], strengths: dict[str, Any], steps: int = 20, **more: Any) -> Any:
    """A method that has learned these at its end, and half of them before."""
    ramp = np.linspace(0.5, 1, steps, dtype=np.float32)[:, None]
    columns = lambda found: np.concatenate([np.ravel(value) for value in found.values()]) * ramp
    history = {"loss": np.linspace(2, 1, steps), "accuracy": np.linspace(0, 1, steps)}
    history |= {"radii": columns(radii)} if radii else {}
    history |= {"strengths": columns(strengths)} if strengths else {}
    totals = {"seconds": 4.0, "waited_seconds": 1.0, "timed_steps": steps - 1, "bad_images": 3}
    return SimpleNamespace(
        selected=lambda which: SimpleNamespace(params=params[which]),
        best=None,
        radii=radii,
        strengths=strengths,
        history=history | {name: np.asarray(value) for name, value in totals.items()},
        validations=[(10, 0.5, 1.5), (15, 0.75, 1.25), (20, 0.75, float("nan"))],
        stopped_early=False,
        **more,
    )


def made(
    config: Config,
    methods: dict[str, Any],
    *,
    order: list[str] = ["body/kernel", "head/kernel"],  # noqa: B006
    head: Any = "pre-trained",
    bad: tuple[int, ...] = (1,),
    predictions: dict[Candidate, dict[str, list[int]]] | None = None,
) -> Results:
    """A task of three classes: ID `photo` with four images, OOD `sketch` with four of which some cannot be read."""
    photo, validation, sketch = (
        domain("photo", [0, 0, 1, 2]),
        domain("photo", [0, 1]),
        domain("sketch", [0, 2, 0, 2], bad),
    )
    task = Task(
        "folders", ("ant", "bee", "cat"), 4, photo, validation, photo, {"sketch": sketch}, {"drawn": ("sketch",)},
        {"sketch": (0, 2)},
    )  # fmt: skip
    said = {}
    for candidate in candidates(config, head):
        labels = (predictions or {}).get(candidate, {})
        said[candidate] = {
            name: Predicted(
                np.array(labels.get(name, one.labels)),
                np.full(len(one), 0.75, np.float32),
                np.array([not (one is sketch and i in bad) for i in range(len(one))]),
            )
            for name, one in test_sets(task).items()
        }
    pretrained = {"body": {"kernel": jnp.zeros((2, 2))}, "head": {"kernel": jnp.zeros((2, 3))}}
    return Results(config, task, pretrained, head, order, methods, said)


__all__ = ["START", "Unreadable", "made", "trained"]
