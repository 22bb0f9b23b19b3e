"""Checkpoints with Orbax: saved in the background, restored onto another mesh, refused if they do not fit.

    python examples/checkpoints.py [--smallest]

`JAX_NUM_CPU_DEVICES=8 python examples/checkpoints.py` saves from eight devices and restores onto four, on any machine.
The optimizer state contains radii, strengths and anchors, so saving it saves everything that the method learned.
"""

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import ftp, state_shardings
from recipes import show
from recipes.checkpoints import restore
from recipes.digits import Digits
from vision.data import Example
from with_pytrees import Params, apply, init

METHOD = ftp(optax.adamw(1e-3))


@partial(jax.jit, donate_argnums=(0, 1))
def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
    def loss_fn(params: Params) -> jax.Array:
        logits = apply(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    updates, opt_state = METHOD.update(jax.grad(loss_fn)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def train(params: Params, opt_state: Any, batches: Iterable[Example], folder: Path | None = None) -> tuple[Params, Any]:
    """Trains. Saves every fourth step into the folder, in the background while the next steps run."""
    with ocp.StandardCheckpointer() as checkpointer:  # the end of the block waits for unfinished writes
        for done, batch in enumerate(batches, start=1):
            params, opt_state = step(params, opt_state, batch)
            if folder is not None and done % 4 == 0:
                checkpointer.save(folder / str(done), (params, opt_state))
    return params, opt_state


def shapes_on(devices: int, params: Params) -> Params:
    """The shapes of the parameters, with their rows sharded over the devices."""
    mesh = jax.make_mesh((devices,), ("rows",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows = lambda leaf: NamedSharding(mesh, P("rows") if leaf.ndim == 2 else P())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows(leaf)), params)


def difference(one: Any, other: Any) -> float:
    """The largest absolute difference of two trees."""
    gaps = jax.tree.map(lambda x, y: float(np.abs(np.subtract(x, y, dtype=np.float64)).max()), one, other)
    return max(jax.tree.leaves(gaps))


def main(*, smallest: bool = False) -> None:
    """Saves from all devices, restores onto all, half of them and one, continues there, and compares the results.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits, everyone = Digits.load(smallest), len(jax.devices())
    batches = list(digits.fine_tuning())
    half = len(batches) // 2 // 4 * 4
    start = jax.jit(init)(jax.random.key(0))
    shapes = shapes_on(everyone, start)
    params = jax.device_put(start, jax.tree.map(lambda leaf: leaf.sharding, shapes))
    opt_state = jax.jit(METHOD.init, out_shardings=state_shardings(METHOD, params))(params)
    with tempfile.TemporaryDirectory() as scratch:
        params, opt_state = train(params, opt_state, batches[:half], Path(scratch))
        written, latest = jax.device_get((params, opt_state)), Path(scratch, str(half))
        expected, _ = train(params, opt_state, batches[half:])

        rows = []
        for devices in dict.fromkeys((everyone, max(1, everyone // 2), 1)):
            params, opt_state = restore(latest, METHOD, shapes_on(devices, start))
            read = difference((params, opt_state), written)
            cut = len(params["first"]["kernel"].sharding.device_set)
            params, _ = train(params, opt_state, batches[half:])
            rows.append((f"{everyone} to {cut}", read, difference(params, expected)))
        header = ("devices", "difference as read", "of the weights at the end")
        show.table(f"Saved at step {half} of {len(batches)}; compared with an uninterrupted run", header, rows)

        other = ftp(optax.adamw(1e-3), mask={"first": True, "second": True, "head": False})
        try:
            restore(latest, other, shapes)
        except ValueError as error:
            print(f"With a mask that leaves out the head:\n{type(error).__name__}\n{error}")


if __name__ == "__main__":
    tyro.cli(main)
