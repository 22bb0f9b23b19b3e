"""What the radii did in training, and which layers ended at the wall: kept for one seed of every method with radii."""

import json
from pathlib import Path

import jax
import numpy as np

from ftp_optax import drift, radii, strengths
from robust.experiments import Experiment, main_backbone
from robust.finetune import Run, Start
from vision.networks import Params, depth_order, path_of

__all__ = ["record"]

_WALL = 0.999  # of the radius: projection puts a unit on the wall up to rounding


def record(results: Path, experiment: Experiment, method: str, seed: int, run: Run[Start]) -> None:
    """Writes `robustness_walls/EXPERIMENT-ID-METHOD.json` for the first seed of a method that learns scalars.

    Of the experiment's main network only.
    """
    if seed or experiment.backbone != main_backbone(experiment.name) or not run.trained.scalars:
        return
    params, state = run.trained.params, run.trained.opt_state
    read = radii if "radii" in run.trained.scalars else strengths
    final = read(state, params)
    name, trajectory = next(iter(run.trained.scalars.items()))
    columns = dict(zip(final, trajectory.T, strict=True))
    far = {path: np.ravel(value).max() for path, value in drift(state, params).items()}
    at_wall = _share_at_wall(params, run.start.params, final) if name == "radii" else {}
    order = [path for path in depth_order(experiment.backbone) if path in final]
    layers = [
        {
            "path": path,
            "final": float(np.ravel(final[path]).max()),
            "drift": float(far[path]),
            "units_at_wall": at_wall.get(path),
            "trajectory": [float(f"{value:.4g}") for value in columns[path]],
        }
        for path in order
    ]
    folder = results / "robustness_walls"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{experiment.name}-{experiment.id_domain}-{method}.json"
    path.write_text(json.dumps({"scalars": name, "seed": seed, "layers": layers}, indent=1) + "\n")


def _share_at_wall(params: Params, anchor: Params, final: dict[str, jax.Array | float]) -> dict[str, float]:
    """The share of each layer's units whose distance from the anchor is the radius."""
    from ftp_optax import flax_units

    gaps = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), params, anchor)
    shares = {}
    for key_path, gap in jax.tree_util.tree_leaves_with_path(gaps):
        path = path_of(key_path)
        kept = flax_units(path, gap.shape)
        norms = np.abs(gap).sum(tuple(axis for axis in range(gap.ndim) if axis not in kept))
        shares[path] = float((norms >= _WALL * float(np.ravel(final[path]).max())).mean())
    return shares
