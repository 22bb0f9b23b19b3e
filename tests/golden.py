"""The traces recorded from the authors' released code, and how to replay them."""

import json
import pathlib

import jax.numpy as jnp
import optax

from ftp_optax import digrap, ftp, torch_fibers, torch_units

DATA = pathlib.Path(__file__).parent / "data"
FTP_TRACES = ("adamp_k05_wd", "adamp_k1", "sgdp_nesterov")
DIGRAP_TRACES = ("spcg_mu0.1",)


def load(name):
    return json.loads((DATA / f"{name}.json").read_text())


def arrays(tree, dtype):
    return {name: jnp.asarray(value, dtype) for name, value in tree.items()}


def base_optimizer(trace):
    kw = trace["kw"]
    if trace["opt"] == "sgdp":
        return optax.sgd(kw["lr"], kw["momentum"], kw["nesterov"])
    return optax.adamw(kw["lr"], weight_decay=kw.get("weight_decay", 0.0))


def ftp_of(trace, dtype, **options):
    constrained = {name: name not in trace["exclude"] for name in trace["names"]}
    options = {"anchor": arrays(trace["pre"], dtype), "kappa": trace["kw"]["k"]} | options
    return ftp(base_optimizer(trace), unit_axes=torch_units, mask=constrained, **options)


def digrap_of(trace, dtype):
    link = digrap(
        hyper_optimizer=optax.adam(trace["kw"]["mu"]), unit_axes=torch_fibers, anchor=arrays(trace["pre"], dtype)
    )
    return optax.chain(link, base_optimizer(trace))


def replay(trace, tx, dtype):
    """Feeds the recorded gradients; yields the recorded step, our parameters and our state after every step."""
    import jax

    params = arrays(trace["init"], dtype)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in trace["steps"]:
        updates, state = update(arrays(step["grad"], dtype), state, params)
        params = optax.apply_updates(params, updates)
        yield step, params, state
