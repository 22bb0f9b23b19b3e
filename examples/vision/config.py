"""The configuration of a fine-tuning run: the command line, its checks, and its stored form."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vision.errors import UserError

METHODS = ("vanilla", "ftp", "digrap", "ftp+digrap")
CONFIG_FILE = "config.json"
LARGEST_IMAGE = 4096
# Flags that say where and how to start, not what to compute: no part of the stored configuration.
_NOT_STORED = ("out", "resume")
# ImageNet features need more than the digits' own 16 pixels to be of any use.
_IMAGE_SIZE = {
    ("digits", "small-cnn"): 16,
    ("digits", "efficientnet-lite0"): 64,
    ("folders", "small-cnn"): 32,
    ("folders", "efficientnet-lite0"): 224,
}

_PATHS = (
    "train", "val", "dataset", "class_map", "pretrained", "classes", "prompts", "head_from", "preprocessor",
)  # fmt: skip
_NAMED = ("small-cnn", "efficientnet-lite0")
_FLOATS = ("lr", "radii_lr", "wise_alpha", "val_fraction")
_KINDS = {"image_size": (int, type(None)), **dict.fromkeys(_FLOATS, (float, int))}

arg = tyro.conf.arg


@dataclass(frozen=True)
class Config:
    """Fine-tune a pre-trained vision model on one domain; report accuracy in it and outside it.

    Without arguments: handwritten digits on photographs, a small network pre-trained in the same
    run, four methods side by side; about a minute on two CPU cores, nothing to download.
    """

    methods: Annotated[str, arg(metavar="NAME,...")] = ",".join(METHODS)
    """Methods to compare, separated by commas: vanilla, ftp, digrap, ftp+digrap. Each is also
    evaluated interpolated with the pre-trained weights (WiSE-FT)."""

    model: Annotated[str, arg(metavar="DIR|FILE|NAME")] = "small-cnn"
    """What to fine-tune: a model directory of Hugging Face or timm (CLIP, SigLIP, ViT, DINOv2,
    DINOv3, ResNet, ConvNeXt, Swin), or a big_vision .npz file. Or a name: efficientnet-lite0 starts
    from ImageNet weights and is the default for your own images; small-cnn is pre-trained on
    synthetic digits, elsewhere it needs --pretrained."""

    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """The classes in words, for the zero-shot head of CLIP or SigLIP: a line for each class folder,
    in their order."""

    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: OpenAI's seven)")] = None
    """Templates for the zero-shot head: a line each, with {} where the name of the class goes."""

    head_from: Annotated[Path | None, arg(metavar="FILE.npy", help_behavior_hint="(default: made of the texts)")] = None
    """The zero-shot head ready made: text embeddings (classes, features), a row for each class."""

    freeze_head: bool = False
    """Train the image tower alone and leave the head as it is."""

    probe_epochs: int = 20
    """Passes over the features of a model from files, computed once, that train a new head before the
    fine-tuning (LP-FT). 0 starts from a random head."""

    preprocessor: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the model's own)")] = None
    """A preprocessor_config.json for a model that has none: mean, deviation, size, interpolation."""

    train: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: digits)")] = None
    """Training images of the fine-tuning domain (ID), one sub-folder a class."""

    val: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(with --train)")] = None
    """Held-out images of the same domain, the same sub-folders."""

    ood: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        arg(metavar="NAME=DIR", help_behavior_hint="(repeatable)"),
    ] = ()
    """Test images of other domains, the same sub-folders; several in a row or the flag repeated.
    With --dataset the names of its domains to test on, all others by default."""

    class_map: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """Names of classes where they are not those of the folders: a JSON object from folder
    to class, for training, validation and OOD folders alike. Several folders may have the
    same class, null leaves a folder out, one that is not named keeps its own name."""

    ood_subset: bool = False
    """OOD domains may lack classes (ImageNet-A, ImageNet-R). Each is then scored among the
    classes that it has. Without this flag a class that is missing is an error."""

    dataset: Annotated[Path | None, arg(metavar="ROOT", help_behavior_hint="(instead of --train, --val)")] = None
    """A folder with one sub-folder a domain, in each one sub-folder a class (DomainNet,
    PACS, Office-Home, VLCS). --id names the domain to fine-tune on, all others are OOD
    unless --ood NAME... picks some. A domain with lists of its images beside it, as DomainNet
    has them (real_train.txt and real_test.txt), keeps that split. Another domain is split at
    random if it is ID, and all of it is tested on if it is OOD. Or the CSV of a WILDS data
    set in its official splits (val and test are OOD): metadata.csv of iWildCam 2.0 or
    Camelyon17, rgb_metadata.csv of FMoW 1.1."""

    id: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(with --dataset ROOT)")] = None
    """The domain of --dataset to fine-tune on."""

    val_fraction: float = 0.1
    """Share of every class of --id held out for validation, and as much again for the ID
    test where no list says what to test on. The seed decides which images."""

    pretrained: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """Weights to start from: a safetensors file, such as weights/ftp.safetensors of an earlier
    run, or an Orbax checkpoint directory. A head that does not fit the classes starts anew."""

    out: Annotated[
        Path | None,
        arg(metavar="DIR", help_behavior_hint="(default: runs/<task>-<model>-<time>)"),
    ] = None
    """Run directory to create; with --resume the one to go on with."""

    seed: int = 0
    """Seed of the split, of a new head and of the order of the images."""

    epochs: int = 15
    """Passes over the training images (10 with --train or --dataset, 2 with --smallest)."""

    lr: float = 1e-3
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero (1e-4 with a model from
    files)."""

    radii_lr: float = 1e-2
    """Learning rate of FTP's radii, as released. They move by about that much a step: in a short
    run of wide layers 0.01 holds the weights tight, 0.1 leaves them room."""

    batch_size: int = 32
    """Images per step."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of parameters and activations. Loss, radii and strengths stay float32."""

    image_size: Annotated[
        int | None,
        arg(metavar="INT", help_behavior_hint="(default: the model's; small-cnn 32)"),
    ] = None
    """Side, in pixels, of the images of your own folders when they are scaled and cropped. Positions of
    a transformer are interpolated."""

    wise_alpha: float = 0.5
    """Weight of the fine-tuned model in the WiSE-FT rows: 0 is pre-trained, 1 is fine-tuned."""

    smallest: bool = False
    """A run of seconds that passes through everything; its accuracies mean nothing."""

    resume: bool = False
    """Go on with the run in --out where it was stopped. Its stored configuration is used."""

    @property
    def model_path(self) -> Path | None:
        """The directory or file of a model from files; None for one that is known by name."""
        return None if self.model in _NAMED else Path(self.model)

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods asked for, in the order given."""
        return tuple(name.strip() for name in self.methods.split(",") if name.strip())

    @property
    def ood_folders(self) -> dict[str, Path]:
        """The OOD folders by domain name, in the order given."""
        pairs = (item.split("=", 1) for group in self.ood for item in group)
        return {name: Path(folder) for name, folder in pairs}

    @property
    def ood_names(self) -> tuple[str, ...]:
        """The domains of `dataset` to test on, in the order given; none for all."""
        return tuple(item for group in self.ood for item in group)

    @property
    def task_name(self) -> str:
        """`digits`, or `folders` for the user's own images."""
        return "folders" if self.train or self.dataset else "digits"

    def to_json(self) -> dict[str, Any]:
        """What is computed, as JSON types: everything but where it is written."""
        fields = dataclasses.asdict(self)
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in fields.items()
            if name not in _NOT_STORED
        }


def parse_config(args: Sequence[str]) -> Config:
    """Reads the command line, and with --resume the configuration of the run to go on with.

    Args:
        args: the command line without the program's name.

    Returns:
        A checked configuration; its paths are absolute and `out` is set.

    Raises:
        UserError: a value that cannot be used, or one that contradicts the run to be resumed.
        SystemExit: raised by tyro for --help and for arguments that it cannot parse.
    """
    config = _parse(args, _defaults(args))
    if not config.resume:
        _check(config)
        return _completed(config)
    if config.out is None:
        raise UserError("--resume: name the run directory to go on with, --out DIR --resume")
    stored = load_config(config.out)
    # Parsed once more with the stored values as defaults: whatever differs was asked for. A flag that is on by default
    # could not be given again, and a repeatable one would add to its default, so these start out empty.
    empty: dict[str, Any] = {"ood": (), "smallest": False, "ood_subset": False, "freeze_head": False}
    given = _absolute(_parse(args, dataclasses.replace(stored, **empty)))
    given = dataclasses.replace(given, **{name: getattr(given, name) or getattr(stored, name) for name in empty})
    for name, value in stored.to_json().items():
        if given.to_json()[name] != value:
            raise UserError(
                f"--{name.replace('_', '-')} {_shown(given.to_json()[name])}: the run in "
                f"{config.out} has {_shown(value)}; leave the flag out or start a new run"
            )
    return given


def load_config(run_dir: Path) -> Config:
    """The configuration stored in a run directory, with `out` set to it.

    Raises:
        UserError: the directory holds none, or one that cannot be read.
    """
    path = run_dir / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
        fields["ood"] = tuple(tuple(group) for group in fields["ood"])
        # Runs of version 0.1.0 have none of these.
        absent = dict.fromkeys((*_PATHS, "image_size"))
        fields = {"radii_lr": Config.radii_lr, **absent} | fields
        for name in _PATHS:
            fields[name] = None if fields[name] is None else Path(fields[name])
        config = Config(**fields, out=run_dir.absolute())
        _check_types(config)
        _check_values(config)  # names of methods become names of files: a foreign run directory gets no other say
        return config
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {run_dir} is not a run directory") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not the configuration of a run ({error})") from None


def _parse(args: Sequence[str], default: Config) -> Config:
    return tyro.cli(
        Config,
        prog="finetune.py",
        args=args,
        default=default,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _defaults(args: Sequence[str]) -> Config:
    """Defaults that depend on what is run; chosen before parsing, so that any flag overrides."""
    flags = {argument.split("=", 1)[0] for argument in args}
    config = Config()
    if flags & {"--train", "--dataset"}:
        config = dataclasses.replace(config, model="efficientnet-lite0", epochs=10)
    # the flag's value, as "--model DIR" or "--model=DIR"
    words = [word for argument in args for word in argument.split("=", 1)]
    if "--model" in words[:-1] and words[words.index("--model") + 1] not in _NAMED:
        config = dataclasses.replace(config, lr=1e-4)
    if "--smallest" in flags:
        config = dataclasses.replace(config, epochs=2)
    return config


def _completed(config: Config) -> Config:
    """Absolute paths, the run directory's name and the image size."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = config.out or Path("runs") / f"{config.task_name}-{Path(config.model).name}-{stamp}"
    # None stays for a model from files, which say what it is for
    size = config.image_size or _IMAGE_SIZE.get((config.task_name, config.model))
    return _absolute(dataclasses.replace(config, out=out, image_size=size))


def _absolute(config: Config) -> Config:
    """A run can be resumed from another working directory."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(path.expanduser()))

    named = (lambda item: item) if config.dataset else _absolute_pair
    ood = tuple(tuple(named(item) for item in group) for group in config.ood if len(group) > 0)
    paths = {name: absolute(getattr(config, name)) for name in _PATHS}
    model = str(absolute(config.model_path) or config.model)
    return dataclasses.replace(config, ood=ood, out=absolute(config.out), model=model, **paths)


def _absolute_pair(item: str) -> str:
    name, equals, folder = item.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--ood {item}: give a name and a folder, --ood NAME=DIR")
    return f"{name}={os.path.abspath(os.path.expanduser(folder))}"


def _check(config: Config) -> None:
    _check_values(config)
    _check_model(config)
    _check_dataset(config)
    _check_folders(config)


def _check_types(config: Config) -> None:
    """Raises TypeError for a stored value of another type than its field's."""
    for field in dataclasses.fields(Config):
        value, usual = getattr(config, field.name), field.default
        kinds = _KINDS.get(field.name, type(usual))
        if usual is not None and not isinstance(value, kinds):
            raise TypeError(f"{field.name} is {str(value)[:40]!r}")
        if isinstance(value, bool) and not isinstance(usual, bool):
            raise TypeError(f"{field.name} is {value}")
    if not (config.image_size is None or isinstance(config.image_size, int)):
        raise TypeError(f"image_size is {str(config.image_size)[:40]!r}")
    if not all(isinstance(item, str) and (config.dataset or "=" in item) for item in config.ood_names):
        raise TypeError("ood is no list of NAME=DIR")
    if not isinstance(config.id, str | None):
        raise TypeError(f"id is {str(config.id)[:40]!r}")
    if (config.train is None) != (config.val is None):
        raise TypeError("train and val go together")
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {config.dtype[:40]!r}")
    if config.model_path is not None and not config.model_path.is_absolute():
        raise ValueError(f"model {config.model[:40]!r}")


def _check_values(config: Config) -> None:
    names = config.method_names
    for name in names:
        if name not in METHODS:
            raise UserError(f"--methods {name}: unknown; the methods are {', '.join(METHODS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"--methods {config.methods!r}: name at least one method, none twice")
    for flag, value, good in (
        ("--epochs", config.epochs, config.epochs >= 1),
        ("--batch-size", config.batch_size, config.batch_size >= 1),
        ("--seed", config.seed, 0 <= config.seed < 2**31),
        ("--lr", config.lr, config.lr > 0 and math.isfinite(config.lr)),
        ("--radii-lr", config.radii_lr, config.radii_lr > 0 and math.isfinite(config.radii_lr)),
        ("--wise-alpha", config.wise_alpha, 0 <= config.wise_alpha <= 1),
        ("--probe-epochs", config.probe_epochs, config.probe_epochs >= 0),
        ("--val-fraction", config.val_fraction, 0 < config.val_fraction < 0.5),
        ("--image-size", config.image_size, config.image_size is None or 8 <= config.image_size <= LARGEST_IMAGE),
    ):
        if not good:
            raise UserError(f"{flag} {value}: out of range, see --help")


def _check_model(config: Config) -> None:
    path = config.model_path
    if path is None:
        flags = {"--classes": config.classes, "--prompts": config.prompts, "--head-from": config.head_from}
        for flag, value in (flags | {"--preprocessor": config.preprocessor}).items():
            if value is not None:
                raise UserError(f"{flag} {value}: goes with a model from files, --model DIR; leave it out")
        return
    if not path.exists():
        raise UserError(f"--model {path}: no such directory or file, and no name ({', '.join(_NAMED)})")
    if config.pretrained is not None:
        raise UserError("--pretrained: the weights come with --model DIR; leave it out")
    if config.head_from and (config.classes or config.prompts):
        raise UserError("--head-from: is the head ready made; leave --classes and --prompts out")


def _check_folders(config: Config) -> None:
    if config.task_name == "digits":
        if config.val or config.ood or config.image_size or config.class_map or config.ood_subset:
            raise UserError(
                "--val, --ood, --image-size, --class-map and --ood-subset go with --train DIR or --dataset ROOT; "
                "give one of these too"
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


def _check_dataset(config: Config) -> None:
    split = config.id or config.val_fraction != Config.val_fraction
    if config.dataset is None:
        if split:
            raise UserError("--id and --val-fraction go with --dataset ROOT; give that too")
        return
    if config.train or config.val:
        raise UserError("--dataset: has the training and validation images too; leave --train and --val out")
    for item in config.ood_names:
        if "=" in item:
            raise UserError(f"--ood {item}: with --dataset, name one of its domains and no folder")
    if config.dataset.suffix == ".csv" and split:
        raise UserError(f"--dataset {config.dataset}: a CSV has its own splits; leave --id and --val-fraction out")


def _shown(value: Any) -> str:
    return "nothing" if value in (None, [], ()) else str(value)
