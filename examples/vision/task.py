"""The images of a run, from wherever its flags say."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console

from vision.class_map import FOLDER_NAMES, read_class_map
from vision.config import Config
from vision.data import ArrayDomain, Domain, Task
from vision.dataset_root import dataset_task
from vision.devices import Devices
from vision.digits import digits_task
from vision.folders import FolderDomain, OnChecked, folder_task
from vision.listing import load_listing, store_listing
from vision.progress import track
from vision.run_dir import RunDir
from vision.wilds import wilds_task

if TYPE_CHECKING:
    from pretrained.preprocessing import Preprocessing

__all__ = ["load_task"]


def load_task(config: Config, run_dir: RunDir, devices: Devices, console: Console) -> Task:
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

    return devices.first_alone(load)


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
