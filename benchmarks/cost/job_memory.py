"""What fine-tuning a ViT-B/16 at 224 pixels takes in memory, by method and precision.

Optimizer states are counted by their shapes, and checked against the live buffers after `init`. What the forward pass
keeps for the backward pass is counted by tracing the main job's loss: the shapes say it for every device, where the
program that XLA makes for a CPU computes in float32 whatever it is told, and undoes `--remat`.
"""

import dataclasses
import gc
from typing import Any

import jax
import jax.numpy as jnp

import writer
from cost import networks
from vision.config import Config
from vision.methods import Method, create_method
from vision.networks import Network, Params, path_of, split_model
from vision.step import Targets, cross_entropy

COLUMNS = ("precision", "parameters", "gradients", "kept for the backward pass")
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, --remat": {"remat": True},
    "computed in bfloat16": {"compute_dtype": "bfloat16"},
    "computed in bfloat16, --remat": {"compute_dtype": "bfloat16", "remat": True},
    "bfloat16": {"dtype": "bfloat16"},
}
CAPTION = "In MB, for a batch of {batch} images of {size} pixels."


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Counts the memory of fine-tuning a ViT-B/16; smallest is a narrow transformer of one block, and two methods."""

    methods: tuple[str, ...] = ("vanilla", "ftp", "ftp_lean", "digrap", "tpgm")  # Methods of the main job.
    batch_size: int = 32  # Images in a step.

    def run(self) -> None:
        """Counts, then tabulates."""
        path = self.results / "job_memory.json"
        if not self.report:
            width, depth, heads, size = (48, 1, 3, 32) if self.smallest else (768, 12, 12, 224)
            rows: list[dict[str, Any]] = []
            for precision, flags in PRECISIONS.items():
                config = Config(batch_size=self.batch_size, **flags)
                model = networks.classifier(width, depth, heads, size, 1000, dtype=jnp.dtype(config.dtype))
                network, params = split_model(model, compute_dtype=config.compute_dtype, remat=config.remat)
                for name in self.methods[:2] if self.smallest else self.methods:
                    if (config.dtype, name) != ("bfloat16", "ftp_lean"):  # refused by ftp
                        rows.append({"precision": precision} | measured(name, config, network, params, size))
            facts = {"environment": writer.environment(), "batch_size": self.batch_size, "image_size": size}
            writer.write(path, facts | {"rows": rows})
        writer.write_page(path, page)


def measured(name: str, config: Config, network: Network, params: Params, size: int) -> dict[str, Any]:
    """The bytes of one method: its state's by shapes and as they live, and what is kept for the backward pass."""
    order = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    method = create_method(name, config, num_steps=100, order=order)
    state = jax.eval_shape(method.tx.init, params)
    live = _live(method, params)
    if live != _bytes(state):
        raise SystemExit(f"{name}: live buffers of {live} bytes where the shapes of the state say {_bytes(state)}")
    return {"method": name, "parameter_bytes": _bytes(params), "state_bytes": _bytes(state)} | {
        "kept_bytes": _kept(config, network, params, size)
    }


def _kept(config: Config, network: Network, params: Params, size: int) -> int:
    """The bytes of what the forward pass leaves for the backward pass, without the parameters themselves."""
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }

    def residuals(params: Params, network: Network, batch: Any) -> Any:
        loss = lambda p: cross_entropy(network, Targets.of(config))(p, network.stats, batch, jax.random.key(0))[0]
        return jax.vjp(loss, params)[1]

    kept = _bytes(jax.eval_shape(residuals, params, network, batch))
    # those that are used as they are are among them; of cast ones it is the copies
    return kept if config.compute_dtype else kept - _bytes(params)


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
    """A row a precision."""
    columns, rows = _table(result["rows"])
    caption = CAPTION.format(batch=result["batch_size"], size=result["image_size"])
    return f"{writer.markdown(columns, rows)}\n{caption} {writer.origin(result['environment'])}"


def _table(rows: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """A row a precision, and a column for each method's state."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = {row["method"]: row for row in rows if row["precision"] == precision}
        first = next(iter(own.values()))
        shared = first["parameter_bytes"], first["parameter_bytes"], first["kept_bytes"]
        states = [own[name]["state_bytes"] if name in own else None for name in methods]
        cells.append([precision, *("-" if size is None else f"{size / 1e6:,.0f}" for size in (*shared, *states))])
    return (*COLUMNS, *(f"state, {name}" for name in methods)), cells
