"""Bytes of optimizer state a parameter, of each method and option: by shapes alone, and of the live buffers.

    python benchmarks/memory.py                 # on two of ViT-B/16's twelve blocks
    python benchmarks/memory.py --tree vit-b16  # on all of them; it says the same
    python benchmarks/memory.py --smallest      # on a tiny one

Live buffers are counted after `init` and after one jitted, donated step, each buffer once: an anchor that shared its
buffer with the parameters would show, as would one that a step duplicates. What exceeds a whole number is the learned
scalars, one a layer.
"""

import dataclasses
import gc
import os
from pathlib import Path
from typing import Any

# what is alive after a step has nothing to do with how fast it is: compiled in a tenth of the time
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

import jax
import jax.numpy as jnp
import optax
import tyro
from matplotlib import pyplot as plt

from measure import methods, report, step, style, trees
from measure.methods import BASES, BaseName
from measure.trees import TreeName

CAPTION = "Shapes: jax.eval_shape. Init, step: live buffers after init and after one donated step, without parameters."
OPTIONS: tuple[tuple[str, str, Any, Any], ...] = (  # name, method, the parameters' and the anchor's dtype
    *((name, name, jnp.float32, None) for name in (methods.BASE, *methods.METHODS)),
    ("ftp, bf16 anchor", "ftp", jnp.float32, jnp.bfloat16),
    ("digrap, bf16 anchor", "digrap", jnp.float32, jnp.bfloat16),
    ("base, bf16 parameters", methods.BASE, jnp.bfloat16, None),
    ("ftp, bf16 parameters", "ftp", jnp.bfloat16, None),
    ("digrap, bf16 parameters", "digrap", jnp.bfloat16, None),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Counts the bytes of optimizer state a parameter."""

    tree: TreeName | None = None
    """Model that gives the parameters' shapes; by default ViT-B/16 with two blocks, which are enough to count on."""

    bases: tuple[BaseName, ...] = BASES
    """Base optimizers."""

    memory_gb: float | None = None
    """Allocate no more than this, count the rest by shapes alone; by default 0.6 of the device's."""

    results: Path = report.RESULTS
    """Where memory.json and memory.png are written."""

    smallest: bool = False
    """A narrow model of one block."""

    def shapes(self, dtype: Any = jnp.float32) -> Any:
        """The parameters' shapes."""
        if self.tree is None and not self.smallest:
            return trees.vit(width=768, depth=2, dtype=dtype)
        return trees.tree(self.tree or "vit-b16", smallest=self.smallest, dtype=dtype)


def main() -> None:
    """Counts, then tabulates and draws."""
    options = tyro.cli(Options)
    limit = step.memory_limit(options.memory_gb)
    rows: list[dict[str, Any]] = []
    with report.progress() as progress:
        task = progress.add_task("", total=len(options.bases) * len(OPTIONS))
        for base_name in options.bases:
            for name, method, dtype, anchor_dtype in OPTIONS:
                progress.update(task, description=f"{base_name} {name}")
                shapes = options.shapes(dtype)
                tx = methods.method(method, methods.base(base_name), anchor_dtype)
                row = {"base": base_name, "option": name, "method": method, "parameters_dtype": jnp.dtype(dtype).name}
                rows.append({**row, **_bytes_per_parameter(tx, shapes, limit)})
                progress.advance(task)
    tree = options.tree or "vit-b16, two blocks"
    facts = {"tree": tree, "parameters": trees.count(options.shapes())}
    path = options.results / "memory.json"
    report.write(path, {"environment": report.environment(), **facts, "rows": rows})
    report.write_page(path, page)
    _print(rows, facts)
    _draw(rows, options.results / "memory.png", facts)


def _bytes_per_parameter(tx: optax.GradientTransformation, shapes: Any, limit: float) -> dict[str, float | None]:
    """The state's bytes a parameter: by shapes, and live after `init` and after a step, None where too large."""
    count, program = trees.count(shapes), step.compiled(tx, shapes)
    found: dict[str, float | None] = {"shapes": trees.size(jax.eval_shape(tx.init, shapes)) / count}
    if step.needed(program) > limit:
        return {**found, "live_after_init": None, "live_after_step": None}
    before = live_bytes()
    grads = step.arrays(shapes, scale=0.01)
    params = step.arrays(shapes, scale=0.1)
    state = tx.init(params)
    others = 2 * trees.size(shapes)  # parameters and gradients
    found["live_after_init"] = (live_bytes() - before - others) / count
    params, state = program.run(params, state, grads)
    found["live_after_step"] = (live_bytes() - before - others) / count
    return found


def live_bytes() -> int:
    """The bytes of all live buffers on all devices, those that several arrays share counted once."""
    gc.collect()
    shards = [shard.data for array in jax.live_arrays() for shard in array.addressable_shards]
    return sum({(s.device.id, s.unsafe_buffer_pointer()): s.nbytes for s in shards if s is not None}.values())


def page(result: dict[str, Any]) -> str:
    """What the site shows: the bytes by shapes, a column for each base optimizer."""
    found = {(row["option"], row["base"]): f"{row['shapes']:.1f}" for row in result["rows"]}
    bases = list(dict.fromkeys(row["base"] for row in result["rows"]))
    options = dict.fromkeys(row["option"] for row in result["rows"])
    return report.markdown(("", *bases), [[option, *(found[option, base] for base in bases)] for option in options])


def _print(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    title = f"Bytes of state a parameter, {facts['tree']}, {facts['parameters'] / 1e6:.1f} M parameters"
    columns, groups = ("state", "shapes", "init", "step"), {}
    for row in rows:
        found = (row[key] for key in ("shapes", "live_after_init", "live_after_step"))
        label = f"  {row['option']}"
        cells = [
            row["base"] if row["option"] == methods.BASE else label,
            *("-" if b is None else f"{b:.3f}" for b in found),
        ]
        groups.setdefault(row["base"], []).append(cells)
    report.print_table(title, CAPTION, columns, list(groups.values()))


def _draw(rows: list[dict[str, Any]], path: Path, facts: dict[str, Any]) -> None:
    """One bar for each option: the base's own state for parameters of that dtype, and what the method adds."""
    bases = list(dict.fromkeys(row["base"] for row in rows))
    names = [option[0] for option in OPTIONS][::-1]
    size = (3.4 + 2.2 * len(bases), 4.6)
    figure, panels = plt.subplots(1, len(bases), figsize=size, sharey=True, sharex=True, squeeze=False)
    for panel, base in zip(panels[0], bases, strict=True):
        mine = [row for row in rows if row["base"] == base]
        own = {row["parameters_dtype"]: row["shapes"] for row in mine if row["method"] == methods.BASE}
        for row in mine:
            place, total, start = names.index(row["option"]), row["shapes"], own[row["parameters_dtype"]]
            panel.barh(place, start, color="#bbbbbb")
            panel.barh(place, total - start, left=start, color="#0072B2")
            panel.text(total + 0.3, place, f"{total:.1f}", va="center", fontsize=8)
        style.clean(panel, grid="x")
        panel.set_title(base, fontsize=10)
        panel.set_yticks(range(len(names)), names)
    panels[0][0].set_xlim(0, 1.15 * max(row["shapes"] for row in rows))
    panels[0][len(bases) // 2].set_xlabel("bytes of state a parameter")
    figure.suptitle(f"{facts['tree']}: grey the base optimizer's state, blue what the method adds", fontsize=10)
    figure.set_layout_engine("constrained")
    style.save(figure, path)


if __name__ == "__main__":
    main()
