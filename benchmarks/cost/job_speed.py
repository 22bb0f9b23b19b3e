"""Images a second of the main job's own loop, beside a plain loop of the same model with optax alone.

The plain loop holds one batch in memory and does nothing but the jitted adamw step. The main job's loop decodes image
files and keeps a history; its checkpoint comes at the end of a round. All run in turn, round by round, in one process.
Told are ratios of medians over the plain loop, with the 10th and 90th percentile of the ratios round by round. Where
decoding is the bottleneck, the share of the time that is spent waiting for input says so.
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import writer
from cost import compiled, methods, networks
from cost.part import Part, Row, spread
from cost.train import training
from vision.cache import keep_compiled_programs
from vision.config import Config
from vision.data import Task
from vision.devices import Devices
from vision.folders import folder_task
from vision.networks import Network, Params, split_model
from vision.training import fine_tune

PLAIN = "plain optax loop"
CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Measures the main job's loop against a plain one; smallest is a tiny transformer, one method, two rounds."""

    methods: tuple[str, ...] = ("vanilla", "ftp")  # Methods of the main job.
    batch_size: int = 16  # Images in a step.
    steps: int = 9  # Steps in a round.
    rounds: int = 4  # Rounds, each with every loop once.

    name = "job_speed"
    at_smallest: ClassVar = {"methods": ("ftp",), "batch_size": 8, "steps": 3, "rounds": 2}
    columns: ClassVar = {
        "model": lambda row: row["model"],
        "loop": lambda row: PLAIN if row["loop"] == PLAIN else f"main job, {row['loop']}",
        "images a second": lambda row: f"{row['images_per_second']:.1f}",
        "time over the plain loop": lambda row: f"{row['over_plain']['ratio']:.2f}",
        "10-90 %": lambda row: spread(row["over_plain"]),
        "waiting for input": lambda row: "-" if row["loop"] == PLAIN else f"{100 * row['waiting']:.0f} %",
    }

    def prepare(self) -> None:
        # every run of the main job makes its own jitted step: compiled once, then read from here
        keep_compiled_programs()

    def plan(self) -> Iterable[tuple[str, ...]]:
        return [("tiny ViT" if self.smallest else "ViT-S/16, 64 px",)]

    def measure(self, model: str) -> list[Row]:
        name, image_size = ("vit-tiny", 32) if self.smallest else ("vit-small", 64)
        with tempfile.TemporaryDirectory() as scratch:
            task = photographs(Path(scratch), image_size)
            network, params = split_model(networks.network(name, image_size, CLASSES))
            return [{"model": model} | row for row in measured(task, network, params, self, Path(scratch))]

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"batch": self.batch_size}

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """A row a loop."""
        caption = f"Batches of {result['batch']}, decoded in threads. {writer.origin(result['environment'])}"
        return f"{cls.table(result['rows'], left=2)}\n{caption}"


def photographs(root: Path, size: int) -> Task:
    """Crops of two photographs as JPEG files of 256 pixels, a folder a class."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 48), ("val", 8)):
        for label in range(CLASSES):
            folder = root / part / str(label)
            folder.mkdir(parents=True)
            for index in range(count // CLASSES):
                photo = Image.fromarray(load_sample_images().images[index % 2])
                left, top = (int(draw.integers(0, side - 256)) for side in photo.size)
                photo.crop((left, top, left + 256, top + 256)).save(folder / f"{index}.jpg", quality=90)
    return folder_task(root / "train", root / "val", {}, size)


def measured(task: Task, network: Network, params: Params, options: Options, scratch: Path) -> list[dict[str, Any]]:
    """One row for the plain loop and one for each method in the main job's."""
    waiting: dict[str, list[float]] = {}

    def job(name: str) -> float:
        config = Config(
            batch_size=options.batch_size,
            epochs=-(-options.steps * options.batch_size // len(task.train)),
            validate_every=0,
            save_every=options.steps,  # an epoch of these few images is no measure
        )
        method = networks.method(name, config, params)
        folder = Path(tempfile.mkdtemp(dir=scratch))
        trained = fine_tune(
            name, method, network, params, task, config, devices=Devices.of(config), checkpoints=folder / "all",
            best_checkpoints=folder / "best", on_step=lambda *_: None,
        )  # fmt: skip
        seconds, steps = (float(trained.history[key]) for key in ("seconds", "timed_steps"))
        waiting.setdefault(name, []).append(float(trained.history["waited_seconds"]) / seconds)
        return seconds / steps

    examples = [task.train[i % len(task.train)] for i in range(options.batch_size)]
    batch = tuple(jnp.asarray(np.stack([example[key] for example in examples])) for key in ("image", "label"))
    step = training(methods.BASE, network, params, batch)
    plain = lambda: statistics.mean(step() for _ in range(options.steps))
    loops: dict[str, Callable[[], float]] = {PLAIN: plain} | {name: partial(job, name) for name in options.methods}
    seconds = compiled.in_turn(loops, options.rounds, warm_up=0)
    return [
        {
            "loop": name,
            "over_plain": compiled.ratio(seconds[PLAIN], taken),
            "images_per_second": options.batch_size / statistics.median(taken),
            "waiting": statistics.median(waiting[name]) if name in waiting else 0.0,
        }
        for name, taken in seconds.items()
    ]
