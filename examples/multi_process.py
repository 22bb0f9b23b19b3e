"""Several processes: FSDP over `jax.distributed`, one process killed, all restarted from the last checkpoint.

    python examples/multi_process.py [--processes 2 4] [--smallest]

Each process holds its shard of every parameter, of its anchor and of the optimizer state. The killed and resumed run
ends bit for bit like an uninterrupted one, because the optimizer state contains everything that the method learns.
"""

import multiprocessing
import os
import signal
import socket
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import digrap, ftp
from recipes import show
from recipes.digits import BATCH_SIZE
from vision.data import train_batches
from vision.digits import digits_task
from with_pytrees import apply, init

SAVE_EVERY = 8
RESULT = "result.npz"


def fsdp(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Matrices are sharded by rows. Vectors, radii and strengths are replicated."""
    spec = lambda leaf: P("data") if leaf.ndim == 2 and leaf.shape[0] % mesh.size == 0 else P()
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf)), tree)


def work(process: int, processes: int, address: str, folder: Path, steps: int, dies_at: int | None) -> None:
    """The work of each process: start or resume, train to the end, write the result."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, processes, process)
    mesh = jax.make_mesh((processes,), ("data",), axis_types=(AxisType.Auto,))
    tx = optax.chain(digrap(), ftp(optax.adamw(1e-3)))

    def start() -> tuple[Any, Any]:
        params = init(jax.random.key(0))
        return params, tx.init(params)

    def step(params: Any, opt_state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(apply(params, images), labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    shapes = jax.eval_shape(start)
    shardings = fsdp(mesh, shapes)
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(*shardings, None))
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        first = manager.latest_step() or 0
        if first:
            # the target says which shards this process reads
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
            params, opt_state = manager.restore(first, args=ocp.args.StandardRestore(target))
        else:
            params, opt_state = jax.jit(start, out_shardings=shardings)()
        rows = NamedSharding(mesh, P("data"))
        share = slice(process * BATCH_SIZE // processes, (process + 1) * BATCH_SIZE // processes)
        batches = train_batches(
            digits_task(0, smallest=True).train, BATCH_SIZE, seed=0, first_step=first, num_steps=steps
        )
        losses = []
        for done, batch in enumerate(batches, start=first + 1):
            own = [jax.make_array_from_process_local_data(rows, batch[name][share]) for name in ("image", "label")]
            params, opt_state, loss = jitted(params, opt_state, *own)
            losses.append(float(loss))
            if done % SAVE_EVERY == 0 or done == steps:
                manager.save(done, args=ocp.args.StandardSave((params, opt_state)))
                manager.wait_until_finished()
            if done == dies_at and process == processes - 1:
                os.kill(os.getpid(), signal.SIGKILL)  # as if its machine failed
    leaves = jax.tree.leaves((params, opt_state))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    everything = [multihost_utils.process_allgather(leaf, tiled=True) for leaf in leaves]
    if process == 0:
        share_held = held / sum(array.nbytes for array in everything)
        np.savez(folder / RESULT, *everything, first=first, losses=losses, share=share_held)


def run(processes: int, folder: Path, steps: int, dies_at: int | None = None) -> bool:
    """Starts all processes. True if all finish, False if one is lost. Then the others are ended."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    # A server imports this module without starting JAX and forks the processes, so none imports it again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    team = [
        context.Process(target=work, args=(i, processes, address, folder, steps, dies_at)) for i in range(processes)
    ]
    for member in team:
        member.start()
    running = list(team)
    while running:
        wait([member.sentinel for member in running])
        running = [member for member in running if member.is_alive()]
        if any(member.exitcode for member in team):
            for member in running:
                member.kill()  # they would wait for the lost process's part of the gradient
                member.join()
            return False
    return True


def main(*, processes: tuple[int, ...] = (2, 4), smallest: bool = False) -> None:
    """Trains without and with a failure, and compares.

    Args:
        processes: How many processes, one or more cases.
        smallest: Two processes and few steps.
    """
    steps, rows = (16 if smallest else 60), []
    for number in (2,) if smallest else processes:
        with tempfile.TemporaryDirectory() as scratch:
            calm, rough = Path(scratch, "calm"), Path(scratch, "rough")
            if not run(number, calm, steps):
                raise SystemExit("A process of the undisturbed run failed.")
            if run(number, rough, steps, dies_at=steps - 2) or not run(number, rough, steps):
                raise SystemExit("The processes did not fail and resume as they were meant to.")
            expected, resumed = np.load(calm / RESULT), np.load(rough / RESULT)
            arrays = [name for name in expected.files if name.startswith("arr_")]
            same = sum(expected[name].tobytes() == resumed[name].tobytes() for name in arrays)
            losses = [float(loss) for loss in (*expected["losses"][[0, -1]], resumed["losses"][-1])]
            facts = float(expected["share"]), *losses, str(resumed["first"]), f"{same} of {len(arrays)}"
            rows.append((str(number), *facts))
    header = ("processes", "state on each", "first loss", "last", "resumed last", "resumed from", "arrays equal")
    show.table(f"{steps} steps, one process killed after step {steps - 2}; arrays are equal bit for bit", header, rows)


if __name__ == "__main__":
    tyro.cli(main)
