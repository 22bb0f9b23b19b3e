"""The flags of the main job, in groups: names, meanings and defaults.

This module does not import JAX, so that `--help` is fast. `config` checks values that depend on each other.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

__all__ = ["METHODS", "DataOptions", "MethodOptions", "ModelOptions", "RunOptions", "TrainingOptions"]

METHODS = (
    "vanilla", "vanilla_averaged", "ftp", "ftp_exact", "ftp_scale_free", "ftp_lean", "digrap", "ftp+digrap", "tpgm",
    "tpgm_project", "spd", "maps", "pgm", "l2_sp", "linear_probe", "lp_ft",
)  # fmt: skip

arg = tyro.conf.arg


@dataclass(frozen=True)
class ModelOptions:
    """The model to fine-tune."""

    model: Annotated[str, arg(metavar="DIR|FILE|NAME")] = "small-cnn"
    """A model directory of Hugging Face or timm (CLIP, SigLIP, ViT, DINOv2, DINOv3, ResNet, ConvNeXt, Swin), a
    big_vision .npz file, or a name. efficientnet-lite0 has ImageNet weights and is the default for your own images.
    small-cnn is for the digits, on which the run pre-trains it; for other images it needs --pretrained."""

    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """Names of the classes, for the zero-shot head of CLIP or SigLIP: one line per class folder, in their order."""

    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: OpenAI's seven)")] = None
    """Templates for the zero-shot head, one per line, with {} in place of the class name."""

    head_from: Annotated[Path | None, arg(metavar="FILE.npy", help_behavior_hint="(default: from the names)")] = None
    """Text embeddings for the zero-shot head: an array (classes, features), one row per class."""

    freeze_head: bool = False
    """Do not train the head, only the image tower."""

    freeze: Annotated[tuple[str, ...], arg(metavar="PATTERN...", help_behavior_hint="(default: nothing)")] = ()
    """Parameters not to train, by shell patterns of their paths, such as 'image/blocks/[0-5]/*'. They have no gradient
    and no optimizer state."""

    lora_rank: int = 0
    """Rank of LoRA adapters. They are trained instead of the kernels of attention and MLP. 0: no adapters."""

    batch_norm: Literal["frozen", "live"] = "frozen"
    """Statistics of batch normalisation. frozen: the pre-trained ones. live: they follow the training images, and no
    method constrains them."""

    probe_epochs: int = 20
    """For a model from files with a new head: epochs that train the head on frozen features before the fine-tuning
    (LP-FT). 0: the fine-tuning starts from a random head."""

    preprocessor: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the model's own)")] = None
    """A preprocessor_config.json (mean, standard deviation, size, interpolation) for a model that has none."""

    pretrained: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """Initial weights that replace the model's own: a safetensors file or an Orbax directory."""

    image_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the model's; small-cnn 32)")] = (
        None
    )
    """Side, in pixels, to which your own images are resized and cropped. The position embeddings of a transformer are
    interpolated."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of parameters and activations. Loss, radii and strengths stay float32."""

    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the forward and backward pass. bfloat16 keeps the stored parameters in float32. None: that of
    --dtype."""

    remat: bool = False
    """Recompute the activations of each block in the backward pass: less memory, a third more time."""


@dataclass(frozen=True)
class DataOptions:
    """The images for training, validation and tests."""

    train: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: digits)")] = None
    """Training images of the fine-tuning domain (ID), one sub-folder per class."""

    val: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(with --train)")] = None
    """Validation images of the same domain, in the same sub-folders."""

    test: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: --val)")] = None
    """Test images of the same domain. No setting is chosen on them, only on those of --val."""

    ood: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        arg(metavar="NAME=DIR", help_behavior_hint="(repeatable)"),
    ] = ()
    """Test images of other domains, in the same sub-folders. Give several, or repeat the flag. With --dataset: names
    of its domains to test on; by default all except --id."""

    class_map: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """A JSON object from folder name to class name, for training, validation and OOD folders. Several folders may have
    the same class. null leaves a folder out. A folder that the object lacks keeps its name."""

    ood_subset: bool = False
    """Allow OOD domains that lack classes (ImageNet-A, ImageNet-R), and score each among the classes that it has.
    Without this flag a missing class is an error."""

    dataset: Annotated[Path | None, arg(metavar="ROOT", help_behavior_hint="(instead of --train, --val)")] = None
    """A folder with one sub-folder per domain, and in it one per class (DomainNet, PACS, Office-Home, VLCS). --id names
    the domain to fine-tune on. The others are OOD, or those that --ood names. Lists such as DomainNet's real_train.txt
    and real_test.txt define the split of their domain. Without lists the ID domain is split at random, and all images
    of an OOD domain are test images. Or the CSV of a WILDS data set, in its official splits (val and test are OOD):
    metadata.csv of iWildCam 2.0 or Camelyon17, rgb_metadata.csv of FMoW 1.1."""

    id: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(with --dataset ROOT)")] = None
    """The domain of --dataset to fine-tune on."""

    val_fraction: float = 0.1
    """Share of every class of --id for validation. Without lists, the same share again is for the ID test. The seed
    decides which images."""

    labels: Annotated[str, arg(metavar="N,...", help_behavior_hint="(default: all; digits 30,all)")] = "all"
    """Number of training images, balanced over the classes. Each seed draws others. The number of steps is that with
    all images. The report compares several numbers."""

    augment: Literal["none", "light", "strong"] = "none"
    """Random changes of the training images. light: a crop of random size and place, and a flip. strong: also colour
    jitter and RandAugment. Validation and test images have only the model's preprocessing."""

    mixup: float = 0.0
    """Mixup's alpha: blends pairs of images and their labels with a weight from Beta(alpha, alpha). 0: no mixup."""

    cutmix: float = 0.0
    """CutMix's alpha: replaces a rectangle of an image by that of another, and mixes the labels by area. 0: no CutMix.
    With --mixup, each step draws one of the two."""

    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""

    workers: int = 0
    """Processes that decode images. 0: threads of the training process decode them."""

    on_bad_image: Literal["error", "skip"] = "error"
    """When an image cannot be read: stop the run, or skip and count it."""


@dataclass(frozen=True)
class TrainingOptions:
    """The optimizer and its schedule."""

    epochs: int = 15
    """Passes over the training images (10 with --train or --dataset, 2 with --smallest)."""

    batch_size: int = 32
    """Images per step, on all devices together."""

    optimizer: Literal["adamw", "sgd", "lion", "muon"] = "adamw"
    """The base optimizer. sgd has momentum 0.9. muon updates matrices, and adamw all other parameters."""

    lr: float = 1e-3
    """Peak learning rate (1e-4 with a model from files)."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """The learning rate after the warm-up: cosine or linear decay to zero, or constant."""

    warmup: float = 0.1
    """Share of the steps in which the learning rate rises from zero to its peak."""

    weight_decay: float = 0.0
    """Decoupled weight decay of matrices and kernels, towards zero. The method l2_sp decays towards the pre-trained
    weights."""

    clip: float = 1.0
    """Largest global norm of a gradient. 0: no clipping."""

    accumulate: int = 1
    """Number of batches whose mean gradient makes one optimizer step."""

    average: Literal["none", "uniform", "polynomial", "ema"] = "none"
    """Weights to validate, report and write. none: the last ones. uniform: the mean over all steps. polynomial: the
    same with smaller weights for early steps. ema: their exponential moving average, over about 1,000 steps. The
    training does not change. Batch-norm statistics are frozen."""

    layer_decay: float = 1.0
    """Ratio of the learning rate of a block to that of the next block. 0.65 to 0.9 is usual for transformers."""


@dataclass(frozen=True)
class MethodOptions:
    """The methods and their settings."""

    methods: Annotated[str, arg(metavar="NAME,...")] = "vanilla,ftp,digrap,ftp+digrap"
    """Methods to compare, separated by commas: vanilla, vanilla_averaged (the mean of all steps' weights), ftp,
    ftp_exact, ftp_scale_free, ftp_lean, digrap, ftp+digrap, tpgm, tpgm_project, spd, maps, pgm, l2_sp, linear_probe,
    lp_ft. vanilla is plain fine-tuning. The report also has each method interpolated with the pre-trained weights
    (WiSE-FT)."""

    radii_lr: float = 1e-2
    """Learning rate of the radii of FTP and TPGM. A radius grows by about this much in each step. Use 0.1 where a short
    run learns too little."""

    radii_scale: float = 0.3
    """Learning rate of the radii of ftp_scale_free, in units of a layer's largest step."""

    kappa: float = 1.0
    """Factor in [0, 1] on the hyper-gradients that shrink a radius of FTP. With 0 no radius shrinks by itself."""

    strengths_lr: float = 0.5
    """Learning rate of the projection strengths of DiGraP."""

    max_strength: float = 1.0
    """Largest projection strength of DiGraP."""

    spd_strength: float = 1.0
    """Strength of the decay of SPD and MAPS towards the pre-trained weights."""

    pgm_radius: float = 1.0
    """The fixed radius of pgm, which bounds the largest norm of each layer."""

    l2_sp_strength: float = 1e-2
    """Strength of the decay of L2-SP towards the pre-trained weights."""

    project_steps: int = 200
    """Number of validation batches on which tpgm_project learns its radii after the training."""

    wise_alpha: float | Literal["auto", "best"] = 0.5
    """Weight of the fine-tuned model in the WiSE-FT rows: 0 is pre-trained, 1 is fine-tuned. best: the smallest
    of the eleven values 0, 0.1 to 1 with the best validation accuracy, for each method. auto: the smallest whose
    validation accuracy is within one standard error of the best."""

    wise_path: bool = False
    """Evaluate each method at the WiSE-FT weights 0, 0.25, 0.5, 0.75 and 1, for the figure of ID and OOD accuracy."""

    sweep: Annotated[tuple[str, ...], arg(metavar="FLAG=V,V,...", help_behavior_hint="(default: none)")] = ()
    """Values of a setting to try with every method that uses it, such as radii-lr=0.003,0.01,0.1. Validation images of
    the first seed choose, before the job reads any test image."""


@dataclass(frozen=True)
class RunOptions:
    """Seeds, validation, checkpoints, logs and devices."""

    seed: int = 0
    """Seed of the image order, of the augmentation and of new parameters."""

    seeds: Annotated[str, arg(metavar="N,N,...", help_behavior_hint="(default: --seed alone; digits 0 to 4)")] = ""
    """Seeds, separated by commas, one run each. The report has means, and differences to vanilla with 95 %
    intervals."""

    fsdp: bool = False
    """Shard parameters and optimizer state over all devices, instead of a copy on each."""

    validate_every: Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="(default: an epoch; digits 0)")] = (
        None
    )
    """Validate every so many steps. 0: only at the end."""

    select: Literal["last", "best"] = "last"
    """The weights to report: the last ones, or those with the best validation accuracy. Both are kept."""

    patience: int = 0
    """Stop a method after so many validations in a row without a better accuracy. 0: never."""

    save_every: Annotated[
        int | None, arg(metavar="STEPS", help_behavior_hint="(default: an epoch, at most 200; digits 200)")
    ] = None
    """Save a checkpoint every so many steps."""

    save_minutes: float = 0.0
    """Save a checkpoint also every so many minutes. 0: never."""

    keep: int = 2
    """Number of checkpoints that a method keeps while it trains. A finished run keeps the last."""

    tensorboard: bool = False
    """Also write TensorBoard event files."""

    wandb: Annotated[str | None, arg(metavar="PROJECT", help_behavior_hint="(default: none)")] = None
    """Also log to this project of Weights & Biases (needs the package wandb)."""

    smallest: bool = False
    """A quick run that uses every part of the job. Its accuracies mean nothing."""

    coordinator: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: one host)")] = None
    """For several hosts: HOST:PORT of the first. Run the same command on each, with its own --host. auto: Slurm, MPI or
    the TPU pod gives the address and the numbers."""

    hosts: int = 1
    """Number of hosts."""

    host: int = 0
    """Number of this host, from 0."""

    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/TASK-MODEL-TIME)")] = None
    """Directory for report, figures, weights and checkpoints. Without --resume it must not exist."""

    resume: bool = False
    """Continue the stopped run in --out, with its stored configuration."""
