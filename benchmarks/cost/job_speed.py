"""Images a second of the main job's own loop, beside a plain loop of the same model with optax alone.

The plain loop holds one batch in memory and does nothing but the jitted adamw step. The main job's loop decodes image
files and keeps a history; its checkpoint comes at the end of a round. All run in turn, round by round, in one process.
Told are ratios of medians over the plain loop, with the 10th and 90th percentile of the ratios round by round. Where
decoding is the bottleneck, the share of the time that is spent waiting for input says so.

Besides, what a checkpoint of a ViT-B/16 with FTP holds up: how long training waits of the time that it takes to write.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from sklearn.datasets import load_sample_images

import writer
from cost import compiled, networks
from vision.cache import keep_compiled_programs
from vision.checkpoints import checkpoint_manager, save
from vision.config import Config
from vision.data import Task
from vision.devices import Devices
from vision.folders import folder_task
from vision.methods import create_method
from vision.networks import Network, Params, path_of, split_model
from vision.training import fine_tune

COLUMNS = ("model", "loop", "images a second", "time over the plain loop", "10-90 %", "waiting for input")
CLASSES = 4
PLAIN = "plain optax loop"


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Measures the main job's loop against a plain one; smallest is a tiny transformer, one method, two rounds."""

    methods: tuple[str, ...] = ("vanilla", "ftp")  # Methods of the main job.
    workers: int = 0  # Processes that decode; 0 decodes in threads.
    batch_size: int = 16  # Images in a step.
    steps: int = 9  # Steps in a round.
    rounds: int = 4  # Rounds, each with every loop once.

    def run(self) -> None:
        """Measures, then tabulates."""
        path, options = self.results / "job_speed.json", self
        if not self.report:
            if self.smallest:
                options = dataclasses.replace(self, methods=("ftp",), batch_size=8, steps=3, rounds=2)
            # every run of the main job makes its own jitted step: compiled once, then read from here
            keep_compiled_programs()
            name, sizes = ("tiny ViT", (48, 1, 3, 32)) if self.smallest else ("ViT-S/16, 64 px", (384, 12, 6, 64))
            with tempfile.TemporaryDirectory() as scratch:
                task = photographs(Path(scratch), sizes[-1])
                network, params = split_model(networks.classifier(*sizes, CLASSES))
                rows = [{"model": name} | row for row in measured(task, network, params, options, Path(scratch))]
            facts = {"workers": options.workers, "batch": options.batch_size, "checkpoint": checkpoint(self.smallest)}
            writer.write(path, {"environment": writer.environment(), **facts, "rows": rows})
        writer.write_page(path, page)


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
    runs = iter(range(1 << 30))
    waiting: dict[str, list[float]] = {}

    def job(name: str) -> float:
        config = Config(
            batch_size=options.batch_size,
            epochs=-(-options.steps * options.batch_size // len(task.train)),
            validate_every=0,
            save_every=options.steps,  # an epoch of these few images is no measure
            workers=options.workers,
        )
        order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        method = create_method(name, config, num_steps=options.steps, order=order)
        folder = scratch / f"run-{next(runs)}"
        trained = fine_tune(
            name, method, network, params, task, config, devices=Devices.of(config), checkpoints=folder / "all",
            best_checkpoints=folder / "best", on_step=lambda *_: None,
        )  # fmt: skip
        seconds, steps = (float(trained.history[key]) for key in ("seconds", "timed_steps"))
        waiting.setdefault(name, []).append(float(trained.history["waited_seconds"]) / seconds)
        return seconds / steps

    plain = _plain_loop(task, network, params, options)
    loops: dict[str, Callable[[], float]] = {PLAIN: plain} | {name: partial(job, name) for name in options.methods}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for i in range(options.rounds):
        for name in list(loops)[:: -1 if i % 2 else 1]:
            seconds[name].append(loops[name]())
    return [
        {
            "loop": name,
            "over_plain": compiled.ratio(seconds[PLAIN], taken),
            "images_per_second": options.batch_size / statistics.median(taken),
            "waiting": statistics.median(waiting[name]) if name in waiting else 0.0,
        }
        for name, taken in seconds.items()
    ]


def checkpoint(smallest: bool) -> dict[str, float]:
    """Bytes of a checkpoint, seconds that training waits for it, and seconds until it is written."""
    sizes = (48, 1, 3, 32) if smallest else (768, 12, 12, 224)
    _, params = split_model(networks.classifier(*sizes, 1000))
    order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    state = create_method("ftp", Config(), num_steps=100, order=order).tx.init(params)
    content = jax.block_until_ready({"params": params, "opt_state": state})
    held_up, written = 0.0, 0.0
    with tempfile.TemporaryDirectory() as scratch, checkpoint_manager(Path(scratch) / "ftp") as manager:
        for step in (1, 2):  # the first compiles
            started = time.perf_counter()
            save(manager, step, content)
            held_up = time.perf_counter() - started
            manager.wait_until_finished()
            written = time.perf_counter() - started
    return {"bytes": float(sum(x.nbytes for x in jax.tree.leaves(content))), "held_up": held_up, "written": written}


def _plain_loop(task: Task, network: Network, params: Params, options: Options) -> Callable[[], float]:
    """Seconds a step of adamw on a batch in memory."""
    tx = optax.adamw(1e-3)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, images: jax.Array, labels: jax.Array, network: Network) -> tuple[Any, Any]:
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(network.logits(p, images), labels).mean()
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    examples = [task.train[i % len(task.train)] for i in range(options.batch_size)]
    images, labels = (jnp.asarray(np.stack([e[key] for e in examples])) for key in ("image", "label"))

    def run() -> float:
        own = jax.tree.map(jnp.copy, params)
        state = tx.init(own)
        own, state = jax.block_until_ready(step(own, state, images, labels, network))  # compiles
        started = time.perf_counter()
        for _ in range(options.steps):
            own, state = step(own, state, images, labels, network)
        jax.block_until_ready(own)
        return (time.perf_counter() - started) / options.steps

    return run


def page(result: dict[str, Any]) -> str:
    """A row a loop, and what a checkpoint holds up."""
    how = f"{result['workers']} worker processes" if result["workers"] else "threads"
    table = writer.markdown(COLUMNS, [_cells(row) for row in result["rows"]], left=2)
    saved = result["checkpoint"]
    return (
        f"{table}\nBatches of {result['batch']}, decoded in {how}. A checkpoint of a ViT-B/16 with FTP has "
        f"{saved['bytes'] / 1e9:.1f} GB; training waits for {saved['held_up'] / saved['written']:.0%} of the time that "
        f"it takes to write, {saved['held_up']:.1f} s here. {writer.origin(result['environment'])}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    time = row["over_plain"]
    return [
        row["model"],
        row["loop"] if row["loop"] == PLAIN else f"main job, {row['loop']}",
        f"{row['images_per_second']:.1f}",
        f"{time['ratio']:.2f}",
        "{:.2f}-{:.2f}".format(*time["spread"]),
        "-" if row["loop"] == PLAIN else f"{100 * row['waiting']:.0f} %",
    ]
