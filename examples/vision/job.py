"""The main job from its configuration to its report: load, fine-tune with each method, evaluate, draw."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
from vision.few_labels import check_labels, few_labels
from vision.files import replacing
from vision.gains import draw_gains
from vision.method_run import Parts, train
from vision.methods import Method
from vision.networks import Params, Weights
from vision.progress import track
from vision.report import build_report
from vision.results import PRETRAINED, START, Results, allowed_classes, candidates, test_sets
from vision.run_dir import RunDir, write_json
from vision.scalars import draw_scalars, has_scalars, write_scalars
from vision.start import Start, starting_model
from vision.summary import summarise
from vision.sweep import chosen_knobs
from vision.table import print_report
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
    new = None if config.resume else run_dir.root
    with _refusable(new):
        devices = Devices.of(config)
    if not devices.first:
        console = Console(quiet=True)
    if config.coordinator is not None:
        if devices.first and not config.resume:
            RunDir.create(config)
        devices.wait("run directory")
    if run_dir.report.exists():
        print_report(json.loads(run_dir.report.read_text()), console)
        return
    whole = _Whole(config, devices, console, {})
    if config.several:
        _run_parts(whole, run_dir, new)
    else:
        _run_part(dataclasses.replace(config, seed=config.seed_list[0]), run_dir, whole, new)
    if devices.first:
        console.print()
        print_report(json.loads(run_dir.report.read_text()), console)


@contextmanager
def _refusable(new: Path | None) -> Iterator[None]:
    """A new run that is refused before it begins leaves no directory behind."""
    try:
        yield
    except UserError:
        if new is not None and jax.process_index() == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise


@dataclasses.dataclass(frozen=True)
class _Whole:
    """What the runs of one command share."""

    config: Config
    devices: Devices
    console: Console
    methods: dict[tuple[Any, ...], Method]


def _run_parts(whole: _Whole, run_dir: RunDir, new: Path | None) -> None:
    """A run of each number of labels and each seed, in a directory of its own, and what they say together."""
    config, devices = whole.config, whole.devices
    reports: list[list[dict[str, Any]]] = []
    for count in config.label_counts:
        reports.append([])
        for seed in config.seed_list:
            part = run_dir.part(config, count, seed)
            own = dataclasses.replace(config, labels=str(count or "all"), seed=seed, seeds="", out=part.root)
            if devices.first and not part.root.exists():
                RunDir.create(own)
            chosen = run_dir.part(config, count, config.seed_list[0]).knobs  # the first seed's are for all
            if devices.first and chosen.exists() and not part.knobs.exists():
                write_json(part.knobs, json.loads(chosen.read_text()))
            devices.wait("part's directory")
            if not part.report.exists():
                _run_part(own, part, whole, new)
            new = None  # it has begun
            reports[-1].append(json.loads(part.report.read_text()))
    if devices.first:
        summaries = [summarise(seeds) for seeds in reports]
        with replacing(run_dir.figure("gains")) as path:
            draw_gains(summaries, path)
        about = {"versions": reports[0][0]["versions"], "config": config.to_json()}
        # last: where there is a report, the run is finished
        write_json(run_dir.report, about | {"summaries": summaries})


def _run_part(config: Config, run_dir: RunDir, whole: _Whole, new: Path | None) -> None:
    """One run.

    Args:
        config: Of this number of labels and this seed.
        run_dir: Where its result goes.
        whole: What it shares with the others.
        new: What is left of a run that is refused, to be removed.
    """
    devices, console = whole.devices, whole.console
    with _refusable(new):
        task = load_task(config, run_dir, devices, console)
        check_labels(task, whole.config.label_counts)
        task = few_labels(task, config.label_counts[0], config.seed)
        if whole.config.several:
            console.rule(f"{config.labels} labels, seed {config.seed}")
        start = _start(config, task, run_dir, devices, console)
        parts = Parts(config, task, start, devices, run_dir, console, whole.methods)
        _ = parts.split  # flags that the model cannot follow are told here
    leads = config.seed == whole.config.seed_list[0]  # of other seeds it would be the same, or much like it
    if leads:
        _print_plan(config, task, parts.pretrained, start, devices, console)
    knobs = chosen_knobs(parts)
    trained = {name: _fine_tune(name, parts, knobs.get(name, {})) for name in config.method_names}
    predictions = _evaluate(parts, trained)
    # from here on one host works alone, so arrays have to be whole
    trained = {
        name: result.mapped(lambda weights: jax.tree.map(devices.gather, weights)) for name, result in trained.items()
    }
    if devices.first:
        results = Results(config, task, parts.plain[1], start.head, start.order, trained, predictions)
        report = build_report(results, devices=devices.to_json(), knobs=knobs)
        if leads:
            _draw(results, report, run_dir)
        if has_scalars(results):
            with replacing(run_dir.root / "radii.csv") as path:
                write_scalars(results, path)
        for name in trained:
            run_dir.tidy(name, keep_best=config.select == "best")
        write_json(run_dir.report, report)  # last: where there is a report, the run is finished
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
    some = f" (of {task.available}, with the same number of steps)" if task.available else ""
    ood = f"{len(task.ood)} OOD domains ({', '.join(task.ood)})" if task.ood else "no OOD domain"
    console.print(
        f"Task {task.name}: {len(task.classes)} classes, {len(task.train)} training images of {task.train.name}"
        f"{some}; {ood}",
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
        how = "parameters sharded" if devices.fsdp else "parameters replicated"
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


def _draw(results: Results, report: Mapping[str, Any], run_dir: RunDir) -> None:
    with replacing(run_dir.figure("examples")) as path:
        figures.draw_examples(results, path)
    if results.task.ood:
        with replacing(run_dir.figure("frontier")) as path:
            figures.draw_frontier(report, path)
    if has_scalars(results):
        with replacing(run_dir.figure("radii")) as path:
            draw_scalars(results, path)
