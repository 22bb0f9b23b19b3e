"""Every public function with wrong types, shapes, dtypes and structures: our own words, never a traceback of JAX's.

A wrong argument must raise ValueError or TypeError from a line of this package, with the leaf's path where it is one
leaf that is wrong.
"""

import inspect
import pathlib
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import count

import ftp_optax
from ftp_optax import (
    add_decayed_anchor,
    averaged,
    averaged_params,
    digrap,
    drift,
    ftp,
    layer_table,
    maps_strengths,
    pgm,
    radii,
    reanchor,
    scale_free,
    smallest_share,
    spd,
    state_shardings,
    strengths,
    tpgm,
    tpgm_project,
    wise_ft,
)

PACKAGE = str(pathlib.Path(ftp_optax.__file__).parent)
BASE = optax.sgd(0.1)


def params():
    return {"body": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}}


def held_out(tree, batch=None):
    del batch
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def refused(call, *words):
    """That the call raises, from our own line, and says the words."""
    count("wrong calls refused")
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    innermost = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert innermost.filename.startswith(PACKAGE), f"{innermost.filename}:{innermost.lineno}: {caught.value}"
    message = str(caught.value)
    assert all(word in message for word in words), f"{message!r} does not say {words}"
    assert "\n" not in message


# Arguments that are no trees. What a table holds is wrong wherever it is used.

JUNK = {
    "string": "x",
    "bytes": b"x",
    "list": [],
    "dict": {},
    "object": object(),
    "complex": 1 + 2j,
    "strings": np.array(["a"]),
}
NO_NUMBER = {**JUNK, "none": None, "bool": True, "vector": jnp.ones(3), "matrix": jnp.ones((2, 2)), "type": jnp.float32}
NO_TRANSFORMATION = {**NO_NUMBER, "number": 3, "factory": optax.sgd, "function": lambda g: g}
NO_RULE = {**JUNK, "number": 3, "none": None, "array": jnp.ones(3)}
NO_DTYPE = {**JUNK, "number": 3, "int": jnp.int32, "complex type": jnp.complex64, "bool": True}
NO_DTYPE |= {"array": jnp.ones(3), "function": held_out}
NO_COUNT = {**JUNK, "float": 1.0, "none": None, "negative": -1, "bool": True, "array": jnp.ones(3)}
NO_CHOICE = {**JUNK, "number": 3, "none": None, "array": jnp.ones(3), "other": "exactly"}
NEGATIVE = {"negative": -1.0, "nan": float("nan"), "infinite": float("inf"), "below": -1e-9}
NO_FUNCTION = {**JUNK, "number": 3, "none": None, "array": jnp.ones(3)}

SHARED = {"unit_axes": NO_RULE, "layer_axes": NO_COUNT, "anchor_dtype": NO_DTYPE}
ARGUMENTS = {
    ftp: {
        **SHARED,
        "inner": NO_TRANSFORMATION,
        "hyper_optimizer": NO_TRANSFORMATION,
        "kappa": NO_NUMBER | NEGATIVE | {"large": 1.1},
        "initial_radius": NO_NUMBER | NEGATIVE | {"zero": 0},
        "memory": NO_CHOICE,
        "hypergradient": NO_CHOICE,
    },
    digrap: {
        **SHARED,
        "hyper_optimizer": NO_TRANSFORMATION,
        "max_strength": NO_NUMBER | NEGATIVE | {"large": 1.1, "zero": 0},
        "initial_strength": NO_NUMBER | NEGATIVE | {"large": 1.1},
        "memory": NO_CHOICE,
    },
    tpgm: {**SHARED, "inner": NO_TRANSFORMATION, "hyper_optimizer": NO_TRANSFORMATION, "norm": NO_CHOICE},
    pgm: {**SHARED, "inner": NO_TRANSFORMATION, "radius": NO_NUMBER | NEGATIVE | {"zero": 0}, "norm": NO_CHOICE},
    spd: {
        "inner": NO_TRANSFORMATION,
        "strength": {k: v for k, v in (NO_NUMBER | NEGATIVE).items() if k != "type"},  # any callable is a schedule
        "layer_axes": NO_COUNT,
        "anchor_dtype": NO_DTYPE,
    },
    add_decayed_anchor: {
        "strength": {k: v for k, v in (NO_NUMBER | NEGATIVE).items() if k != "type"},
        "anchor_dtype": NO_DTYPE,
    },
}
DEFAULTS = {
    ftp: lambda **kw: ftp(kw.pop("inner", BASE), **kw),
    digrap: digrap,
    tpgm: lambda **kw: tpgm(kw.pop("inner", BASE), **kw),
    pgm: lambda **kw: pgm(kw.pop("inner", BASE), **{"radius": 1.0, **kw}),
    spd: lambda **kw: spd(kw.pop("inner", BASE), **{"strength": 1.0, **kw}),
    add_decayed_anchor: lambda **kw: add_decayed_anchor(**{"strength": 1.0, **kw}),
}
TREES = ("mask", "anchor")
RULES = ("flax_units", "torch_units", "flax_fibers", "torch_fibers", "whole_leaf", "elementwise", "stacked_layers")
named = lambda function: getattr(function, "__name__", str(function))


def test_the_tables_have_every_method_and_every_argument():
    made = {name for name in ftp_optax.__all__ if inspect.isfunction(getattr(ftp_optax, name))}
    readers = {"radii", "strengths", "drift", "reanchor", "layer_table", "averaged_params"}
    others = {
        "wise_ft",
        "smallest_share",
        "averaged",
        "tpgm_project",
        "maps_strengths",
        "scale_free",
        "state_shardings",
    }
    assert made == {named(f) for f in ARGUMENTS} | {*RULES} | readers | others, "a new function joins the tables here"
    for function, table in ARGUMENTS.items():
        assert set(inspect.signature(function).parameters) == {*table, *TREES}, named(function)


@pytest.mark.parametrize(
    ("function", "argument"), [(f, a) for f, table in ARGUMENTS.items() for a in table], ids=lambda x: named(x)
)
def test_arguments(function, argument):
    for name, wrong in ARGUMENTS[function][argument].items():
        words = [argument] if argument not in ("strength", "layer_axes") or name != "dict" else []
        refused(lambda wrong=wrong: DEFAULTS[function](**{argument: wrong}).init(params()), *words)


# Trees


def with_kernel(leaf):
    return {"body": {**params()["body"], "kernel": leaf}}


NO_LEAF = {
    "none": None,
    "string": "x",
    "object": object(),
    "function": len,
    "strings": np.array([["a"] * 4] * 3),
    "objects": np.full((3, 4), None),
    "float0": np.zeros((3, 4), jax.dtypes.float0),
    "int": jnp.ones((3, 4), jnp.int32),
    "bool": jnp.ones((3, 4), jnp.bool_),
    "complex": jnp.ones((3, 4), jnp.complex64),
    "key": jax.random.key(0),
    "list": [1.0, 2.0],
    "masked": optax.MaskedNode(),
}
NO_SHAPE = {"turned": jnp.ones((4, 3)), "broadcastable": jnp.ones((1, 4)), "scalar": jnp.ones(()), "number": 1.0}
NO_TREE = {
    "number": 3.0,
    "string": "x",
    "object": object(),
    "missing": {"body": {"kernel": jnp.ones((3, 4))}},
    "more": {"body": {**params()["body"], "more": jnp.ones(2)}},
    "flat": {"body": jnp.ones((3, 4))},
    "tuple": (jnp.ones((3, 4)), jnp.zeros(4)),
    "renamed": {"corps": params()["body"]},
    "unsorted": {1: jnp.ones(2), "a": jnp.ones(2)},
}
UNLIKE = {f"leaf {name}": with_kernel(leaf) for name, leaf in (NO_LEAF | NO_SHAPE).items()}
UNLIKE |= {f"tree {name}": tree for name, tree in NO_TREE.items()}
NEW = ("none", "list", "masked")  # what init takes is new to it: only what can be no constrained leaf is wrong
NO_PARAMS = {case: UNLIKE[case] for case in map("leaf {}".format, NO_LEAF) if case.split()[1] not in NEW}

METHODS = {
    "ftp": ftp(BASE),
    "ftp_lean": ftp(BASE, memory="lean"),
    "digrap": digrap(),
    "digrap_lean": digrap(memory="lean"),
    "tpgm": tpgm(BASE),
    "spd": spd(BASE, strength=1.0),
    "pgm": pgm(BASE, radius=1.0),
    "add_decayed_anchor": add_decayed_anchor(1.0),
}
method = pytest.mark.parametrize("name", METHODS)


def path_of(case):
    """What a message must name: the leaf, where it is one leaf that is wrong."""
    return ["body/kernel"] if case.startswith("leaf") else []


@method
def test_params_of_init(name):
    for case, wrong in NO_PARAMS.items():
        refused(lambda wrong=wrong: METHODS[name].init(wrong), *path_of(case))


@method
@pytest.mark.parametrize("place", ["gradient", "params"])
def test_trees_of_update(name, place):
    tx = METHODS[name]
    state, right = tx.init(params()), params()
    extra = {"held_out_loss": held_out} if name == "tpgm" else {}
    for case, wrong in UNLIKE.items():
        given = (wrong, state, right) if place == "gradient" else (right, state, wrong)
        refused(lambda given=given: tx.update(*given, **extra), *path_of(case))
    refused(lambda: tx.update(right, state, **extra), "update needs the current parameters")


@method
def test_states_of_update(name):
    tx = METHODS[name]
    other = (digrap() if name != "digrap" else ftp(BASE)).init(params())
    for wrong in (None, {}, [], 3.0, "x", other, tx.init(params())._asdict(), tuple(tx.init(params()))):
        if not (name == "digrap_lean" and wrong is other):  # lean or not is one method's state
            refused(lambda wrong=wrong: tx.update(params(), wrong, params()), "state")
    bent = tx.init({"body": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(4)}})
    refused(lambda: tx.update(params(), bent, params()), "body/kernel")


def test_held_out_arguments():
    tx = ftp(BASE)
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: tx.update(params(), tx.init(params()), params(), held_out_grads=w), *path_of(case))
    tx = tpgm(BASE)
    for wrong in NO_FUNCTION.values():
        refused(lambda w=wrong: tx.update(params(), tx.init(params()), params(), held_out_loss=w), "held_out_loss")


NO_MASK = {
    "string": "x",
    "number": 1,
    "object": object(),
    "array": jnp.ones(2),
    "numbers": {"body": 1},
    "other": {"corps": True},
    "deeper": {"body": {"kernel": {"a": True}, "bias": True}},
    "none": {},
    "nothing": False,
    "partial": {"body": {"kernel": True}},
    "returns a number": lambda p: 3,
    "returns params": lambda p: p,
}


@pytest.mark.parametrize("function", DEFAULTS, ids=named)
def test_anchors_and_masks(function):
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: DEFAULTS[function](anchor=w).init(params()), *path_of(case))
    for wrong in NO_MASK.values():
        refused(lambda w=wrong: DEFAULTS[function](mask=w).init(params()), "mask")
    refused(lambda: DEFAULTS[function](mask=NO_TREE["unsorted"]).init(params()))


# Functions of params and states

FTP, DIGRAP, AVERAGED = (tx.init(params()) for tx in (ftp(BASE), digrap(), averaged(BASE)))
READERS = {
    "radii": (radii, FTP),
    "strengths": (strengths, DIGRAP),
    "drift": (drift, FTP),
    "layer_table": (layer_table, FTP),
    "reanchor": (reanchor, FTP),
    "averaged_params": (averaged_params, AVERAGED),
}


@pytest.mark.parametrize("name", READERS)
def test_readers(name):
    read, state = READERS[name]
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: read(state, w), *path_of(case))
    for wrong in (None, {}, [], 3.0, "x", object(), params(), BASE.init(params()), BASE):
        refused(lambda w=wrong: read(w, params()), name, "state")


def test_the_axes_of_the_table():
    for argument, table in (("unit_axes", NO_RULE), ("layer_axes", NO_COUNT)):
        for case, wrong in table.items():
            if (argument, case) != ("layer_axes", "none"):  # the default
                refused(lambda a=argument, w=wrong: layer_table(FTP, params(), **{a: w}), argument)


NOT_FLOATING = ("leaf int", "leaf bool", "leaf complex", "leaf float0", "leaf key")


def test_wise_ft():
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: wise_ft(params(), w, 0.5), *path_of(case))
        if case not in NOT_FLOATING:  # stays as it is
            refused(lambda w=wrong: wise_ft(w, params(), 0.5), *path_of(case))
    for wrong in NO_NUMBER.values():
        refused(lambda w=wrong: wise_ft(params(), params(), w), "alpha")
    for wrong in NO_MASK.values():
        refused(lambda w=wrong: wise_ft(params(), params(), 0.5, mask=w), "wise_ft: the mask")


def test_smallest_share():
    for wrong in [*NO_NUMBER.values(), 0, -1.0, float("nan")]:
        refused(lambda w=wrong: smallest_share([0.0, 1.0], [0.5, 0.5], w), "count")
    for wrong in (3, None, "x", ["x", "y"], [], [0.5], [0.5, None], [0.5, 1.1], [0.5, float("nan")], [[0.5, 0.5]]):
        refused(lambda w=wrong: smallest_share([0.0, 1.0], w, 10), "smallest_share", "score")
    for wrong in (3, None, "x", ["x", "y"], [], [0.5], [0.5, object()]):
        refused(lambda w=wrong: smallest_share(w, [0.5, 0.5], 10), "smallest_share", "alphas")
    for wrong in [*NO_NUMBER.values(), -1.0, float("nan")]:
        refused(lambda w=wrong: smallest_share([0.0, 1.0], [0.5, 0.5], 10, errors=w), "errors")


def test_averaged():
    table = {
        "inner": NO_TRANSFORMATION,
        "kind": NO_CHOICE,
        "start": NO_NUMBER | NEGATIVE,
        "eta": NO_NUMBER | NEGATIVE,
        "decay": NO_NUMBER | NEGATIVE | {"one": 1.0},
    }
    assert set(inspect.signature(averaged).parameters) == set(table)
    for argument, cases in table.items():
        for wrong in cases.values():
            refused(lambda a=argument, w=wrong: averaged(**{"inner": BASE, a: w}), argument)
    tx = averaged(BASE)
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: tx.update(params(), tx.init(params()), w), *path_of(case))
    for wrong in (None, {}, [], 3.0, "x", FTP, tx.init(params())._asdict()):
        refused(lambda w=wrong: tx.update(params(), w, params()), "state")


def test_tpgm_project():
    project = lambda p=None, a=None, loss=held_out, batches=(0,), **kw: tpgm_project(
        params() if p is None else p, params() if a is None else a, loss, batches, **kw
    )
    for case, wrong in UNLIKE.items():
        refused(lambda w=wrong: project(a=w), *path_of(case))
        if case != "leaf masked":
            refused(lambda w=wrong: project(p=w), *path_of(case))
    for wrong in NO_FUNCTION.values():
        refused(lambda w=wrong: project(loss=w), "held_out_loss")
    for wrong in ((), [], None, 3):
        refused(lambda w=wrong: project(batches=w), "batches")
    for wrong in NO_TRANSFORMATION.values():
        refused(lambda w=wrong: project(hyper_optimizer=w), "hyper_optimizer")
    for wrong in NO_CHOICE.values():
        refused(lambda w=wrong: project(norm=w), "norm")
    for argument in ("unit_axes", "layer_axes"):
        for wrong in SHARED[argument].values():
            refused(lambda a=argument, w=wrong: project(**{a: w}), argument)


def test_maps_strengths():
    layers = ["body/kernel", "body/bias"]
    for wrong in NO_NUMBER.values():
        refused(lambda w=wrong: maps_strengths(params(), w, layers=layers), "strength")
    for wrong in (None, 3, "body", "x", [], ["body"], [1, 2], ["body/kernel", "elsewhere"], [None, None], object()):
        refused(lambda w=wrong: maps_strengths(params(), 1.0, layers=w), "layers")
    for case in ("more", "renamed", "flat", "unsorted"):
        refused(lambda c=case: maps_strengths(NO_TREE[c], 1.0, layers=layers))


def test_scale_free_and_state_shardings():
    for wrong in NO_TRANSFORMATION.values():
        refused(lambda w=wrong: scale_free(w), "hyper_optimizer")
        refused(lambda w=wrong: state_shardings(w, params()), "tx")
    refused(lambda: scale_free(BASE).update(jnp.ones(2), scale_free(BASE).init(jnp.ones(2))), "step_norms")
    for wrong in ({"a": 1.0}, {"a": "x"}, {"a": np.ones(2)}, 3.0, "x", NO_TREE["unsorted"]):
        refused(lambda w=wrong: state_shardings(ftp(BASE), w))


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule):
    rule = getattr(ftp_optax, rule)
    for wrong in NO_RULE.values():
        if not isinstance(wrong, str):
            refused(lambda w=wrong: rule(w, (2, 3)), "path")
        if not isinstance(wrong, list):
            refused(lambda w=wrong: rule("a/kernel", w), "shape")
    for wrong in ((2.0, 3.0), ("a",), (None,), (2, jnp.ones(2))):
        refused(lambda w=wrong: rule("a/kernel", w), "shape")


@pytest.mark.parametrize("answer", [None, 3, "x", (5,), (-3,), (0.5,), ("a",), [[0]], object()])
def test_answers_of_rules(answer):
    for function in (ftp, digrap, tpgm, pgm):
        make = DEFAULTS[function]
        refused(lambda make=make: make(unit_axes=lambda p, s: answer).init(params()), "unit_axes", "body/")
        if answer != 3:
            refused(lambda make=make: make(layer_axes=lambda p, s: answer).init(params()), "layer_axes", "body/")
