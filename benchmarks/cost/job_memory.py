"""What fine-tuning a ViT-B/16 at 224 pixels takes in memory, by method and precision.

Optimizer states are counted by their shapes, and checked against the live buffers after `init`. What the forward pass
keeps for the backward pass is counted by tracing the main job's loss: the shapes say it for every device, where the
program that XLA makes for a CPU computes in float32 whatever it is told, and undoes `--remat`.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

import writer
from cost import networks
from cost.memory import live_bytes
from cost.part import Part, Row, distinct
from cost.trees import size
from vision.config import Config
from vision.networks import Network, Params, split_model
from vision.step import Targets, cross_entropy

COLUMNS = ("precision", "parameters", "gradients", "kept for the backward pass")
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, --remat": {"remat": True},
    "computed in bfloat16": {"compute_dtype": "bfloat16"},
    "computed in bfloat16, --remat": {"compute_dtype": "bfloat16", "remat": True},
    "bfloat16": {"dtype": "bfloat16"},
}


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Counts the memory of fine-tuning a ViT-B/16; smallest is a narrow transformer of one block, and two methods."""

    methods: tuple[str, ...] = ("vanilla", "ftp", "ftp_lean", "digrap", "tpgm")  # Methods of the main job.
    batch_size: int = 32  # Images in a step.

    name = "job_memory"
    at_smallest: ClassVar = {"methods": ("vanilla", "ftp")}

    def plan(self) -> Iterable[tuple[str, ...]]:
        return ((precision,) for precision in PRECISIONS)

    def measure(self, precision: str) -> list[Row]:
        config = Config(batch_size=self.batch_size, **PRECISIONS[precision])
        name, image_size = ("vit-tiny", 32) if self.smallest else ("vit-base", 224)
        model = networks.network(name, image_size, 1000, dtype=jnp.dtype(config.dtype))
        network, params = split_model(model, compute_dtype=config.compute_dtype, remat=config.remat)
        kept = kept_bytes(config, network, params, image_size)
        shared = {"precision": precision, "parameter_bytes": size(params), "kept_bytes": kept}
        return [
            {**shared, "method": method, "state_bytes": state_bytes(method, config, params)}
            for method in self.methods
            if (config.dtype, method) != ("bfloat16", "ftp_lean")  # refused by ftp
        ]

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "image_size": 32 if self.smallest else 224}

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """A row a precision, and a column for each method's state."""
        methods, cells = distinct(result["rows"], "method"), []
        for precision in distinct(result["rows"], "precision"):
            own = {row["method"]: row for row in result["rows"] if row["precision"] == precision}
            first = next(iter(own.values()))
            shared = first["parameter_bytes"], first["parameter_bytes"], first["kept_bytes"]
            states = [own[name]["state_bytes"] if name in own else None for name in methods]
            cells.append([precision, *("-" if size is None else f"{size / 1e6:,.0f}" for size in (*shared, *states))])
        columns = (*COLUMNS, *(f"state, {name}" for name in methods))
        caption = f"In MB, for a batch of {result['batch_size']} images of {result['image_size']} pixels."
        return f"{writer.markdown(columns, cells)}\n{caption} {writer.origin(result['environment'])}"


def state_bytes(name: str, config: Config, params: Params) -> int:
    """The bytes of a method's state: of its shapes, and of the buffers that `init` leaves."""
    tx, before = networks.method(name, config, params).tx, live_bytes()
    state = tx.init(params)
    if (live := live_bytes() - before) != size(state):
        raise SystemExit(f"{name}: live buffers of {live} bytes where the shapes of the state say {size(state)}")
    return size(state)


def kept_bytes(config: Config, network: Network, params: Params, image_size: int) -> int:
    """The bytes of what the forward pass leaves for the backward pass, without the parameters themselves."""
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, image_size, image_size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }

    def residuals(params: Params, network: Network, batch: Any) -> Any:
        loss = lambda p: cross_entropy(network, Targets.of(config))(p, network.stats, batch, jax.random.key(0))[0]
        return jax.vjp(loss, params)[1]

    kept = size(jax.eval_shape(residuals, params, network, batch))
    # those that are used as they are are among them; of cast ones it is the copies
    return kept if config.compute_dtype else kept - size(params)
