"""The checkpoint that every later version must load: all methods' states, written once by the version in its name.

python tests/kept_checkpoint.py   # writes tests/data/checkpoint-<version>; a kept one is never written anew
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import ftp_optax
from ftp_optax import add_decayed_anchor, digrap, ftp, pgm, spd, tpgm

DATA = pathlib.Path(__file__).parent / "data"
MASK = {"body": True, "layers": True, "head": False}
SETTINGS = {"mask": MASK, "layer_axes": lambda path, shape: int(path.startswith("layers"))}
STEPS, MORE = 4, 3


def params():
    """A constrained body, two stacked layers, and a free head."""
    wave = lambda *shape: jnp.sin(jnp.arange(float(np.prod(shape)))).reshape(shape)
    return {"body": {"bias": wave(3), "kernel": wave(2, 3)}, "head": wave(3, 2), "layers": {"kernel": wave(2, 2, 2)}}


def model(tree=None):
    """An NNX model of these parameters."""
    tree = params() if tree is None else tree
    return nnx.Dict({name: model(inner) for name, inner in tree.items()}) if isinstance(tree, dict) else nnx.Param(tree)


def held_out(tree):
    return sum(jnp.sum((x - 0.5) ** 2) for x in jax.tree.leaves(tree))


NNX = "digrap+ftp"  # the method that is kept of NNX too, where it ends at the same place
METHODS = {
    "ftp": ftp(optax.adamw(1e-2), **SETTINGS),
    "ftp_lean": ftp(optax.sgd(1e-2, momentum=0.9), memory="lean", **SETTINGS),
    "ftp_bfloat16_anchor": ftp(optax.adam(1e-2), anchor_dtype="bfloat16", **SETTINGS),
    "digrap": optax.chain(digrap(**SETTINGS), optax.adam(1e-2)),
    "digrap_lean": optax.chain(digrap(memory="lean", **SETTINGS), optax.sgd(1e-2)),
    "digrap+ftp": optax.chain(digrap(**SETTINGS), ftp(optax.adam(1e-2), **SETTINGS)),
    "tpgm": tpgm(optax.sgd(1e-2), **SETTINGS),
    "spd": spd(optax.adam(1e-2), strength=0.5, **SETTINGS),
    "pgm": pgm(optax.sgd(1e-2), radius=0.05, **SETTINGS),
    "l2_sp": optax.chain(add_decayed_anchor(0.1, mask=MASK), optax.sgd(1e-2)),
}


def train(name, params, state, first, last):
    """Eager steps, so that no compiler of a later version decides how they round."""
    extra = {"held_out_loss": held_out} if name == "tpgm" else {}
    for step in range(first, last):
        updates, state = METHODS[name].update(gradients(params, step), state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


def train_nnx(model, optimizer, first, last):
    """The same steps by NNX's optimizer."""
    for step in range(first, last):
        optimizer.update(model, gradients(nnx.state(model), step))


def gradients(params, step):
    return jax.tree.map(lambda x: jnp.cos(3 * x + step), params)


def write():
    """Parameters and states after a few steps, of dicts and of NNX's trees, and where a few more lead."""
    root = DATA / f"checkpoint-{ftp_optax.__version__}"
    content = {name: train(name, params(), tx.init(params()), 0, STEPS) for name, tx in METHODS.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(root.resolve() / "states", content)
        start, net = nnx.state(model()), model()
        checkpointer.save(root.resolve() / "nnx_variables", train(NNX, start, METHODS[NNX].init(start), 0, STEPS))
        optimizer = nnx.Optimizer(net, METHODS[NNX], wrt=nnx.Param)
        train_nnx(net, optimizer, 0, STEPS)
        checkpointer.save(root.resolve() / "nnx_optimizer", (nnx.state(net), nnx.state(optimizer)))
    ends = {name: train(name, *content[name], STEPS, STEPS + MORE)[0] for name in METHODS}
    as_lists = jax.tree.map(lambda x: np.asarray(x, np.float64).tolist(), ends)
    (root / "ends.json").write_text(json.dumps(as_lists) + "\n")


if __name__ == "__main__":
    write()
