"""The main job from its configuration to its report: load, fine-tune with each method, evaluate, draw."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console

from vision import figures
from vision.cache import keep_compiled_programs
from vision.class_map import FOLDER_NAMES, read_class_map
from vision.config import Config
from vision.data import ArrayDomain, Domain, Task
from vision.dataset_root import dataset_task
from vision.devices import Devices, connect
from vision.digits import digits_task
from vision.errors import UserError
from vision.evaluation import Predictions, evaluate, num_batches
from vision.files import replacing
from vision.folders import FolderDomain, OnChecked, folder_task
from vision.listing import load_listing, store_listing
from vision.logs import open_log
from vision.methods import KNOBS, create_method, not_head
from vision.networks import Network, Params, split_model
from vision.probe import linear_probe
from vision.progress import track
from vision.report import build_report
from vision.results import PRETRAINED, START, Results, allowed_classes, candidates, test_sets
from vision.run_dir import RunDir, write_json
from vision.scalars import draw_scalars, has_scalars, write_scalars
from vision.start import Start, starting_model
from vision.summary import draw_summary, print_summary, summarise
from vision.table import print_table
from vision.training import Trained, Weights, fine_tune, num_steps
from vision.wilds import wilds_task

if TYPE_CHECKING:
    from pretrained.preprocessing import Preprocessing

__all__ = ["run"]

_EVAL_BATCH_SIZE = 64


def run(config: Config, run_dir: RunDir, console: Console) -> None:
    """Runs the job, or what is left of it.

    Args:
        config: What to do.
        run_dir: Where the result goes; of several hosts the first makes it.
        console: Where progress and the result are shown.

    Raises:
        UserError: Data or weights that cannot be used. A new run then leaves no directory behind.
    """
    keep_compiled_programs()
    connect(config)
    try:
        devices = Devices.of(config)
    except UserError:
        if not config.resume:
            shutil.rmtree(run_dir.root, ignore_errors=True)
        raise
    if not devices.first:
        console = Console(quiet=True)
    if config.coordinator is not None:
        if devices.first and not config.resume:
            RunDir.create(config)
        devices.wait("run directory")
    if run_dir.report.exists():
        _show_finished(run_dir, config, console)
    elif len(config.seed_list) == 1:
        _run_seed(dataclasses.replace(config, seed=config.seed_list[0]), run_dir, devices, console)
    else:
        _run_seeds(config, run_dir, devices, console)


def _show_finished(run_dir: RunDir, config: Config, console: Console) -> None:
    """There is nothing to go on with."""
    report = json.loads(run_dir.report.read_text())
    if len(config.seed_list) == 1:
        print_table(report, console)
    else:
        print_summary(report, console)


def _run_seeds(config: Config, run_dir: RunDir, devices: Devices, console: Console) -> None:
    """A run of each seed, in a directory of its own, and their means. The first seed's sweep is for all."""
    reports = []
    for seed in config.seed_list:
        root = run_dir.seed(seed)
        own = dataclasses.replace(config, seed=seed, seeds="", out=root, sweep=config.sweep if not reports else ())
        directory = RunDir(root)
        console.rule(f"seed {seed}")
        if devices.first and not root.exists():
            RunDir.create(own)
            if reports and (chosen := run_dir.seed(config.seed_list[0]).joinpath("knobs.json")).exists():
                shutil.copy(chosen, directory.knobs)
        devices.wait("seed's directory")
        if not directory.report.exists():
            _run_seed(dataclasses.replace(own, resume=True), directory, devices, console)
        reports.append(json.loads(directory.report.read_text()))
    if devices.first:
        summary = summarise(reports)
        write_json(run_dir.report, summary)
        if summary["rows"][0]["ood"]:
            with replacing(run_dir.figure("frontier")) as path:
                draw_summary(summary, path)
        print_summary(summary, console)


def _run_seed(config: Config, run_dir: RunDir, devices: Devices, console: Console) -> None:
    try:
        task = _load_task(config, run_dir, devices, console)
        start = _start(config, task, run_dir, devices, console)
        parts = _Parts(config, task, start, devices, run_dir, console)
        _ = parts.split  # flags that the model cannot follow are told here
    except UserError:
        if not config.resume and devices.first:
            shutil.rmtree(run_dir.root, ignore_errors=True)
        raise
    _print_plan(config, task, parts.pretrained, start, devices, console)
    knobs = _knobs(parts)
    trained = {name: _fine_tune(name, parts, knobs.get(name, {})) for name in config.method_names}
    predictions = _evaluate(parts, trained)
    # from here on one host works alone, so arrays have to be whole
    trained = {
        name: result.mapped(lambda weights: jax.tree.map(devices.gather, weights)) for name, result in trained.items()
    }
    if devices.first:
        _finish(Results(config, task, parts.plain[1], start.head, start.order, trained, predictions), parts, knobs)
    devices.wait("report")


@dataclass(frozen=True, eq=False)
class _Parts:
    """What the methods share."""

    config: Config
    task: Task
    start: Start
    devices: Devices
    run_dir: RunDir
    console: Console

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


def _start(config: Config, task: Task, run_dir: RunDir, devices: Devices, console: Console) -> Start:
    """The first host makes it, the others read what it has written."""
    with track(console, "linear probe" if config.model_path else "pre-training") as update:
        make = lambda: starting_model(
            config, task, run_dir, lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total)
        )
        return _first_alone(make, devices)


def _first_alone(make: Callable[[], Any], devices: Devices) -> Any:
    """What is made and kept by the first host, then read by the others."""
    made = make() if devices.first else None
    devices.wait("made")
    return made if devices.first else make()


def _knobs(parts: _Parts) -> dict[str, dict[str, float]]:
    """The values that validation images choose for every method that a swept knob concerns."""
    config, path = parts.config, parts.run_dir.knobs
    if path.exists():
        return json.loads(path.read_text())
    chosen = {}
    for name in config.method_names:
        swept = {knob: values for knob, values in config.swept.items() if knob in KNOBS[name]}
        if not swept:
            continue
        trials = [dict(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
        accuracies = [_trial(name, parts, trial) for trial in trials]
        best = int(np.argmax(accuracies))  # the first of equal ones
        chosen[name] = trials[best]
        for trial, found in zip(trials, accuracies, strict=True):
            parts.console.print(f"{_shown(name, trial)}: validation accuracy {100 * found:.1f}", markup=False)
    if parts.devices.first and config.sweep:
        for name, trial in chosen.items():
            # the chosen trial is the run itself
            for place in (parts.run_dir.checkpoints, parts.run_dir.best_checkpoints):
                if place(_shown(name, trial)).exists():
                    os.replace(place(_shown(name, trial)), place(name))
        for leftover in parts.run_dir.root.glob("checkpoints/* *"):
            shutil.rmtree(leftover)
        write_json(path, chosen)
    parts.devices.wait("knobs")
    return chosen


def _trial(name: str, parts: _Parts, trial: Mapping[str, float]) -> float:
    """The validation accuracy that decides: of the weights that would be reported."""
    trained = _train(name, _shown(name, trial), parts, trial)
    if parts.config.select == "best":
        return max(accuracy for _, accuracy, _ in trained.validations)
    return trained.validations[-1][1]


def _shown(name: str, knobs: Mapping[str, float]) -> str:
    return " ".join([name, *(f"{knob.replace('_', '-')}={value:g}" for knob, value in knobs.items())])


def _load_task(config: Config, run_dir: RunDir, devices: Devices, console: Console) -> Task:
    """The first host lists the images; a resumed run has them as they were listed, and so have the other hosts."""

    def load() -> Task:
        if config.model_path is None:
            assert config.image_size is not None, "parse_config fills it in"
            return _load_data(config, config.image_size, run_dir, console)
        # Imported here so that the default job does not pay for it.
        from vision.start_from_files import model_preprocessing

        preprocessing = model_preprocessing(config, run_dir)
        assert preprocessing.size is not None, "the model's, or that asked for"
        return _prepared(_load_data(config, preprocessing.size[0], run_dir, console), preprocessing)

    return _first_alone(load, devices)


def _load_data(config: Config, image_size: int, run_dir: RunDir, console: Console) -> Task:
    if config.task_name == "digits":
        task = digits_task(config.seed, smallest=config.smallest)
        return task if task.image_size == image_size else _enlarged(task, image_size)
    if run_dir.listing.exists():
        return load_listing(run_dir.listing)
    with track(console, "reading images", unit="images") as update:
        task = _image_task(config, image_size, lambda done, total: update(done, total=total))
    store_listing(run_dir.listing, task)
    return task


def _prepared(task: Task, prepare: "Preprocessing") -> Task:
    """The task with image files read as a model has its own way to."""

    def prepared(domain: Domain) -> Domain:
        return dataclasses.replace(domain, prepare=prepare) if isinstance(domain, FolderDomain) else domain

    validation = prepared(task.validation)
    return dataclasses.replace(
        task,
        train=prepared(task.train),
        validation=validation,
        # one object where the task has one held-out set
        id_test=validation if task.id_test is task.validation else prepared(task.id_test),
        ood={name: prepared(domain) for name, domain in task.ood.items()},
        interpolation=prepare.interpolation,
    )


def _image_task(config: Config, image_size: int, on_checked: OnChecked) -> Task:
    """The user's own images, from wherever the flags say."""
    class_map = FOLDER_NAMES if config.class_map is None else read_class_map(config.class_map)
    options: dict[str, Any] = {
        "class_map": class_map,
        "ood_subset": config.ood_subset,
        "on_checked": on_checked,
        "skip_bad": config.on_bad_image == "skip",
    }
    if config.dataset is None:
        assert config.train is not None, "the task is of folders"
        assert config.val is not None, "it goes with --train"
        return folder_task(config.train, config.val, config.ood_folders, image_size, test=config.test, **options)
    if config.dataset.suffix == ".csv":
        return wilds_task(config.dataset, config.ood_names, image_size, **options)
    split = {"val_fraction": config.val_fraction, "seed": config.seed}
    return dataset_task(config.dataset, config.id, config.ood_names, image_size, **split, **options)


def _enlarged(task: Task, size: int) -> Task:
    """The task with the images of fine-tuning and test scaled, for a model that was made for larger ones."""

    def enlarge(domain: Domain) -> ArrayDomain:
        images = [
            np.asarray(Image.fromarray(domain[i]["image"]).resize((size, size), Image.Resampling.BICUBIC))
            for i in range(len(domain))
        ]
        return ArrayDomain(domain.name, np.stack(images), domain.labels)

    return dataclasses.replace(
        task,
        image_size=size,
        train=enlarge(task.train),
        validation=enlarge(task.validation),
        id_test=enlarge(task.id_test),
        ood={name: enlarge(domain) for name, domain in task.ood.items()},
    )


def _print_plan(
    config: Config, task: Task, pretrained: Params, start: Start, devices: Devices, console: Console
) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(pretrained))
    ood = f"{len(task.ood)} OOD domains ({', '.join(task.ood)})" if task.ood else "no OOD domain"
    console.print(
        f"Task {task.name}: {len(task.classes)} classes, {len(task.train)} training images of {task.train.name}; {ood}",
        soft_wrap=True,
    )
    for note in task.notes:
        console.print(note, soft_wrap=True, markup=False)
    head = f"{start.head} head" + ("" if start.constrained_head else ", not constrained")
    if config.freeze_head:
        head = f"{start.head} head, frozen"
    trained = "trained parameters" if config.freeze or config.freeze_head or config.lora_rank else "parameters"
    precision = config.dtype + (f", computed in {config.compute_dtype}" if config.compute_dtype else "")
    console.print(f"Model {config.model}: {parameters:,} {trained}, {head}, {precision}", soft_wrap=True)
    if devices.mesh is not None:
        how = "parameters cut over them" if devices.fsdp else "parameters whole on each"
        hosts = f" of {jax.process_count()} hosts" if jax.process_count() > 1 else ""
        console.print(f"{jax.device_count()} devices{hosts}, {how}", soft_wrap=True)


def _train(name: str, shown: str, parts: _Parts, knobs: Mapping[str, float]) -> Trained:
    """A method from its start to its end, or from its last checkpoint."""
    config = dataclasses.replace(parts.config, **knobs)
    total = num_steps(parts.task.train, config.batch_size, config.epochs)
    method = create_method(
        name,
        config,
        num_steps=-(-total // config.accumulate),
        order=parts.start.order,
        mask=None if parts.start.constrained_head else not_head,
    )
    network, pretrained = parts.head_only if method.head_only else parts.split
    if method.probe_first:
        pretrained = _probed(parts)
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


def _probed(parts: _Parts) -> Params:
    """The start with a head trained on frozen features, for LP-FT."""
    task, config = parts.task, parts.config
    model: Any = parts.start.model
    kernel, bias = linear_probe(
        model,
        task.train,
        len(task.classes),
        epochs=config.probe_epochs or 1,
        seed=config.seed,
        reading=dataclasses.replace(parts.devices.reading, part=0, parts=1),  # every host alone, and all the same
    )
    head = parts.pretrained["head"]
    fitted = {"kernel": jnp.asarray(kernel, head["kernel"].dtype)}
    if "bias" in head:
        fitted["bias"] = jnp.asarray(bias, head["bias"].dtype)
    return parts.pretrained | {"head": fitted}


def _fine_tune(name: str, parts: _Parts, knobs: Mapping[str, float]) -> Trained:
    trained = _train(name, name, parts, knobs)
    _write(name, trained.weights, parts)
    if trained.best is not None:
        _write(f"{name}-best", trained.best.weights, parts)
    return trained


def _write(name: str, weights: Weights, parts: _Parts) -> None:
    """Writes weights, by the first host; all have to gather them."""
    weights = jax.tree.map(parts.devices.gather, weights)
    if parts.devices.first:
        parts.start.write(parts.run_dir.weights(name), parts.plain[0].model(*weights), {"method": name})


def _evaluate(parts: _Parts, trained: Mapping[str, Trained]) -> Predictions:
    config, task, start, devices = parts.config, parts.task, parts.start, parts.devices
    domains, size = test_sets(task), devices.eval_batch_size(_EVAL_BATCH_SIZE)
    network, pretrained = parts.plain
    at_start = Weights(devices.put(pretrained), devices.put(network.stats, whole=True))
    tuned = {name: result.selected(config.select) for name, result in trained.items()}
    with track(parts.console, "evaluation", num_batches(domains, size), "batches") as update:
        done = iter(range(1, 1 << 62))
        return evaluate(
            network,
            at_start,
            tuned | {PRETRAINED: at_start},
            candidates(config, start.head),
            domains,
            allowed=allowed_classes(task),
            start=START if start.scored else None,
            batch_size=size,
            devices=devices,
            on_batch=lambda: update(next(done)),
        )


def _finish(results: Results, parts: _Parts, knobs: Mapping[str, Mapping[str, float]]) -> None:
    """Writes the figures and the report, and prints the table."""
    run_dir = parts.run_dir
    report: dict[str, Any] = build_report(results, devices=parts.devices.to_json(), knobs=knobs)
    with replacing(run_dir.figure("examples")) as path:
        figures.draw_examples(results, path)
    if results.task.ood:
        with replacing(run_dir.figure("frontier")) as path:
            figures.draw_frontier(report, path)
    if has_scalars(results):
        with replacing(run_dir.figure("radii")) as path:
            draw_scalars(results, path)
        with replacing(run_dir.root / "radii.csv") as path:
            write_scalars(results, path)
    for name in results.trained:
        run_dir.tidy(name)
    # last: where there is a report, the run is finished
    write_json(run_dir.report, report)
    parts.console.print()
    print_table(report, parts.console)
