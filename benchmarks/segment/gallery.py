"""What the models see: the first seed's predictions on a few test scenes, kept for a figure."""

from pathlib import Path

import numpy as np

# first style, which chooses the backend
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from robust.finetune import Run, Start
from robust.training import predictions
from style import save
from vision.data import ArrayDomain, Domain
from vision.networks import Params

__all__ = ["METHODS", "draw", "record"]

METHODS = ("vanilla", "ftp")
_SCENES = 2  # of each style
_SEED = 0


def record(results: Path, method: str, seed: int, run: Run[Start]) -> None:
    """Adds the predictions of one of `METHODS` to `dense_scenes.npz`; with vanilla's, the foundation model's."""
    if seed != _SEED or method not in METHODS:
        return
    task, path = run.start.task, results / "dense_scenes.npz"
    shown = [task.id_test, task.ood[task.ood_groups["seen"][0]], task.ood[task.ood_groups["held out"][-1]]]
    kept = dict(np.load(path)) if path.exists() else {}
    kept |= {
        "styles": np.array([domain.name for domain in shown]),
        "classes": np.array(task.classes),
        "images": np.stack([_first(domain).images for domain in shown]),
        "truth": np.stack([_first(domain).labels for domain in shown]),
        method: _predicted(run, run.trained.params, shown),
    }
    if method == "vanilla":
        kept["zero_shot"] = _predicted(run, run.start.params, shown)
    results.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **kept)


def draw(source: Path, path: Path) -> None:
    """Scenes, their true masks and what each model makes of them, a row for each."""
    kept = dict(np.load(source))
    rows = {"scene": kept["images"], "truth": kept["truth"]}
    rows |= {name: kept[name] for name in ("zero_shot", *METHODS) if name in kept}
    styles, count = kept["styles"], len(kept["styles"]) * kept["images"].shape[1]
    figure, panels = plt.subplots(
        len(rows), count, figsize=(1.5 * count + 0.8, 1.55 * len(rows) + 0.6), layout="constrained", squeeze=False
    )
    palette = _palette(len(kept["classes"]))
    for line, (name, cells) in zip(panels, rows.items(), strict=True):
        for column, axes in enumerate(line):
            cell = cells[divmod(column, kept["images"].shape[1])]
            axes.imshow(cell if name == "scene" else _coloured(cell, palette), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if name == "scene":
                axes.set_title(styles[column // kept["images"].shape[1]], fontsize=8)
        line[0].set_ylabel(name.replace("_", "-"), fontsize=9)
    named = [k for k in np.unique(kept["truth"][..., 0]) if k]
    marks = [Patch(color=tuple(palette[k]), label=kept["classes"][k - 1]) for k in named]
    figure.legend(handles=marks, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    save(figure, path)


def _first(domain: Domain) -> ArrayDomain:
    assert isinstance(domain, ArrayDomain)
    return ArrayDomain(domain.name, domain.images[:_SCENES], domain.labels[:_SCENES])


def _predicted(run: Run[Start], params: Params, shown: list[Domain]) -> np.ndarray:
    parts = [predictions(run.start.network, params, domain, min(96, len(domain)))[:_SCENES] for domain in shown]
    return np.stack(parts).astype(np.uint8)


def _palette(classes: int) -> np.ndarray:
    """A colour for each class; the background is nearly white."""
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, classes))[:, :3]
    return np.concatenate([[[0.95, 0.95, 0.95]], colours])


def _coloured(cell: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Classes in colour, boundaries in black."""
    return np.where(cell[..., 1:] == 1, 0.0, palette[cell[..., 0]])
