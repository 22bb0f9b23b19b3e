"""What the flags of the main job may be, alone and together; every refusal says what to give."""

import dataclasses
import importlib.util
import math
from typing import TYPE_CHECKING

from vision.errors import UserError
from vision.options import METHODS, DataOptions

if TYPE_CHECKING:
    from vision.config import Config

__all__ = ["LARGEST_IMAGE", "NAMED", "check", "check_values"]

LARGEST_IMAGE = 4096
NAMED = ("small-cnn", "efficientnet-lite0")
"""Models that are known by name."""


def check(config: "Config") -> None:
    check_values(config)
    _check_model(config)
    _check_dataset(config)
    _check_folders(config)
    _check_together(config)


def check_values(config: "Config") -> None:
    names = config.method_names
    for name in names:
        if name not in METHODS:
            raise UserError(f"--methods {name}: unknown; the methods are {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--methods {config.methods!r}: name at least one method, none twice")
    _check_ranges(config)
    seeds = config.seeds.split(",") if config.seeds else []
    if not all(seed.isdecimal() and int(seed) < 2**31 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {config.seeds}: give whole numbers, none twice, such as 0,1,2")
    counts = config.labels.split(",")
    numbers = all(count == "all" or (count.isdecimal() and int(count) > 0) for count in counts)
    if not numbers or len(set(config.label_counts)) < len(counts):
        raise UserError(f"--labels {config.labels}: give whole numbers from 1 on, or all, none twice, such as 30,all")
    for item in config.sweep:
        _check_sweep(item, config)


def _check_ranges(config: "Config") -> None:
    positive = (lambda value: 0 < value < math.inf), "a number above 0"
    not_negative = (lambda value: 0 <= value < math.inf), "0 or more"
    share = (lambda value: 0 <= value <= 1), "a number in 0..1"
    at_least_1 = (lambda value: value >= 1), "a whole number from 1 on"
    rules = {
        **dict.fromkeys(("epochs", "batch_size", "accumulate", "keep", "hosts", "project_steps"), at_least_1),
        **dict.fromkeys(("lr", "radii_lr", "radii_scale", "strengths_lr", "max_strength", "pgm_radius"), positive),
        **dict.fromkeys(
            (
                *("weight_decay", "clip", "mixup", "cutmix", "spd_strength", "l2_sp_strength", "save_minutes"),
                *("workers", "probe_epochs", "patience", "lora_rank"),
            ),
            not_negative,
        ),
        "kappa": share,
        "wise_alpha": ((lambda value: value in ("auto", "best") or 0 <= value <= 1), "a number in 0..1, auto or best"),
        "warmup": ((lambda value: 0 <= value < 1), "a number from 0 on, below 1"),
        "label_smoothing": ((lambda value: 0 <= value < 1), "a number from 0 on, below 1"),
        "layer_decay": ((lambda value: 0 < value <= 1), "a number above 0, up to 1"),
        "seed": ((lambda value: 0 <= value < 2**31), "a whole number from 0 on, below 2^31"),
        "host": ((lambda value: 0 <= value < config.hosts), f"a whole number from 0 on, below --hosts {config.hosts}"),
        "val_fraction": ((lambda value: 0 < value < 0.5), "a number above 0, below 0.5"),
        "image_size": ((lambda value: value is None or 8 <= value <= LARGEST_IMAGE), f"8 to {LARGEST_IMAGE} pixels"),
        "validate_every": ((lambda value: value is None or value >= 0), "0 or more steps"),
        "save_every": ((lambda value: value is None or value >= 1), "1 or more steps"),
    }
    for name, (good, wanted) in rules.items():
        if not good(getattr(config, name)):
            raise UserError(f"--{name.replace('_', '-')} {getattr(config, name)}: out of range; give {wanted}")


def _check_sweep(item: str, config: "Config") -> None:
    flag, _, values = item.partition("=")
    knobs = {f.name.replace("_", "-"): f.default for f in dataclasses.fields(config) if type(f.default) is float}
    if flag not in knobs:
        raise UserError(f"--sweep {item}: no number to choose is called {flag!r}; one of {', '.join(sorted(knobs))}")
    try:
        found = [float(value) for value in values.split(",")]
    except ValueError:
        found = []
    if len(set(found)) < 2:
        raise UserError(f"--sweep {item}: give two values or more, such as {flag}={knobs[flag]:g},{10 * knobs[flag]:g}")
    for value in found:
        _check_ranges(dataclasses.replace(config, **{flag.replace("-", "_"): value}))


def _check_model(config: "Config") -> None:
    path = config.model_path
    if path is None:
        flags = {"--classes": config.classes, "--prompts": config.prompts, "--head-from": config.head_from}
        for flag, value in (flags | {"--preprocessor": config.preprocessor}).items():
            if value is not None:
                raise UserError(f"{flag} {value}: goes with a model from files, --model DIR; leave it out")
        return
    if not path.exists():
        raise UserError(f"--model {path}: no such directory or file, and no name ({', '.join(NAMED)})")
    if config.pretrained is not None:
        raise UserError("--pretrained: the weights come with --model DIR; leave it out")
    if config.head_from and (config.classes or config.prompts):
        raise UserError("--head-from: is the head ready made; leave --classes and --prompts out")


def _check_folders(config: "Config") -> None:
    if config.task_name == "digits":
        if config.val or config.test or config.ood or config.image_size or config.class_map or config.ood_subset:
            raise UserError(
                "--val, --test, --ood, --image-size, --class-map and --ood-subset go with --train DIR or "
                "--dataset ROOT; give one of these too"
            )
        return
    if config.train and config.val is None:
        raise UserError("--train: give held-out images of the same domain too, --val DIR")
    ood_names = [item.split("=", 1)[0] for group in config.ood for item in group]
    for name in ood_names:
        if ood_names.count(name) > 1:
            shown = name if config.dataset else f"{name}=..."
            raise UserError(f"--ood {shown}: given twice; every domain needs its own name")
    if config.model == "small-cnn" and config.pretrained is None:
        raise UserError(
            "--model small-cnn: has no weights of its own for --train; give --pretrained FILE, "
            "or use --model efficientnet-lite0"
        )


def _check_dataset(config: "Config") -> None:
    split = config.id or config.val_fraction != DataOptions.val_fraction
    if config.dataset is None:
        if split:
            raise UserError("--id and --val-fraction go with --dataset ROOT; give that too")
        return
    if config.train or config.val or config.test:
        raise UserError("--dataset: has the training and validation images too; leave --train, --val and --test out")
    for item in config.ood_names:
        if "=" in item:
            raise UserError(f"--ood {item}: with --dataset, name one of its domains and no folder")
    if config.dataset.suffix == ".csv" and split:
        raise UserError(f"--dataset {config.dataset}: a CSV has its own splits; leave --id and --val-fraction out")


def _check_together(config: "Config") -> None:
    """Flags that make sense only with others."""
    if config.hosts > 1 and config.coordinator is None:
        raise UserError("--hosts: name the first host's address too, --coordinator HOST:PORT")
    if config.coordinator is not None and config.out is None:
        raise UserError("--coordinator: all hosts write to one directory; name it, --out DIR on a shared disk")
    if config.patience and config.validate_every == 0:
        raise UserError("--patience: needs looks at the validation images; leave --validate-every 0 out")
    if config.freeze_head and (without := {"linear_probe", "lp_ft"} & set(config.method_names)):
        raise UserError(f"--freeze-head: {min(without)} trains the head; leave the flag or the method out")
    if config.augment != "none" and config.task_name == "digits":
        raise UserError(f"--augment {config.augment}: mirrors images, and a digit is then no digit; leave it out")
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(f"--wandb {config.wandb}: the package is missing; install it (pip install wandb)")
    if config.lora_rank and (config.freeze or config.batch_norm == "live"):
        raise UserError("--lora-rank: trains its adapters and the head alone; leave --freeze and --batch-norm live out")
    averaging = f"--average {config.average}" if config.average != "none" else ""
    averaging = averaging or ("--methods vanilla_averaged" if "vanilla_averaged" in config.method_names else "")
    if averaging and config.batch_norm == "live":
        raise UserError(
            f"{averaging}: live statistics are the last weights', not the average's; leave it or --batch-norm live out"
        )
    if config.dtype == "bfloat16" and "ftp_lean" in config.method_names:
        raise UserError("--dtype bfloat16: ftp_lean needs float32 parameters; give --compute-dtype bfloat16 instead")
    if config.compute_dtype == "float32" and config.dtype == "bfloat16":
        raise UserError("--compute-dtype float32: has no use over bfloat16 parameters; leave one of the two out")
