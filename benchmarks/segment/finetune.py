"""One run: a foundation model for scenes, one method, and how good it is everywhere afterwards."""

import json
import statistics
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust.corruptions import corrupted
from robust.finetune import Run, Start
from robust.foundation import foundation
from robust.methods import RATE, Method
from robust.splits import emoji_task
from robust.training import Knobs, OnStep, Recipe, predictions, train
from segment.foundation import trained_decoder
from segment.networks import SmallSceneNet, pretrained_scene_net
from segment.scores import boundary_f, mean_iou
from segment.worlds import WORLDS, pretraining_scenes, scene_task
from vision.cache import digest, load_arrays, store_arrays
from vision.data import ArrayDomain, Domain, steps_in
from vision.networks import Params, path_of, split_model

__all__ = ["BACKBONES", "CORRUPTIONS", "SEVERITY", "fine_tuned", "measured", "start"]

BACKBONES = {"emoji": "efficientnet-lite0", "digits": "small-scene-net"}
BATCH_SIZE = 8
FOUNDATION_STEPS = {"emoji": 1500, "digits": 48}  # of the decoder alone
EPOCHS = 3

CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast", "jpeg")
"""One or more of each of ImageNet-C's four groups, of those that leave every pixel where it is."""

SEVERITY = 3

_VERSION = 3  # to be raised when a change of the code makes old cache entries stale


@cache
def start(name: str, seed: int, on_step: OnStep | None = None) -> Start:
    """The scenes and the foundation model of one seed; trained once, then kept in the cache.

    Raises:
        UserError: Emoji cannot be fetched or drawn, or the ImageNet weights are not there.
    """
    world = WORLDS[name]
    make = pretrained_scene_net if name == "emoji" else SmallSceneNet
    network, params = split_model(make(world.num_classes, seed))
    if name == "emoji":
        _, classifier = foundation(emoji_task(seed), seed, on_step)
        params["backbone"] = {part: classifier[part] for part in params["backbone"]}
    config = [_VERSION, world.description(), seed, FOUNDATION_STEPS[name]]
    shapes = {path_of(path): np.array(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    key = f"scenes-foundation-{digest(shapes, json.dumps(config))[:32]}"
    weights = load_arrays(key)
    if weights is None:
        steps = FOUNDATION_STEPS[name]
        params = trained_decoder(network, params, pretraining_scenes(world, seed), steps, seed, on_step)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        store_arrays(key, {path_of(path): np.asarray(leaf) for path, leaf in leaves})
    else:
        params = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(weights[path_of(path)]), params)
    return Start(scene_task(world, seed), network, params)


def fine_tuned(
    origin: Start, method: Method, knobs: Mapping[str, float], seed: int, on_step: OnStep | None = None
) -> Run[Start]:
    """Fine-tunes with one method at one setting, as the classification benchmark does.

    Args:
        origin: The foundation model and its scenes.
        method: One of `robust.methods.METHODS`.
        knobs: The learning rate, and the method's own knob if that is another.
        seed: Of the order of the scenes.
        on_step: Progress.
    """
    task = origin.task
    trained = train(
        origin.network,
        origin.params,
        Recipe(method.build, steps_in(len(task.train), BATCH_SIZE, EPOCHS)),
        Knobs(knobs[RATE], knobs.get(method.knob, 0.0)),
        task.train,
        batch_size=BATCH_SIZE,
        seed=seed,
        augment=False,  # every scene is a random arrangement already
        held_out=task.validation if method.held_out else None,
        on_step=on_step,
    )
    return Run(origin, trained, _scored(origin, trained.params, task.validation)[0])


def measured(origin: Start, params: Params) -> dict[str, Any]:
    """Scores of some weights everywhere, as columns of a row."""
    task = origin.task
    groups: dict[str, list[Domain]] = {
        "id": [task.id_test],
        "ood_seen": [task.ood[name] for name in task.ood_groups["seen"]],
        "ood_held": [task.ood[name] for name in task.ood_groups["held out"]],
        "corrupted": [_corrupted(task.id_test, kind) for kind in CORRUPTIONS],
    }
    found = {name: [_scored(origin, params, domain) for domain in group] for name, group in groups.items()}
    domains = {d.name: s[0] for name, group in groups.items() for d, s in zip(group, found[name], strict=True)}
    mean = lambda name, which: statistics.fmean(scores[which] for scores in found[name])
    return {
        "validation_miou": _scored(origin, params, task.validation)[0],
        **{f"{name}_miou": mean(name, 0) for name in groups},
        **{f"{name}_boundary_f": mean(name, 1) for name in groups},
        "domains": domains,
    }


def _scored(origin: Start, params: Params, domain: Domain) -> tuple[float, float]:
    """Mean IoU of the classes, and F-score of the boundaries."""
    predicted = predictions(origin.network, params, domain, batch_size=min(96, len(domain)))
    classes = len(origin.task.classes) + 1
    return (
        mean_iou(predicted[..., 0], domain.labels[..., 0], classes),
        boundary_f(predicted[..., 1], domain.labels[..., 1]),
    )


@cache
def _corrupted(domain: ArrayDomain, kind: str) -> ArrayDomain:
    return ArrayDomain(f"{domain.name}, {kind}", corrupted(domain.images, kind, SEVERITY), domain.labels)
