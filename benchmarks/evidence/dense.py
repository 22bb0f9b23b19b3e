"""Dense prediction: the class and the boundary of every pixel of emoji scenes, by method; an hour of one core.

Scenes are a few emoji on a crop of a photograph, with masks from the artwork's opacity. The foundation model is that of
the classification benchmark and a small decoder, trained on scenes in six colour styles, once for each seed, and
cached; both are fine-tuned on scenes in one style and tested in all. Each run is a row of benchmarks/results/dense.csv
and is not repeated; trials are in dense_trials.csv. --smallest: a few scenes of digits, a tiny network, one setting.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.patches import Patch

import style
from evidence import summary, tables
from evidence.artwork import WORLDS
from evidence.command import Evidence, stage
from evidence.corruptions import corrupted_domain
from evidence.emoji_task import emoji_task
from evidence.figures import frontiers
from evidence.foundation import cached, foundation
from evidence.methods import METHODS
from evidence.protocol import Study
from evidence.rows import KEY, File, Row
from evidence.scene_nets import EfficientNetStages, SceneNet, SmallStages
from evidence.scenes import boundary_f, description, mean_iou, pretraining_scenes, scene_task
from evidence.tasks import Run, Start, Task
from evidence.training import OnStep, in_batches, predictions
from style import plt
from vision.cache import digest
from vision.data import ArrayDomain, Domain
from vision.networks import Network, Params, path_of, split_model

SCORES = {
    "ID": "id_miou",
    "OOD seen": "ood_seen_miou",
    "OOD held out": "ood_held_miou",
    "ID corrupted": "corrupted_miou",
}
BOUNDARIES = {heading: name.replace("miou", "boundary_f") for heading, name in SCORES.items()}
COLUMNS = (*KEY, "validation_miou", *SCORES.values(), *BOUNDARIES.values(), "drift", "seconds", "domains")
"""`domains`: mean IoU in each OOD style and under each corruption."""

BACKBONES = {"emoji": "efficientnet-lite0", "digits": "small-scene-net"}
FOUNDATION_STEPS = {"emoji": 1500, "digits": 48}  # of the decoder alone
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "snow", "contrast", "jpeg")
"""One or more of each of ImageNet-C's four groups, of those that leave every pixel where it is."""

SEVERITY = 3
_VERSION = 3  # to be raised when a change of the code makes old cache entries stale

_corrupted = cache(corrupted_domain)  # all methods of a seed are scored on the same images


@dataclass(frozen=True)
class Options(Evidence):
    """Compares methods of robust fine-tuning on segmentation; appends to the results what they lack, and reports."""

    # Which methods; zero-shot and WiSE-FT's curve come with vanilla, one interpolation with every other.
    methods: tuple[str, ...] = ("vanilla", "ftp", "digrap", "ftp+digrap", "l2_sp", "spd", "mars_pgm", "ftp_exact")

    def study(self) -> Study:
        """The protocol."""
        return Study(
            task=scenes_task("digits" if self.smallest else "emoji"),
            results=File(self.results / "dense.csv", COLUMNS),
            tried=1 if self.smallest else 3,
            methods={name: method for name, method in METHODS.items() if not method.probe_first},
            alphas=(0.3, 0.5, 0.7, 0.9),
            few_alphas=(0.7,),
        )

    def fill(self) -> None:
        self.study().run_missing(self.methods, self.range(), stage, partial(_record, self.results))

    def tell(self) -> None:
        found = File(self.results / "dense.csv", COLUMNS).read()
        self.write("dense", page(found))
        titles = "styles of the foundation model", "styles held out", "corrupted"
        columns = zip(list(SCORES.values())[1:], titles, strict=True)
        ups = {column: f"mean IoU, {title} (%)" for column, title in columns}
        figure = frontiers(found, (SCORES["ID"], "mean IoU, style fine-tuned on (%)"), ups, (9.5, 5))
        style.save(figure, self.results / "dense.png")
        if (self.results / _SCENES_FILE).exists():
            _draw_scenes(self.results / _SCENES_FILE, self.results / "dense_scenes.png")


@dataclass(frozen=True, kw_only=True)
class Scenes(Task):
    """Segmentation of the scenes of one world."""

    epochs: int = 3
    batch_size: int = 8

    validation: ClassVar[str] = "validation_miou"

    def start(self, seed: int, on_step: OnStep | None = None) -> Start:
        return _start(self.experiment, seed, on_step)

    def score(self, start: Start, params: Params, domain: Domain) -> float:
        """Mean IoU of the classes."""
        return self._both(start, params, domain)[0]

    def columns(self, start: Start, params: Params) -> Row:
        data = start.data
        assert isinstance(data.id_test, ArrayDomain)
        groups: dict[str, list[Domain]] = {
            "id": [data.id_test],
            "ood_seen": [data.ood[name] for name in data.ood_groups["seen"]],
            "ood_held": [data.ood[name] for name in data.ood_groups["held out"]],
            "corrupted": [_corrupted(data.id_test, kind, SEVERITY) for kind in CORRUPTIONS],
        }
        found = {name: [self._both(start, params, domain) for domain in group] for name, group in groups.items()}
        mean = lambda name, which: statistics.fmean(scores[which] for scores in found[name])
        return {
            "validation_miou": self.score(start, params, data.validation),
            **{f"{name}_miou": mean(name, 0) for name in groups},
            **{f"{name}_boundary_f": mean(name, 1) for name in groups},
            "domains": {d.name: s[0] for name in groups for d, s in zip(groups[name], found[name], strict=True)},
        }

    def _both(self, start: Start, params: Params, domain: Domain) -> tuple[float, float]:
        """Mean IoU of the classes, and F-score of the boundaries."""
        found, truth = _predicted(start, params, domain), domain.labels
        return mean_iou(found[..., 0], truth[..., 0]), boundary_f(found[..., 1], truth[..., 1])


def scenes_task(world: str) -> Scenes:
    """The task of a key of `WORLDS`."""
    return Scenes(experiment=world, backbone=BACKBONES[world], id_domain=WORLDS[world].id_style)


@cache
def _start(name: str, seed: int, on_step: OnStep | None) -> Start:
    """The backbone knows the classes already; the decoder learns to say where they are."""
    world = WORLDS[name]
    if name == "emoji":
        classifier, known = foundation(emoji_task(seed), seed, on_step)
        backbone = EfficientNetStages(classifier.model(known))
    else:
        backbone = SmallStages(seed)
    network, params = split_model(SceneNet(backbone, len(world.classes) + 1, seed))
    steps = FOUNDATION_STEPS[name]
    shapes = {path_of(path): np.array(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    key = f"scenes-foundation-{digest(shapes, json.dumps([_VERSION, description(world), seed, steps]))[:32]}"
    make = lambda: trained_decoder(network, params, pretraining_scenes(world, seed), steps, seed, on_step)
    return Start(scene_task(world, seed), network, cached(key, params, make))


def trained_decoder(
    network: Network, params: Params, scenes: ArrayDomain, steps: int, seed: int, on_step: OnStep | None = None
) -> Params:
    """Trains the decoder, `head`, by AdamW with warm-up and cosine decay, on what the backbone sees.

    Trained as a whole on the few scenes there are, the network found the objects but not their classes. The decoder
    asks for larger steps than the backbone would survive; what that sees does not change, and is computed once.
    """
    see = jax.jit(lambda images: network.model(params).backbone.stages(images))
    seen, side = in_batches(see, scenes.images, 96), scenes.images.shape[1]
    rate = optax.warmup_cosine_decay_schedule(0.0, 5e-3, max(1, steps // 10), max(2, steps))
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.0))

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(head: Params, state: Any, features: list[jax.Array], labels: jax.Array) -> tuple[Params, Any, jax.Array]:
        def loss(head: Params) -> jax.Array:
            logits = network.model({**params, "head": head}).head(features, side)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(loss)(head)
        updates, state = tx.update(grads, state, head)
        return optax.apply_updates(head, updates), state, value

    head = jax.tree.map(jnp.copy, params["head"])
    state, order = tx.init(head), np.random.default_rng(seed)
    for done in range(1, steps + 1):
        drawn = order.choice(len(scenes), min(24, len(scenes)), replace=False)
        head, state, value = update(head, state, [level[drawn] for level in seen], scenes.labels[drawn])
        if on_step is not None:
            on_step(done, steps, float(value))
    return {**params, "head": head}


def _predicted(start: Start, params: Params, domain: Domain) -> np.ndarray:
    return predictions(start.network, params, domain, batch_size=min(96, len(domain)))


def page(found: Sequence[Row]) -> str:
    """Classes and boundaries."""
    lines = summary.lines(found)
    parts = [
        "## Classes\n",
        tables.scores(lines, SCORES),
        tables.curve(found, SCORES),
        tables.differences(lines, SCORES),
        "## Boundaries\n",
        tables.scores(lines, BOUNDARIES),
        tables.differences(lines, BOUNDARIES),
    ]
    return "\n".join(part for part in parts if part)


# the first seed's predictions on a few test scenes, kept for a figure

SHOWN = ("vanilla", "ftp")
_SCENES = 2  # of each style
_SCENES_FILE = "dense_scenes.npz"


def _record(results: Path, method: str, seed: int, run: Run) -> None:
    """Adds the predictions of one of `SHOWN` at seed 0; with vanilla's, the foundation model's."""
    if seed or method not in SHOWN:
        return
    data, path = run.start.data, results / _SCENES_FILE
    shown: Any = [data.id_test, data.ood[data.ood_groups["seen"][0]], data.ood[data.ood_groups["held out"][-1]]]
    stacked = lambda arrays: np.stack([array[:_SCENES] for array in arrays])
    predicted = lambda params: stacked(_predicted(run.start, params, one) for one in shown).astype(np.uint8)
    kept = dict(np.load(path)) if path.exists() else {}
    kept |= {
        "styles": np.array([domain.name for domain in shown]),
        "classes": np.array(data.classes),
        "images": stacked(domain.images for domain in shown),
        "truth": stacked(domain.labels for domain in shown),
        method: predicted(run.trained.params),
    }
    if method == "vanilla":
        kept["zero_shot"] = predicted(run.start.params)
    np.savez_compressed(path, **kept)


def _draw_scenes(source: Path, path: Path) -> None:
    """Scenes, their true masks and what each model makes of them, a row for each; boundaries in black."""
    kept = dict(np.load(source))
    rows = {"scene": kept["images"], "truth": kept["truth"]}
    rows |= {name: kept[name] for name in ("zero_shot", *SHOWN) if name in kept}
    titles = np.repeat(kept["styles"], kept["images"].shape[1])
    size = (1.5 * len(titles) + 0.8, 1.55 * len(rows) + 0.6)
    bare = {"xticks": (), "yticks": (), "frame_on": False}
    figure, panels = plt.subplots(len(rows), len(titles), figsize=size, layout="constrained", subplot_kw=bare)
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, len(kept["classes"])))[:, :3]
    palette = np.concatenate([[[0.95, 0.95, 0.95]], colours])  # the background is nearly white
    coloured = lambda cell: np.where(cell[..., 1:] == 1, 0.0, palette[cell[..., 0]])
    for line, (name, cells) in zip(panels, rows.items(), strict=True):
        for axes, cell, title in zip(line, np.concatenate(cells), titles, strict=True):
            axes.imshow(cell if name == "scene" else coloured(cell), interpolation="nearest")
            axes.set_title(title if name == "scene" else "", fontsize=8)
        line[0].set_ylabel(name.replace("_", "-"), fontsize=9)
    named = [k for k in np.unique(kept["truth"][..., 0]) if k]
    marks = [Patch(color=tuple(palette[k]), label=kept["classes"][k - 1]) for k in named]
    figure.legend(handles=marks, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    style.save(figure, path)
