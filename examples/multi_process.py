"""Several processes: FSDP over `jax.distributed`, one process killed, all restarted from the last checkpoint.

    python examples/multi_process.py [--processes 2 4] [--smallest]

Each process holds its share of every parameter, of its anchor and of the optimizer's state. The run that was killed and
resumed ends with the very bits of one that was not, since everything the method learns is in the optimizer's state.
"""

import multiprocessing
import os
import signal
import socket
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tyro
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import digrap, ftp, radii
from recipes import show
from recipes.digits import BATCH_SIZE
from vision.data import train_batches
from vision.digits import digits_task
from with_pytrees import apply, init

SAVE_EVERY = 8


def fsdp(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """Matrices are cut into rows, one share a process; vectors and the learned radii and strengths are on all."""
    spec = lambda leaf: P("data") if leaf.ndim == 2 and leaf.shape[0] % mesh.size == 0 else P()
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf)), tree)


def work(process: int, processes: int, address: str, folder: Path, steps: int, dies_at: int | None) -> None:
    """What each process does: start or resume, train to the end, write the result."""
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
    step = jax.jit(step, donate_argnums=(0, 1), out_shardings=(*shardings, None))
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        first = manager.latest_step() or 0
        if first:
            # the target says which share of which array this process is to read
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
            params, opt_state = manager.restore(first, args=ocp.args.StandardRestore(target))
        else:
            params, opt_state = jax.jit(start, out_shardings=shardings)()
        share = slice(process * BATCH_SIZE // processes, (process + 1) * BATCH_SIZE // processes)
        rows = NamedSharding(mesh, P("data"))
        losses = []
        train = digits_task(0, smallest=True).train
        for done, batch in enumerate(
            train_batches(train, BATCH_SIZE, seed=0, first_step=first, num_steps=steps), start=first + 1
        ):
            own = (jax.make_array_from_process_local_data(rows, batch[name][share]) for name in ("image", "label"))
            params, opt_state, loss = step(params, opt_state, *own)
            losses.append(float(loss))
            if done == dies_at and process == processes - 1:
                os.kill(os.getpid(), signal.SIGKILL)  # what a machine that fails looks like
            if done % SAVE_EVERY == 0:
                manager.save(done, args=ocp.args.StandardSave((params, opt_state)))
                manager.wait_until_finished()
