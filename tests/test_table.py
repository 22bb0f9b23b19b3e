"""The table of layers and the states' own print: what they say is what is in the state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from ftp_optax import (
    LayerTable,
    add_decayed_anchor,
    digrap,
    drift,
    ftp,
    layer_table,
    pgm,
    radii,
    spd,
    strengths,
    tpgm,
    whole_leaf,
)

PARAMS = {"body": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.ones((3, 2))}}
MASK = {"body": True, "head": False}


def gradient(step, x):
    return -1 - jnp.sin(step + jnp.arange(x.size)).reshape(x.shape) / 2


def trained(tx, params=PARAMS, steps=4):
    state = tx.init(params)
    for step in range(steps):
        grads = jax.tree.map(functools.partial(gradient, step), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("memory", ["exact", "lean"])
def test_rows_are_what_the_accessors_say_and_the_walls_are_where_the_units_are(memory):
    tx = optax.chain(digrap(mask=MASK), ftp(optax.sgd(0.1), mask=MASK, memory=memory))
    params, state = trained(tx)
    rows = {row.path: row for row in layer_table(params, state)}
    assert list(rows) == ["body/bias", "body/kernel"]
    gap = np.abs(params["body"]["kernel"] - PARAMS["body"]["kernel"]).sum(0)
    for path, row in rows.items():
        assert row.radius == pytest.approx(radii(state, params)[path])
        assert row.strength == pytest.approx(strengths(state, params)[path])
        assert row.drift == pytest.approx(drift(params, state)[path])
    assert rows["body/kernel"].norm == pytest.approx(gap.max(), rel=1e-4)
    assert rows["body/kernel"].held == pytest.approx(np.mean(gap > 0.999 * rows["body/kernel"].radius))
    assert rows["body/kernel"].held == 1.0


def test_a_layer_within_its_radius_is_free():
    params, state = trained(ftp(optax.sgd(1e-3), initial_radius=1.0, hyper_optimizer=optax.sgd(0.0)), steps=1)
    assert {row.held for row in layer_table(params, state)} == {0.0}
    assert "free" in str(layer_table(params, state))


def test_every_layer_of_a_stacked_leaf_has_a_row():
    params = {"blocks": {"kernel": jnp.ones((3, 4, 2))}, "norm": {"scale": jnp.ones((3, 2))}}
    tx = ftp(optax.sgd(0.1), layer_axes=1)
    trained_params, state = trained(tx, params)
    rows = layer_table(trained_params, state)
    assert [row.path for row in rows] == [f"{p}[{i}]" for p in ("blocks/kernel", "norm/scale") for i in range(3)]
    np.testing.assert_allclose([row.radius for row in rows], state.radii)


def test_the_unit_rule_is_ftps_own():
    tx = ftp(optax.sgd(0.1), unit_axes=whole_leaf, mask=MASK)
    params, state = trained(tx)
    whole = {row.path: row for row in layer_table(params, state, unit_axes=whole_leaf)}
    gap = np.abs(params["body"]["kernel"] - PARAMS["body"]["kernel"]).sum()
    assert whole["body/kernel"].norm == pytest.approx(gap, rel=1e-4)


@pytest.mark.parametrize(
    "tx",
    [pgm(optax.sgd(0.1), radius=1.0), spd(optax.sgd(0.1), strength=1.0), add_decayed_anchor(0.1), tpgm(optax.sgd(0.1))],
    ids=["pgm", "spd", "l2_sp", "tpgm"],
)
def test_methods_without_radii_or_strengths_still_have_their_drift(tx):
    state = tx.init(PARAMS)
    rows = layer_table(jax.tree.map(lambda x: x + 1, PARAMS), state)
    assert [row.path for row in rows] == ["body/bias", "body/kernel", "head/kernel"]
    assert rows[1].drift == pytest.approx(12**0.5)
    assert rows[1].held is None


def test_it_prints_as_text_in_notebooks_and_with_rich():
    table = LayerTable(layer_table(*trained(ftp(optax.sgd(0.1), mask=MASK))))
    lines = str(table).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert [line.split()[0] for line in lines[1:]] == ["body/bias", "body/kernel"]
    assert repr(table) == str(table)
    assert table._repr_html_().count("<tr>") == 3
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    assert "body/kernel" in capture.get()
    assert "100 %" in capture.get()


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="layer_table: the state holds no method's state; pass the optimizer state"):
        layer_table(PARAMS, optax.adam(0.1).init(PARAMS))
    tx = ftp(optax.sgd(0.1))
    with pytest.raises(ValueError, match="layer_table: not under jit"):
        jax.jit(lambda p: layer_table(p, tx.init(p))[0].radius)(PARAMS)
    with pytest.raises(ValueError, match=r"the state has a leaf 'head/kernel' that params lacks"):
        layer_table({"body": PARAMS["body"]}, tx.init(PARAMS))


def test_a_state_prints_one_line_a_field():
    _, state = trained(ftp(optax.adam(0.1), mask=MASK))
    lines = repr(state).splitlines()
    assert lines[0] == "FTPState("
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == list(state._fields)
    assert "radii: float32[2] from " in repr(state)
    assert "anchor: 2 arrays, 15 numbers, float32" in repr(state)
    assert len(repr(state)) < 600


def test_a_state_prints_where_its_numbers_are_not_known():
    tx = optax.chain(digrap(), ftp(optax.adam(0.1), memory="lean"))
    shapes = repr(jax.eval_shape(tx.init, PARAMS))
    assert "radii: float32[3]," in shapes
    assert "anchor: None" in shapes
    seen = []
    jax.jit(lambda p: [seen.append(repr(tx.init(p))), p][1])(PARAMS)
    assert "strengths: float32[3]," in seen[0]
    state = tx.init(PARAMS)
    jax.block_until_ready(jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(state))
    assert "radii: float32[3]," in repr(state)
