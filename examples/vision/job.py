"""The main job from its configuration to its report: load, fine-tune with each method, evaluate, draw."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from rich.console import Console

from vision import figures
from vision.cache import keep_compiled_programs
from vision.config import Config
from vision.data import Task
from vision.devices import Devices, connect
from vision.errors import UserError
from vision.evaluation import Predictions, evaluate, num_batches
from vision.files import replacing
from vision.method_run import Parts, train
from vision.networks import Params, Weights
from vision.progress import track
from vision.report import build_report
from vision.results import PRETRAINED, START, Results, allowed_classes, candidates, test_sets
from vision.run_dir import RunDir, write_json
from vision.scalars import draw_scalars, has_scalars, write_scalars
from vision.start import Start, starting_model
from vision.summary import draw_summary, print_summary, summarise
from vision.sweep import chosen_knobs
from vision.table import print_table
from vision.task import load_task
from vision.training import Trained

__all__ = ["run"]


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
    with _refusable(config, run_dir):
        devices = Devices.of(config)
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


@contextmanager
def _refusable(config: Config, run_dir: RunDir) -> Iterator[None]:
    """A new run that is refused before it begins leaves no directory behind."""
    try:
        yield
    except UserError:
        if not config.resume and jax.process_index() == 0:
            shutil.rmtree(run_dir.root, ignore_errors=True)
        raise


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
        chosen = RunDir(run_dir.seed(config.seed_list[0])).knobs
        if devices.first and chosen.exists() and not directory.knobs.exists():
            write_json(directory.knobs, json.loads(chosen.read_text()))
        devices.wait("seed's directory")
        if not directory.report.exists():
            try:
                _run_seed(dataclasses.replace(own, resume=config.resume or bool(reports)), directory, devices, console)
            except UserError:
                if devices.first and not list(run_dir.root.glob("seed-*")):
                    shutil.rmtree(run_dir.root)
                raise
        reports.append(json.loads(directory.report.read_text()))
    if devices.first:
        summary = summarise(reports)
        if summary["rows"][0]["ood"]:
            with replacing(run_dir.figure("frontier")) as path:
                draw_summary(summary, path)
        write_json(run_dir.report, summary)  # last: where there is a report, the run is finished
        print_summary(summary, console)


def _run_seed(config: Config, run_dir: RunDir, devices: Devices, console: Console) -> None:
    with _refusable(config, run_dir):
        task = load_task(config, run_dir, devices, console)
        start = _start(config, task, run_dir, devices, console)
        parts = Parts(config, task, start, devices, run_dir, console)
        _ = parts.split  # flags that the model cannot follow are told here
    _print_plan(config, task, parts.pretrained, start, devices, console)
    knobs = chosen_knobs(parts)
    trained = {name: _fine_tune(name, parts, knobs.get(name, {})) for name in config.method_names}
    predictions = _evaluate(parts, trained)
    # from here on one host works alone, so arrays have to be whole
    trained = {
        name: result.mapped(lambda weights: jax.tree.map(devices.gather, weights)) for name, result in trained.items()
    }
    if devices.first:
        _finish(Results(config, task, parts.plain[1], start.head, start.order, trained, predictions), parts, knobs)
    devices.wait("report")


def _start(config: Config, task: Task, run_dir: RunDir, devices: Devices, console: Console) -> Start:
    """The first host makes it, the others read what it has written."""
    with track(console, "linear probe" if config.model_path else "pre-training") as update:
        make = lambda: starting_model(
            config, task, run_dir, lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total)
        )
        return devices.first_alone(make)


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


def _fine_tune(name: str, parts: Parts, knobs: Mapping[str, float]) -> Trained:
    trained = train(name, name, parts, knobs)
    _write(name, trained.weights, parts)
    if trained.best is not None:
        _write(f"{name}-best", trained.best.weights, parts)
    return trained


def _write(name: str, weights: Weights, parts: Parts) -> None:
    """Writes weights, by the first host; all have to gather them."""
    weights = jax.tree.map(parts.devices.gather, weights)
    if parts.devices.first:
        parts.start.write(parts.run_dir.weights(name), parts.plain[0].model(*weights), {"method": name})


def _evaluate(parts: Parts, trained: Mapping[str, Trained]) -> Predictions:
    config, task, start, devices = parts.config, parts.task, parts.start, parts.devices
    domains, size = test_sets(task), devices.eval_batch_size
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


def _finish(results: Results, parts: Parts, knobs: Mapping[str, Mapping[str, float]]) -> None:
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
        run_dir.tidy(name, keep_best=results.config.select == "best")
    # last: where there is a report, the run is finished
    write_json(run_dir.report, report)
    parts.console.print()
    print_table(report, parts.console)
