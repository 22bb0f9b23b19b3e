"""One method of a run, from its start to its end."""

import dataclasses
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import jax.numpy as jnp
from rich.console import Console

from vision.config import Config
from vision.data import Task
from vision.devices import Devices
from vision.logs import open_log
from vision.methods import Method, create_method, not_head
from vision.networks import Network, Params, Weights, split_model
from vision.probe import linear_probe
from vision.progress import track
from vision.run_dir import RunDir
from vision.start import Start
from vision.training import Trained, fine_tune, num_steps

__all__ = ["Parts", "train"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What the methods share."""

    config: Config
    task: Task
    start: Start
    devices: Devices
    run_dir: RunDir
    console: Console
    methods: dict[tuple[Any, ...], Method]  # as they are made; runs of other seeds have the same ones

    @functools.cached_property
    def model(self) -> Any:
        """The model that is trained: the start's, or that with adapters."""
        if not self.config.lora_rank:
            return self.start.model
        from vision.lora import add_lora  # here: other runs do not pay for it

        size = self.task.image_size
        return add_lora(
            self.start.model, self.config.lora_rank, jnp.zeros((1, size, size, 3), jnp.uint8), seed=self.config.seed
        )

    @functools.cached_property
    def split(self) -> tuple[Network, Params]:
        return split_model(self.model, **self._options)

    @property
    def network(self) -> Network:
        return self.split[0]

    @property
    def pretrained(self) -> Params:
        return self.split[1]

    @functools.cached_property
    def head_only(self) -> tuple[Network, Params]:
        """The model with all but its head frozen."""
        options: dict[str, Any] = self._options | {"live_stats": False, "head_only": True}
        return split_model(self.model, **options)

    @functools.cached_property
    def plain(self) -> tuple[Network, Params]:
        """The model without adapters, whose weights are evaluated and written."""
        return split_model(self.start.model, **self._options) if self.config.lora_rank else self.split

    def ordinary(self, weights: Weights) -> Weights:
        """The weights of the model without adapters, frozen ones included that another method trains."""
        if not self.config.lora_rank:
            params = {**self.pretrained, **weights.params}
            return Weights(params, weights.stats or self.devices.put(self.network.stats, whole=True))
        from vision.lora import merged

        # a path between two models is straight for kernels, not for the factors of their change
        return Weights(split_model(merged(self.network.model(*weights)), **self._options)[1], {})

    @functools.cached_property
    def probed(self) -> Params:
        """The start with a head trained on frozen features, for LP-FT."""
        task, model = self.task, cast(Any, self.start.model)
        kernel, bias = linear_probe(
            model,
            task.train,
            len(task.classes),
            epochs=self.config.probe_epochs or 1,
            seed=self.config.seed,
            reading=dataclasses.replace(self.devices.reading, part=0, parts=1),  # every host alone, and all the same
        )
        head = self.pretrained["head"]
        fitted = {"kernel": jnp.asarray(kernel, head["kernel"].dtype)}
        if "bias" in head:
            fitted["bias"] = jnp.asarray(bias, head["bias"].dtype)
        return self.pretrained | {"head": fitted}

    def log(self, shown: str) -> AbstractContextManager[Any]:
        """Of several hosts the first logs."""
        if not self.devices.first:
            return nullcontext(None)
        config = self.config
        return open_log(
            self.run_dir.root, shown, tensorboard=config.tensorboard, wandb=config.wandb, config=config.to_json()
        )

    @property
    def _options(self) -> dict[str, Any]:
        config = self.config
        return {
            "frozen": (*config.freeze, *(("head/*",) if config.freeze_head else ())),
            "live_stats": config.batch_norm == "live",
            "compute_dtype": config.compute_dtype,
            "remat": config.remat,
        }


def train(name: str, shown: str, parts: Parts, knobs: Mapping[str, float]) -> Trained:
    """A method from its start to its end, or from its last checkpoint."""
    config = dataclasses.replace(parts.config, **knobs)
    total = num_steps(parts.task, config)
    key = (name, total, *sorted(knobs.items()))
    if key not in parts.methods:
        parts.methods[key] = create_method(
            name,
            config,
            num_steps=-(-total // config.accumulate),
            order=parts.start.order,
            mask=None if parts.start.constrained_head else not_head,
        )
    method = parts.methods[key]
    network, pretrained = parts.head_only if method.head_only else parts.split
    if method.probe_first:
        pretrained = parts.probed
    with track(parts.console, shown, total) as update, parts.log(shown) as log:

        def on_step(done: int, measured: Mapping[str, float]) -> None:
            if log is not None:
                log.write(done, measured)
            update(done, _note(measured))

        trained = fine_tune(
            shown,
            method,
            network,
            pretrained,
            parts.task,
            config,
            devices=parts.devices,
            checkpoints=parts.run_dir.checkpoints(shown),
            best_checkpoints=parts.run_dir.best_checkpoints(shown),
            on_step=on_step,
        )
    return trained.mapped(parts.ordinary)


def _note(measured: Mapping[str, float]) -> str:
    said = f"loss {measured['loss']:.3f}  accuracy {measured['accuracy']:.2f}"
    if "images_per_second" in measured:
        said += f"  {measured['images_per_second']:.3g} images/s, {100 * measured['waiting']:.0f} % waiting for input"
    return said
