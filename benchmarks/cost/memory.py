"""Bytes of optimizer state a parameter, of each method and option: by shapes alone, and of the live buffers.

Live buffers are counted after `init` and after one jitted, donated step, each buffer once: an anchor that shared its
buffer with the parameters would show, as would one that a step duplicates. What exceeds a whole number is the learned
scalars, one a layer.
"""

import dataclasses
import gc
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import writer
from cost import compiled, methods, trees
from cost.methods import BASES, BaseName
from cost.part import Part, Row

OPTIONS: tuple[tuple[str, str, Any, Any], ...] = (  # name, method, the parameters' and the anchor's dtype
    *((name, name, jnp.float32, None) for name in (methods.BASE, *methods.METHODS)),
    ("ftp, bf16 anchor", "ftp", jnp.float32, jnp.bfloat16),
    ("digrap, bf16 anchor", "digrap", jnp.float32, jnp.bfloat16),
    ("base, bf16 parameters", methods.BASE, jnp.bfloat16, None),
    ("ftp, bf16 parameters", "ftp", jnp.bfloat16, None),
    ("digrap, bf16 parameters", "digrap", jnp.bfloat16, None),
)


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Counts the bytes of optimizer state a parameter."""

    bases: tuple[BaseName, ...] = tuple(BASES)  # Base optimizers.

    name = "memory"

    def prepare(self) -> None:
        # what is alive after a step has nothing to do with how fast it is: compiled in a tenth of the time
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

    def plan(self) -> Iterable[tuple[str, ...]]:
        return ((base,) for base in self.bases)

    def measure(self, base: BaseName) -> list[Row]:
        rows = []
        for option, method, dtype, anchor_dtype in OPTIONS:
            tx = methods.method(method, base, anchor_dtype)
            row = {"base": base, "option": option, "method": method, "parameters_dtype": jnp.dtype(dtype).name}
            rows.append(row | _bytes_per_parameter(tx, self.shapes(dtype)))
        return rows

    def facts(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {"tree": "vit-b16, two blocks", "parameters": trees.count(self.shapes())}

    def shapes(self, dtype: Any = jnp.float32) -> Any:
        """The parameters' shapes: of ViT-B/16 two blocks, which are enough to count on."""
        return trees.cast(trees.vit(*((192, 1, 3) if self.smallest else (768, 2, 12))), dtype)

    @classmethod
    def page(cls, result: dict[str, Any]) -> str:
        """The bytes by shapes, a column for each base optimizer."""
        found = {(row["option"], row["base"]): f"{row['shapes']:.1f}" for row in result["rows"]}
        options, bases = (list(dict.fromkeys(key)) for key in zip(*found, strict=True))
        return writer.markdown(("", *bases), [[option, *(found[option, base] for base in bases)] for option in options])


def _bytes_per_parameter(tx: optax.GradientTransformationExtraArgs, shapes: Any) -> dict[str, float]:
    """The state's bytes a parameter: by shapes, and live after `init` and after a step."""
    count, step = trees.count(shapes), compiled.compiled(tx, shapes)
    found, before = {"shapes": trees.size(step.state) / count}, live_bytes()
    grads, params = compiled.arrays(shapes, scale=0.01), compiled.arrays(shapes, scale=0.1)
    state = tx.init(params)
    others = 2 * trees.size(shapes)  # parameters and gradients
    found["live_after_init"] = (live_bytes() - before - others) / count
    params, state = step.program(params, state, grads)
    found["live_after_step"] = (live_bytes() - before - others) / count
    return found


def live_bytes() -> int:
    """The bytes of all live buffers on all devices, those that several arrays share counted once."""
    gc.collect()
    shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
    return sum({(s.device.id, s.unsafe_buffer_pointer()): s.nbytes for s in shards if s is not None}.values())
