"""The main job from its configuration to its report: load, fine-tune with each method, evaluate, draw."""

import dataclasses
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich.console import Console

from vision import figures
from vision.cache import keep_compiled_programs
from vision.class_map import FOLDER_NAMES, read_class_map
from vision.config import Config
from vision.data import ArrayDomain, Domain, Task
from vision.dataset_root import dataset_task
from vision.digits import digits_task
from vision.errors import UserError
from vision.evaluation import Predictions, evaluate, num_batches
from vision.files import replacing
from vision.folders import FolderDomain, OnChecked, Prepare, folder_task
from vision.methods import create_method, not_head
from vision.networks import Network, Params, split_model
from vision.progress import track
from vision.report import PRETRAINED, START, Results, allowed_classes, build_report, candidates, print_table, test_sets
from vision.run_dir import RunDir, write_json
from vision.start import Start, starting_model
from vision.training import Trained, fine_tune, num_steps
from vision.wilds import wilds_task

__all__ = ["run"]

_EVAL_BATCH_SIZE = 64


def run(config: Config, run_dir: RunDir, console: Console) -> None:
    """Runs the job, or what is left of it.

    Args:
        config: What to do.
        run_dir: Where the result goes.
        console: Where progress and the result are shown.

    Raises:
        UserError: Data or weights that cannot be used. A new run then leaves no directory behind.
    """
    keep_compiled_programs()
    try:
        task = _load_task(config, run_dir, console)
        with track(console, "linear probe" if config.model_path else "pre-training") as update:
            start = starting_model(
                config, task, run_dir, lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total)
            )
    except UserError:
        if not config.resume:
            shutil.rmtree(run_dir.root)
        raise
    network, pretrained = split_model(start.model, freeze_head=config.freeze_head)
    _print_plan(config, task, pretrained, start, console)
    trained = {
        name: _fine_tune(name, config, task, network, pretrained, start, run_dir, console)
        for name in config.method_names
    }
    predictions = _evaluate(config, task, network, pretrained, trained, start, console)
    results = Results(config, task, pretrained, start.head, start.order, trained, predictions)
    _finish(results, run_dir, console)


def _load_task(config: Config, run_dir: RunDir, console: Console) -> Task:
    if config.model_path is not None:
        # Imported here so that the default job does not pay for it.
        from vision.start_from_files import model_preprocessing

        preprocessing = model_preprocessing(config, run_dir)
        assert preprocessing.size is not None, "the model's, or that asked for"
        return _prepared(_load_data(config, preprocessing.size[0], console), preprocessing)
    assert config.image_size is not None, "parse_config fills it in"
    return _load_data(config, config.image_size, console)


def _load_data(config: Config, image_size: int, console: Console) -> Task:
    if config.task_name == "folders":
        with track(console, "reading images", unit="images") as update:
            return _image_task(config, image_size, lambda done, total: update(done, total=total))
    task = digits_task(config.seed, smallest=config.smallest)
    return task if task.image_size == image_size else _enlarged(task, image_size)


def _prepared(task: Task, prepare: Prepare) -> Task:
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
    )


def _image_task(config: Config, image_size: int, on_checked: OnChecked) -> Task:
    """The user's own images, from wherever the flags say."""
    class_map = FOLDER_NAMES if config.class_map is None else read_class_map(config.class_map)
    options: dict[str, Any] = {"class_map": class_map, "ood_subset": config.ood_subset, "on_checked": on_checked}
    if config.dataset is None:
        assert config.train is not None, "the task is of folders"
        assert config.val is not None, "it goes with --train"
        return folder_task(config.train, config.val, config.ood_folders, image_size, **options)
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


def _print_plan(config: Config, task: Task, pretrained: Params, start: Start, console: Console) -> None:
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
    console.print(f"Model {config.model}: {parameters:,} parameters, {head}, {config.dtype}", soft_wrap=True)


def _fine_tune(
    name: str,
    config: Config,
    task: Task,
    network: Network,
    pretrained: Params,
    start: Start,
    run_dir: RunDir,
    console: Console,
) -> Trained:
    total = num_steps(task.train, config.batch_size, config.epochs)
    tx = create_method(
        name,
        learning_rate=config.lr,
        num_steps=total,
        radii_learning_rate=config.radii_lr,
        mask=None if start.constrained_head else not_head,
    )
    with track(console, name, total) as update:
        trained = fine_tune(
            network,
            pretrained,
            tx,
            task.train,
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            checkpoints=run_dir.checkpoints(name),
            on_step=lambda done, loss, accuracy: update(done, f"loss {loss:.3f}  accuracy {accuracy:.2f}"),
        )
    start.write(run_dir.weights(name), network.model(trained.params), {"method": name})
    return trained


def _evaluate(
    config: Config,
    task: Task,
    network: Network,
    pretrained: Params,
    trained: Mapping[str, Trained],
    start: Start,
    console: Console,
) -> Predictions:
    domains = test_sets(task)
    with track(console, "evaluation", num_batches(domains, _EVAL_BATCH_SIZE), "batches") as update:
        done = iter(range(1, 1 << 62))
        return evaluate(
            network,
            pretrained,
            {name: result.params for name, result in trained.items()} | {PRETRAINED: pretrained},
            candidates(config, start.head),
            domains,
            allowed=allowed_classes(task),
            start=START if start.scored else None,
            batch_size=_EVAL_BATCH_SIZE,
            on_batch=lambda: update(next(done)),
        )


def _finish(results: Results, run_dir: RunDir, console: Console) -> None:
    """Writes the figures and the report, and prints the table."""
    report: dict[str, Any] = build_report(results)
    with replacing(run_dir.figure("examples")) as path:
        figures.draw_examples(results, path)
    if results.task.ood:
        with replacing(run_dir.figure("frontier")) as path:
            figures.draw_frontier(report, path)
    if figures.has_scalars(results):
        with replacing(run_dir.figure("radii")) as path:
            figures.draw_scalars(results, path)
    write_json(run_dir.report, report)
    console.print()
    print_table(report, console)
