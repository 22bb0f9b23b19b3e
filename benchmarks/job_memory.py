"""What fine-tuning a ViT-B/16 at 224 pixels takes in memory, by method and precision.

    python benchmarks/job_memory.py             # a batch of 32, compiled for this machine
    python benchmarks/job_memory.py --smallest  # a tiny transformer

Parameters and optimizer state are counted by their shapes, and checked against the live buffers after `init`. Gradients
and activations are what XLA says that the compiled step of the main job takes besides: it is compiled, not run, so that
no more memory is needed here than there is.
"""

import dataclasses
import gc
import os
import sys
from pathlib import Path
from typing import Any

# what a program takes has nothing to do with how fast it is: compiled in a tenth of the time
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import jax.numpy as jnp
import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # for the main job's packages

from measure import report, vit
from vision.config import Config
from vision.methods import Method, create_method
from vision.networks import Network, Params, path_of, split_model
from vision.step import make_step

COLUMNS = ("precision", "method", "parameters", "optimizer", "gradients and activations", "in all")
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "computed in bfloat16": {"compute_dtype": "bfloat16"},
    "computed in bfloat16, --remat": {"compute_dtype": "bfloat16", "remat": True},
    "bfloat16": {"dtype": "bfloat16"},
}
CAPTION = "In MB, for a batch of {batch} images of {size} pixels."


@dataclasses.dataclass(frozen=True)
class Options:
    """Counts the memory of fine-tuning a ViT-B/16."""

    methods: tuple[str, ...] = ("vanilla", "ftp", "ftp_lean", "digrap", "tpgm")
    """Methods of the main job."""

    batch_size: int = 32
    """Images in a step."""

    results: Path = report.RESULTS
    """Where job_memory.json and job_memory.md are written."""

    smallest: bool = False
    """A narrow transformer of one block, and two methods."""


def main() -> None:
    """Counts, then tabulates."""
    options = tyro.cli(Options)
    width, depth, heads, size = (48, 1, 3, 32) if options.smallest else (768, 12, 12, 224)
    names = options.methods[:2] if options.smallest else options.methods
    path, rows = options.results / "job_memory.json", []
    with report.progress() as progress:
        task = progress.add_task("", total=len(PRECISIONS) * len(names))
        for precision, flags in PRECISIONS.items():
            config = Config(batch_size=options.batch_size, **flags)
            model = vit.filled(vit.classifier(width, depth, heads, size, 1000), jnp.dtype(config.dtype))
            network, params = split_model(model, compute_dtype=config.compute_dtype, remat=config.remat)
            for name in names:
                progress.update(task, description=f"{precision}, {name}")
                rows.append({"precision": precision} | measured(name, config, network, params, size))
                result = {"environment": report.environment(), "batch_size": options.batch_size, "image_size": size}
                report.write(path, result | {"rows": rows})
                progress.advance(task)
    report.write_page(path, page)
    caption = CAPTION.format(batch=options.batch_size, size=size)
    groups = [[_cells(row) for row in rows if row["precision"] == precision] for precision in PRECISIONS]
    report.print_table("Memory of fine-tuning a ViT-B/16", caption, COLUMNS, groups)


def measured(name: str, config: Config, network: Network, params: Params, size: int) -> dict[str, Any]:
    """The bytes of one method: its state's by shapes and as they live, and what the compiled step takes besides."""
    order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    method = create_method(name, config, num_steps=100, order=order)
    state = jax.eval_shape(method.tx.init, params)
    live = _live(method, params)
    if live != _bytes(state):
        raise SystemExit(f"{name}: live buffers of {live} bytes where the shapes of the state say {_bytes(state)}")
    step: Any = make_step(method.tx, config, held_out=method.held_out)
    rows = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    images = jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8)
    batch = {"image": images, "label": rows}
    index, held = jax.ShapeDtypeStruct((), jnp.uint32), batch if method.held_out else None
    program = step.lower(params, state, network.stats, batch, index, network, held).compile()
    memory: Any = program.memory_analysis()
    return {
        "method": name,
        "parameter_bytes": _bytes(params),
        "state_bytes": _bytes(state),
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def _live(method: Method, params: Params) -> int:
    """The bytes of the buffers that `init` leaves, each once."""
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    state = method.tx.init(params)
    found = {array.unsafe_buffer_pointer(): array.nbytes for array in jax.live_arrays() if id(array) not in before}
    del state
    return sum(found.values())


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def page(result: dict[str, Any]) -> str:
    """What the site shows."""
    table = report.markdown(COLUMNS, [_cells(row) for row in result["rows"]], left=2)
    caption = CAPTION.format(batch=result["batch_size"], size=result["image_size"])
    note = "Gradients and activations are those of the program that XLA makes for this machine; a GPU's differ."
    return f"{table}\n{caption} {note} {report.origin(result['environment'])}"


def _cells(row: dict[str, Any]) -> list[str]:
    parts = [row[f"{name}_bytes"] for name in ("parameter", "state", "temporary")]
    return [row["precision"], row["method"], *(f"{part / 1e6:,.0f}" for part in (*parts, sum(parts)))]


if __name__ == "__main__":
    main()
