"""The flags of the main job, in groups: what they are called, what they mean, what they are when not given.

No JAX here: `--help` does not wait for it. The values that depend on each other are checked in `config`.
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
    """What is fine-tuned."""

    model: Annotated[str, arg(metavar="DIR|FILE|NAME")] = "small-cnn"
    """A model directory of Hugging Face or timm (CLIP, SigLIP, ViT, DINOv2, DINOv3, ResNet, ConvNeXt, Swin), or a
    big_vision .npz file. Or a name: efficientnet-lite0 starts from ImageNet weights and is the default for your own
    images; small-cnn is pre-trained on synthetic digits, elsewhere it needs --pretrained."""

    classes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """The classes in words, for the zero-shot head of CLIP or SigLIP: a line for each class folder, in their order."""

    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: OpenAI's seven)")] = None
    """Templates for the zero-shot head: a line each, with {} where the name of the class goes."""

    head_from: Annotated[Path | None, arg(metavar="FILE.npy", help_behavior_hint="(default: made of the texts)")] = None
    """The zero-shot head ready made: text embeddings (classes, features), a row for each class."""

    freeze_head: bool = False
    """Train the image tower alone and leave the head as it is."""

    freeze: Annotated[tuple[str, ...], arg(metavar="PATTERN...", help_behavior_hint="(default: nothing)")] = ()
    """Parameters to leave as they are, by shell patterns of their paths, such as 'image/blocks/[0-5]/*'. Nothing is
    computed or stored for them."""

    lora_rank: int = 0
    """Rank of LoRA adapters, which are then trained in place of the kernels of attention and MLP; 0 for none."""

    batch_norm: Literal["frozen", "live"] = "frozen"
    """Statistics of batch normalisation: frozen are the pre-trained ones; live follow the training images, outside of
    every trust region."""

    probe_epochs: int = 20
    """Passes over the features of a model from files, computed once, that train a new head before the fine-tuning
    (LP-FT). 0 starts from a random head."""

    preprocessor: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the model's own)")] = None
    """A preprocessor_config.json for a model that has none: mean, deviation, size, interpolation."""

    pretrained: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")] = None
    """Weights to start from in place of the model's own: a safetensors file or an Orbax directory."""

    image_size: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the model's; small-cnn 32)")] = (
        None
    )
    """Side, in pixels, of the images of your own folders when they are scaled and cropped. Positions of a transformer
    are interpolated."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of parameters and activations. Loss, radii and strengths stay float32."""

    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of activations and of the parameters where they are used: bfloat16 over parameters that stay
    float32. By default that of --dtype."""

    remat: bool = False
    """Compute the inside of each block again in the backward pass: less memory, a third more time."""


@dataclass(frozen=True)
class DataOptions:
    """What it is fine-tuned and tested on."""

    train: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: digits)")] = None
    """Training images of the fine-tuning domain (ID), one sub-folder a class."""

    val: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(with --train)")] = None
    """Held-out images of the same domain, the same sub-folders."""

    test: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: --val)")] = None
    """Test images of the same domain, where --val is for choosing: no choice is made on them."""

    ood: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        arg(metavar="NAME=DIR", help_behavior_hint="(repeatable)"),
    ] = ()
    """Test images of other domains, the same sub-folders; several in a row or the flag repeated. With --dataset the
    names of its domains to test on, all others by default."""

    class_map: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the folders' names)")] = None
    """Names of classes where they are not those of the folders: a JSON object from folder to class, for training,
    validation and OOD folders alike. Several folders may have the same class, null leaves a folder out, one that is not
    named keeps its own name."""

    ood_subset: bool = False
    """OOD domains may lack classes (ImageNet-A, ImageNet-R). Each is then scored among the classes that it has. Without
    this flag a class that is missing is an error."""

    dataset: Annotated[Path | None, arg(metavar="ROOT", help_behavior_hint="(instead of --train, --val)")] = None
    """A folder with one sub-folder a domain, in each one sub-folder a class (DomainNet, PACS, Office-Home, VLCS). --id
    names the domain to fine-tune on, all others are OOD unless --ood NAME... picks some. A domain with lists of its
    images beside it, as DomainNet has them (real_train.txt and real_test.txt), keeps that split. Another domain is
    split at random if it is ID, and all of it is tested on if it is OOD. Or the CSV of a WILDS data set in its official
    splits (val and test are OOD): metadata.csv of iWildCam 2.0 or Camelyon17, rgb_metadata.csv of FMoW 1.1."""

    id: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(with --dataset ROOT)")] = None
    """The domain of --dataset to fine-tune on."""

    val_fraction: float = 0.1
    """Share of every class of --id held out for validation, and as much again for the ID test where no list says what
    to test on. The seed decides which images."""

    labels: Annotated[str, arg(metavar="N,...", help_behavior_hint="(default: all; digits 30,all)")] = "all"
    """How many training images to use, in all: as many of each class, drawn anew for each seed, for as many steps as
    with all of them. Several numbers, or all, are compared."""

    augment: Literal["none", "light", "strong"] = "none"
    """What is done to training images at random. light: a crop of random size and place, and a flip. strong: colour
    jitter and RandAugment besides. Validation and test images are as the model's preprocessing says."""

    mixup: float = 0.0
    """Mixup's alpha: images and labels of a batch are blended in pairs, by shares drawn from Beta(alpha, alpha)."""

    cutmix: float = 0.0
    """CutMix's alpha: a rectangle of an image is that of another, and labels are shared by area. With --mixup, one of
    the two in each step at random."""

    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""

    workers: int = 0
    """Processes that decode images; 0 decodes in threads of the training process."""

    on_bad_image: Literal["error", "skip"] = "error"
    """What an image that cannot be read does in training or testing: stop the run, or be passed over and counted."""


@dataclass(frozen=True)
class TrainingOptions:
    """How it is fine-tuned."""

    epochs: int = 15
    """Passes over the training images (10 with --train or --dataset, 2 with --smallest)."""

    batch_size: int = 32
    """Images per step, over all devices together."""

    optimizer: Literal["adamw", "sgd", "lion", "muon"] = "adamw"
    """The base optimizer. sgd has momentum 0.9; muon is for matrices, with adamw for everything else."""

    lr: float = 1e-3
    """Peak learning rate (1e-4 with a model from files)."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to zero, or not."""

    warmup: float = 0.1
    """Share of the steps in which the learning rate rises from zero."""

    weight_decay: float = 0.0
    """Decoupled decay of the weights towards zero, of matrices and kernels. Towards the pre-trained weights is the
    method l2_sp."""

    clip: float = 1.0
    """Largest global norm of a gradient; 0 does not clip."""

    accumulate: int = 1
    """Batches whose gradients are averaged for one step of the optimizer."""

    average: Literal["none", "uniform", "ema"] = "none"
    """What is validated, reported and written: the last weights, the mean of all steps', or their exponential moving
    average (over about 1,000 steps). Training goes on as without it; statistics of batch normalisation are frozen."""

    layer_decay: float = 1.0
    """Factor on the learning rate from each block to the one before it: 0.65 to 0.9 is usual for transformers."""


@dataclass(frozen=True)
class MethodOptions:
    """Which methods, and their knobs."""

    methods: Annotated[str, arg(metavar="NAME,...")] = "vanilla,ftp,digrap,ftp+digrap"
    """Methods to compare, separated by commas: vanilla, vanilla_averaged (the mean of all steps' weights), ftp,
    ftp_exact, ftp_scale_free, ftp_lean, digrap, ftp+digrap, tpgm, tpgm_project, spd, maps, pgm, l2_sp, linear_probe,
    lp_ft. Each is also evaluated interpolated with the pre-trained weights (WiSE-FT)."""

    radii_lr: float = 1e-2
    """Learning rate of FTP's and TPGM's radii, as released. They move by about that much a step: in a short run of wide
    layers 0.01 holds the weights tight, 0.1 leaves them room."""

    radii_scale: float = 0.3
    """Learning rate of ftp_scale_free's radii, in units of the largest step of a layer."""

    kappa: float = 1.0
    """Factor on FTP's positive hyper-gradients, in 0..1: less lets the radii grow more easily."""

    strengths_lr: float = 0.5
    """Learning rate of DiGraP's projection strengths, as released."""

    max_strength: float = 1.0
    """Largest projection strength of DiGraP."""

    spd_strength: float = 1.0
    """Strength of SPD's and MAPS' pull to the pre-trained weights."""

    pgm_radius: float = 1.0
    """The fixed radius of pgm: the largest row sum of absolute changes (MARS norm) of each layer."""

    l2_sp_strength: float = 1e-2
    """Strength of L2-SP's pull to the pre-trained weights."""

    project_steps: int = 200
    """Batches of validation images on which tpgm_project learns its radii after the training."""

    wise_alpha: float | Literal["auto"] = 0.5
    """Weight of the fine-tuned model in the WiSE-FT rows: 0 is pre-trained, 1 is fine-tuned. auto: for each method the
    smallest of eleven whose validation accuracy is within one standard error of the best."""

    wise_path: bool = False
    """Evaluate the WiSE-FT path of every method (0, 0.25, 0.5, 0.75, 1), for the figure of ID against OOD accuracy."""

    sweep: Annotated[tuple[str, ...], arg(metavar="FLAG=V,V,...", help_behavior_hint="(default: none)")] = ()
    """Values of one knob to try for every method that it concerns, such as radii-lr=0.003,0.01,0.1. Validation images
    choose, on the first seed, before any test image is read."""


@dataclass(frozen=True)
class RunOptions:
    """How long, where and what is kept."""

    seed: int = 0
    """Seed of the order of the images, of augmentation and of what is new in the model."""

    seeds: Annotated[str, arg(metavar="N,N,...", help_behavior_hint="(default: --seed alone; digits 0 to 4)")] = ""
    """Several seeds, separated by commas: a run of each, means, and 95 % intervals of the differences to vanilla."""

    fsdp: bool = False
    """Cut parameters and optimizer state over all devices, in place of a copy on each."""

    validate_every: Annotated[int | None, arg(metavar="STEPS", help_behavior_hint="(default: an epoch; digits 0)")] = (
        None
    )
    """Steps from one look at the validation images to the next; 0 for the end only."""

    select: Literal["last", "best"] = "last"
    """Which weights are reported: the last, or those of the best validation accuracy. Both are kept."""

    patience: int = 0
    """Validations in a row without a better accuracy after which a method stops; 0 never stops."""

    save_every: Annotated[
        int | None, arg(metavar="STEPS", help_behavior_hint="(default: an epoch, at most 200; digits 200)")
    ] = None
    """Steps from one checkpoint to the next."""

    save_minutes: float = 0.0
    """Minutes after which a checkpoint is written too; 0 for none."""

    keep: int = 2
    """Checkpoints of a method that are kept while it trains. Of a finished run the last is."""

    tensorboard: bool = False
    """Write TensorBoard event files besides the CSV."""

    wandb: Annotated[str | None, arg(metavar="PROJECT", help_behavior_hint="(default: none)")] = None
    """Log to this project of Weights & Biases too (package wandb)."""

    smallest: bool = False
    """A run of seconds that passes through everything; its accuracies mean nothing."""

    coordinator: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: one host)")] = None
    """Several hosts: HOST:PORT of the first, the same command on each with its own --host; or auto where Slurm, MPI or
    a TPU pod tells them."""

    hosts: int = 1
    """Number of hosts."""

    host: int = 0
    """Which of them this is, from 0."""

    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/TASK-MODEL-TIME)")] = None
    """Directory for the report, figures, weights and checkpoints. It must not exist."""

    resume: bool = False
    """Go on with the run in --out where it was stopped. Its stored configuration is used."""
