"""The configuration of a fine-tuning run: the command line, its checks, and its stored form."""

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import docstring_parser
import tyro

from vision.errors import UserError
from vision.flag_checks import LARGEST_IMAGE, NAMED, check, check_values
from vision.options import METHODS, DataOptions, MethodOptions, ModelOptions, RunOptions, TrainingOptions

__all__ = ["CONFIG_FILE", "LARGEST_IMAGE", "METHODS", "Config", "load_config", "parse_config"]

CONFIG_FILE = "config.json"
# Flags that say where and how to start, not what to compute: no part of the stored configuration.
_NOT_STORED = ("out", "resume", "coordinator", "hosts", "host")
# Flags that change nothing of the result: a resumed run may have others.
_FREE = ("workers", "fsdp", "save_every", "save_minutes", "keep", "tensorboard", "wandb")
# ImageNet features need more than the digits' own 16 pixels to be of any use.
_IMAGE_SIZE = {
    ("digits", "small-cnn"): 16,
    ("digits", "efficientnet-lite0"): 64,
    ("folders", "small-cnn"): 32,
    ("folders", "efficientnet-lite0"): 224,
}

# What a newcomer sees. A method is through in a second or two: it is looked at, and kept, at its end.
_DIGITS: dict[str, Any] = {
    "methods": "vanilla,vanilla_averaged,ftp,digrap",
    "labels": "30,all",
    "seeds": "0,1,2,3,4",
    "validate_every": 0,
    "save_every": 200,
}
_SMALLEST_DIGITS = _DIGITS | {"labels": "10,all", "seeds": "0,1"}

_PATHS = (
    "train", "val", "test", "dataset", "class_map", "pretrained", "classes", "prompts", "head_from", "preprocessor",
)  # fmt: skip


@dataclass(frozen=True)
class Config(RunOptions, MethodOptions, TrainingOptions, DataOptions, ModelOptions):
    """Everything that a run is told; the fields are those of its parts."""

    @property
    def model_path(self) -> Path | None:
        """The directory or file of a model from files; None for one that is known by name."""
        return None if self.model in NAMED else Path(self.model)

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods asked for, in the order given."""
        return tuple(name.strip() for name in self.methods.split(",") if name.strip())

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds to run, in the order given."""
        return tuple(int(seed) for seed in self.seeds.split(",")) if self.seeds else (self.seed,)

    @property
    def label_counts(self) -> tuple[int | None, ...]:
        """The numbers of training images to run with, in the order given; None for all."""
        return tuple(None if count == "all" else int(count) for count in self.labels.split(","))

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.seed_list) * len(self.label_counts) > 1

    @property
    def swept(self) -> dict[str, tuple[float, ...]]:
        """The values to try, by the field's name."""
        pairs = (item.split("=", 1) for item in self.sweep)
        return {flag.replace("-", "_"): tuple(map(float, values.split(","))) for flag, values in pairs}

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
        check(config)
        return _completed(config)
    if config.out is None:
        raise UserError("--resume: name the run directory to go on with, --out DIR --resume")
    stored = load_config(config.out)
    # Parsed once more with the stored values as defaults: whatever differs was asked for. A flag that is on by default
    # could not be given again, and a repeatable one would add to its default, so these start out empty.
    switches = [field.name for field in dataclasses.fields(Config) if isinstance(field.default, bool)]
    empty: dict[str, Any] = {"ood": (), **dict.fromkeys(switches, False)}
    given = _absolute(_parse(args, dataclasses.replace(stored, **empty)))
    given = dataclasses.replace(given, **{name: getattr(given, name) or getattr(stored, name) for name in empty})
    for name, value in stored.to_json().items():
        if given.to_json()[name] != value and name not in _FREE:
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
    import msgspec  # here, so that --help does not wait for it

    path = run_dir / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
        if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(Config)}):
            raise ValueError(f"unknown {unknown[0]!r}")
        if missing := sorted({"methods", "model", "seed", "epochs", "lr", "ood"} - fields.keys()):
            raise ValueError(f"no {missing[0]!r}")
        # what an older version did not know has its default
        config = msgspec.convert(fields, Config, dec_hook=_path)
        if not all(getattr(config, name) is None or getattr(config, name).is_absolute() for name in _PATHS):
            raise ValueError("a path is not absolute")
        if config.model_path is not None and not config.model_path.is_absolute():
            raise ValueError(f"model {config.model[:40]!r}")
        if not all(config.dataset or "=" in item for item in config.ood_names):
            raise ValueError("ood is no list of NAME=DIR")
        if (config.train is None) != (config.val is None):
            raise ValueError("train and val go together")
        check_values(config)  # names of methods become names of files: a foreign run directory gets no other say
        return dataclasses.replace(config, out=run_dir.absolute())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {run_dir} is not a run directory") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise UserError(f"{path}: not the configuration of a run ({error})") from None


def _path(kind: type, value: Any) -> Any:
    """Reads a path; msgspec knows all other kinds."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{str(value)[:40]!r} is no {kind.__name__}")


_PARTS = (ModelOptions, DataOptions, TrainingOptions, MethodOptions, RunOptions)


@dataclass(frozen=True)
class _Flags:
    """Fine-tune a vision model. Report its in- and out-of-distribution accuracy.

    Without arguments:
    - a small network, pre-trained in the same run, learns digits on photographs;
    - four methods, each with 30 labels and with all 300, and with five seeds;
    - a minute and a half on two CPU cores, without a download.
    """

    model: ModelOptions
    data: DataOptions
    training: TrainingOptions
    methods: MethodOptions
    run: RunOptions

    @classmethod
    def of(cls, config: Config) -> "_Flags":
        values: list[Any] = [
            part(**{f.name: getattr(config, f.name) for f in dataclasses.fields(part)}) for part in _PARTS
        ]
        return cls(*values)

    def config(self) -> Config:
        return Config(**{name: value for part in vars(self).values() for name, value in vars(part).items()})


def _unbroken_help(options: type) -> None:
    """Gives tyro each flag's help in one line: it keeps a docstring's line breaks, whatever the terminal's width."""
    texts = {doc.arg_name: doc.description or "" for doc in docstring_parser.parse_from_object(options).params}
    for field in dataclasses.fields(options):
        field.metadata = MappingProxyType({"help": " ".join(texts[field.name].split())})


def _parse(args: Sequence[str], default: Config) -> Config:
    for part in _PARTS:
        _unbroken_help(part)
    return tyro.cli(
        _Flags,
        prog="finetune.py",
        args=args,
        default=_Flags.of(default),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    ).config()


def _defaults(args: Sequence[str]) -> Config:
    """Defaults that depend on what is run; chosen before parsing, so that any flag overrides."""
    flags = {argument.split("=", 1)[0] for argument in args}
    config = Config()
    # the flag's value, as "--model DIR" or "--model=DIR"
    words = [word for argument in args for word in argument.split("=", 1)]
    model = words[words.index("--model") + 1] if "--model" in words[:-1] else None
    if flags & {"--train", "--dataset"}:
        config = dataclasses.replace(config, model="efficientnet-lite0", epochs=10)
    elif model in (None, config.model):
        config = dataclasses.replace(config, **(_SMALLEST_DIGITS if "--smallest" in flags else _DIGITS))
    if model not in (None, *NAMED):
        config = dataclasses.replace(config, lr=1e-4)
    if "--smallest" in flags:
        config = dataclasses.replace(config, epochs=2)
    if flags & {"--patience", "--select"}:
        config = dataclasses.replace(config, validate_every=None)
    if "--seed" in flags:
        config = dataclasses.replace(config, seeds="")
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


def _shown(value: Any) -> str:
    return "nothing" if value in (None, [], ()) else str(value)
