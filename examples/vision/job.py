"""The main job from its configuration to its report: load, fine-tune with each method, evaluate, draw."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from PIL import Image
from rich.console import Console

from vision import figures, weights
from vision.cache import keep_compiled_programs
from vision.config import Config
from vision.data import ArrayDomain, Domain, Task
from vision.digits import digits_task
from vision.errors import UserError
from vision.evaluation import Predictions, evaluate, num_batches
from vision.files import replacing
from vision.folders import folder_task
from vision.foundation import pretrained_digits_model
from vision.methods import create_method, not_head
from vision.models import create_model
from vision.networks import Network, Params, blank_model, split_model
from vision.progress import track
from vision.report import PRETRAINED, Results, build_report, candidates, print_table, test_sets
from vision.run_dir import RunDir, write_json
from vision.training import Trained, fine_tune, num_steps

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
        task = _load_task(config)
        model, new_head = _starting_model(config, task, run_dir, console)
    except UserError:
        if not config.resume:
            shutil.rmtree(run_dir.root)
        raise
    network, pretrained = split_model(model)
    _print_plan(config, task, pretrained, new_head, console)
    trained = {
        name: _fine_tune(name, config, task, network, pretrained, new_head, run_dir, console)
        for name in config.method_names
    }
    predictions = _evaluate(config, task, network, pretrained, trained, new_head, console)
    results = Results(config, task, pretrained, new_head, trained, predictions)
    _finish(results, run_dir, console)


def _load_task(config: Config) -> Task:
    assert config.image_size is not None, "parse_config fills it in"
    if config.train is not None and config.val is not None:
        return folder_task(config.train, config.val, config.ood_folders, config.image_size)
    task = digits_task(config.seed, smallest=config.smallest)
    return task if task.image_size == config.image_size else _enlarged(task, config.image_size)


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


def _starting_model(config: Config, task: Task, run_dir: RunDir, console: Console) -> tuple[nnx.Module, bool]:
    """The model that all methods start from, and whether its head is new.

    It is kept in the run directory: a resumed run starts from the same weights whatever became of their source.
    """
    dtype = jnp.dtype(config.dtype)
    path = run_dir.pretrained
    if path.exists():
        model = blank_model(config.model, len(task.classes), dtype=dtype)
        weights.load_pretrained(path, model)
        return model, weights.load_metadata(path)["new_head"] == "true"
    if config.pretrained is not None:
        model, new_head = _model_from_file(config, task)
    elif config.model == "efficientnet-lite0":
        # Imported here so that the default job does not pay for it.
        from vision.efficientnet import EfficientNetLite0, load_imagenet

        model = create_model(config.model, len(task.classes), dtype=dtype, seed=config.seed)
        assert isinstance(model, EfficientNetLite0)
        new_head = bool(load_imagenet(model))
    else:
        with track(console, "pre-training") as update:
            model = pretrained_digits_model(
                task,
                config.seed,
                dtype=dtype,
                on_step=lambda done, total, loss: update(done, f"loss {loss:.3f}", total=total),
            )
        new_head = False
    weights.save_safetensors(path, model, _metadata(config, task, "pretrained") | {"new_head": str(new_head).lower()})
    return model, new_head


def _model_from_file(config: Config, task: Task) -> tuple[nnx.Module, bool]:
    """The user's weights; a head for other classes, even as many, is no head for these."""
    path = config.pretrained
    assert path is not None
    dtype = jnp.dtype(config.dtype)
    model = create_model(config.model, len(task.classes), dtype=dtype, seed=config.seed)
    fresh_head = {name: value for name, value in weights.model_arrays(model).items() if name.startswith("head/")}
    new_head = bool(weights.load_pretrained(path, model))
    classes = None if path.is_dir() else weights.load_metadata(path).get("classes")
    if not new_head and classes is not None and classes != json.dumps(task.classes):
        nnx.update(model, traverse_util.unflatten_dict(fresh_head, sep="/"))
        new_head = True
    return model, new_head


def _metadata(config: Config, task: Task, method: str) -> dict[str, str]:
    """What `predict.py` needs to know besides the weights."""
    return {
        "model": config.model,
        "method": method,
        "classes": json.dumps(task.classes),
        "image_size": str(task.image_size),
    }


def _print_plan(config: Config, task: Task, pretrained: Params, new_head: bool, console: Console) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(pretrained))
    ood = f"{len(task.ood)} OOD domains ({', '.join(task.ood)})" if task.ood else "no OOD domain"
    console.print(
        f"Task {task.name}: {len(task.classes)} classes, {len(task.train)} training images of {task.train.name}; {ood}",
        soft_wrap=True,
    )
    head = "new head, not constrained" if new_head else "pre-trained head"
    console.print(f"Model {config.model}: {parameters:,} parameters, {head}, {config.dtype}", soft_wrap=True)


def _fine_tune(
    name: str,
    config: Config,
    task: Task,
    network: Network,
    pretrained: Params,
    new_head: bool,
    run_dir: RunDir,
    console: Console,
) -> Trained:
    total = num_steps(task.train, config.batch_size, config.epochs)
    tx = create_method(
        name,
        learning_rate=config.lr,
        num_steps=total,
        radii_learning_rate=config.radii_lr,
        mask=not_head if new_head else None,
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
    weights.save_safetensors(run_dir.weights(name), network.model(trained.params), _metadata(config, task, name))
    return trained


def _evaluate(
    config: Config,
    task: Task,
    network: Network,
    pretrained: Params,
    trained: Mapping[str, Trained],
    new_head: bool,
    console: Console,
) -> Predictions:
    domains = test_sets(task)
    with track(console, "evaluation", num_batches(domains, _EVAL_BATCH_SIZE), "batches") as update:
        done = iter(range(1, 1 << 62))
        return evaluate(
            network,
            pretrained,
            {name: result.params for name, result in trained.items()} | {PRETRAINED: pretrained},
            candidates(config, new_head=new_head),
            domains,
            mask=not_head if new_head else None,
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
