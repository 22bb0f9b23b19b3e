"""Data parallelism, FSDP and tensor parallelism, with the shardings of the optimizer state.

    python examples/meshes.py [--smallest]

`JAX_NUM_CPU_DEVICES=8 python examples/meshes.py` uses eight devices on any machine. You choose the shardings of the
parameters. Those of the optimizer state follow from them.
"""

import collections
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import tyro
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import digrap, ftp, state_shardings
from recipes import show
from recipes.digits import Digits
from vision.data import Example
from with_pytrees import Params, apply, init

ROWS, COLUMNS = P("devices"), P(None, "devices")

# the shardings of the parameters and of a batch: trees of PartitionSpecs, as in any JAX program
LAYOUTS: dict[str, tuple[Any, P]] = {
    "data parallel": ({}, P("devices")),
    "fsdp": ({"first": {"kernel": ROWS}, "second": {"kernel": ROWS}, "head": {"kernel": ROWS}}, P("devices")),
    "tensor parallel": (
        {"first": {"kernel": COLUMNS, "bias": P("devices")}, "second": {"kernel": ROWS}},
        P(),
    ),
}


def train(
    tx: optax.GradientTransformation, params: Params, batches: Iterable[Example], at: NamedSharding
) -> tuple[Params, Any, str]:
    """Trains sharded parameters on batches with the sharding `at`. Returns them, the state and a step's collectives."""

    def step(params: Params, opt_state: Any, batch: Example) -> tuple[Params, Any]:
        def loss_fn(params: Params) -> jax.Array:
            logits = apply(params, batch["image"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    # A jitted init alone would replicate the state on every device.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params), state_shardings(tx, params)
    opt_state = jax.jit(tx.init, out_shardings=shardings[1])(params)
    jitted, compiled = jax.jit(step, donate_argnums=(0, 1), out_shardings=shardings), None
    for batch in batches:
        batch = jax.device_put(batch, at)
        compiled = compiled or jitted.lower(params, opt_state, batch).compile()
        params, opt_state = compiled(params, opt_state, batch)
    return params, opt_state, collectives(compiled)


def collectives(compiled: Any) -> str:
    """The collectives of a compiled step."""
    kinds = re.findall(r" (all-reduce|all-gather|reduce-scatter|all-to-all)(?:-start)?\(", compiled.as_text())
    return ", ".join(f"{n} {kind}" for kind, n in sorted(collections.Counter(kinds).items())) or "-"


def placed(params: Params, mesh: jax.sharding.Mesh, specs: Any) -> Params:
    """A copy of the parameters on a mesh, replicated where there is no spec."""
    places = {
        name: {kind: NamedSharding(mesh, specs.get(name, {}).get(kind, P())) for kind in layer}
        for name, layer in params.items()
    }
    return jax.device_put(jax.tree.map(np.asarray, params), places)


def megabytes(tree: Any) -> float:
    """Megabytes of a tree on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)) / 1e6


def main(*, smallest: bool = False) -> None:
    """Fine-tunes one network on one device, and on all devices with three layouts.

    Args:
        smallest: A quick run, to test that the script works.
    """
    digits, tx = Digits.load(smallest), optax.chain(digrap(), ftp(optax.adamw(1e-3)))
    one, every = (
        jax.make_mesh((n,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:n])
        for n in (1, len(jax.devices()))
    )
    start = placed(init(jax.random.key(0)), one, {})
    pretrained, *_ = train(optax.adam(1e-3), start, digits.pretraining(), NamedSharding(one, P()))

    rows, expected = [], None
    for name, (specs, batch_spec) in {"one device": ({}, P()), **LAYOUTS}.items():
        mesh = one if name == "one device" else every
        at = NamedSharding(mesh, batch_spec)
        params, state, sent = train(tx, placed(pretrained, mesh, specs), digits.fine_tuning(), at)
        arrays = jax.tree.map(np.asarray, params)
        expected = expected or arrays
        gap = max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), arrays, expected)))
        loss = digits.score(partial(apply, arrays)).loss
        rows.append((name, str(mesh.size), loss, gap, megabytes(params), megabytes(state), sent))
    header = (
        "layout",
        "devices",
        "loss",
        "difference of any weight",
        "weights",
        "state",
        "collectives of a whole step",
    )
    show.table("Fine-tuned on photo; megabytes of weights and state on each device", header, rows)


if __name__ == "__main__":
    tyro.cli(main)
