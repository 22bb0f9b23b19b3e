"""What a training run records of itself: loss and scalars by step, looks at the validation images, seconds."""

import time
from typing import Any, NamedTuple

import numpy as np

from vision.config import Config
from vision.data import Task, steps_in
from vision.step import learned_scalars

__all__ = ["Clock", "Plan", "new_history"]

_MAX_STEPS_BETWEEN_CHECKPOINTS = 200


class Plan(NamedTuple):
    """At which steps what is done: the last has a checkpoint and a look at the validation images in any case."""

    total: int
    save_every: int
    validate_every: int

    @classmethod
    def of(cls, config: Config, task: Task, total: int) -> "Plan":
        epoch = steps_in(task.epoch, config.batch_size, 1)
        every = epoch if config.validate_every is None else config.validate_every or total
        save_every = config.save_every or min(epoch, _MAX_STEPS_BETWEEN_CHECKPOINTS)
        return cls(total, save_every, every)

    @property
    def looks(self) -> int:
        """How often the validation images are looked at."""
        return self.look(self.total) + 1

    def look(self, done: int) -> int:
        """Which look follows that many steps, or is the next to come, from 0."""
        return -(-done // self.validate_every) - 1

    def saves(self, done: int) -> bool:
        return done % self.save_every == 0 or done == self.total

    def validates(self, done: int) -> bool:
        return done % self.validate_every == 0 or done == self.total

    def reached(self, history: dict[str, np.ndarray], done: int) -> list[tuple[int, float, float]]:
        """Step, accuracy and loss of each look so far."""
        rows = history["validation"][: self.look(done) + 1].tolist()
        return [(self._step(look), accuracy, loss) for look, (accuracy, loss) in enumerate(rows)]

    def since_best(self, history: dict[str, np.ndarray], done: int) -> int:
        """How many looks ago the validation accuracy was best."""
        seen = history["validation"][: self.look(done) + 1, 0]
        return len(seen) - 1 - int(seen.argmax())

    def best(self, history: dict[str, np.ndarray]) -> tuple[int, float] | None:
        """The step of the best validation accuracy, the first of equal ones."""
        accuracies = history["validation"][:, 0]
        look = int(accuracies.argmax())  # those that were not reached are -1
        return None if accuracies[look] < 0 else (self._step(look), float(accuracies[look]))

    def _step(self, look: int) -> int:
        return min((look + 1) * self.validate_every, self.total)


class Clock:
    """Counts the seconds of training and those spent waiting for input, without what compiles or validates."""

    def __init__(self, history: dict[str, np.ndarray]) -> None:
        self.running = False
        self._history = history
        self._since = self._waited = 0.0

    def waiting(self, seconds: float) -> None:
        self._waited += seconds

    def read(self, steps: int) -> None:
        now = time.perf_counter()
        if self.running:
            self._history["seconds"] += now - self._since
            self._history["waited_seconds"] += self._waited
            self._history["timed_steps"] += steps
        self.running, self._since, self._waited = True, now, 0.0

    def skip(self) -> None:
        """Leaves out what has gone by since the last reading."""
        self._since, self._waited = time.perf_counter(), 0.0

    def rates(self, batch_size: int) -> dict[str, float]:
        """Images a second, and the share of the time in which the devices wait for input."""
        seconds = float(self._history["seconds"])
        if seconds <= 0:
            return {}
        images = float(self._history["timed_steps"]) * batch_size
        return {"images_per_second": images / seconds, "waiting": float(self._history["waited_seconds"]) / seconds}


def new_history(steps: int, validations: int, opt_state: Any) -> dict[str, np.ndarray]:
    history: dict[str, np.ndarray] = {name: np.zeros(steps, np.float32) for name in ("loss", "accuracy")}
    for name, scalars in learned_scalars(opt_state).items():
        history[name] = np.zeros((steps, *scalars.shape), np.float32)
    history["validation"] = np.full((validations, 2), -1.0)
    history |= {name: np.zeros(()) for name in ("seconds", "waited_seconds")}
    return history | {name: np.zeros((), np.int32) for name in ("timed_steps", "bad_images", "stopped")}
