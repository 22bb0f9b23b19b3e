"""The table of layers and the states' own print: what they say is what is in the state."""

import functools
import html

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from ftp_optax import (
    LayerRow,
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
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for step in range(steps):
        grads = jax.tree.map(functools.partial(gradient, step), params)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("memory", ["exact", "lean"])
def test_rows_are_what_the_accessors_say_and_count_the_units_at_radius(memory):
    tx = optax.chain(digrap(mask=MASK), ftp(optax.sgd(0.1), mask=MASK, memory=memory))
    params, state = trained(tx)
    rows = {row.path: row for row in layer_table(state, params)}
    assert list(rows) == ["body/bias", "body/kernel"]
    gap = np.abs(params["body"]["kernel"] - PARAMS["body"]["kernel"]).sum(0)
    for path, row in rows.items():
        assert row.radius == pytest.approx(radii(state, params)[path])
        assert row.strength == pytest.approx(strengths(state, params)[path])
        assert row.drift == pytest.approx(drift(state, params)[path])
    assert rows["body/kernel"].norm == pytest.approx(gap.max(), rel=1e-4)
    assert rows["body/kernel"].held == pytest.approx(np.mean(gap > 0.999 * rows["body/kernel"].radius))
    assert rows["body/kernel"].held == 1.0


def test_a_layer_within_its_radius_is_free():
    params, state = trained(ftp(optax.sgd(1e-3), initial_radius=1.0, hyper_optimizer=optax.sgd(0.0)), steps=1)
    assert {row.held for row in layer_table(state, params)} == {0.0}
    assert "free" in str(layer_table(state, params))


def test_every_layer_of_a_stacked_leaf_has_a_row():
    params = {"blocks": {"kernel": jnp.ones((3, 4, 2))}, "norm": {"scale": jnp.ones((3, 2))}}
    tx = ftp(optax.sgd(0.1), layer_axes=1)
    trained_params, state = trained(tx, params)
    rows = layer_table(state, trained_params)
    assert [row.path for row in rows] == [f"{p}[{i}]" for p in ("blocks/kernel", "norm/scale") for i in range(3)]
    np.testing.assert_allclose([row.radius for row in rows], state.radii)


def test_the_unit_rule_is_ftps_own():
    tx = ftp(optax.sgd(0.1), unit_axes=whole_leaf, mask=MASK)
    params, state = trained(tx)
    whole = {row.path: row for row in layer_table(state, params, unit_axes=whole_leaf)}
    gap = np.abs(params["body"]["kernel"] - PARAMS["body"]["kernel"]).sum()
    assert whole["body/kernel"].norm == pytest.approx(gap, rel=1e-4)


@pytest.mark.parametrize(
    "tx",
    [pgm(optax.sgd(0.1), radius=1.0), spd(optax.sgd(0.1), strength=1.0), add_decayed_anchor(0.1), tpgm(optax.sgd(0.1))],
    ids=["pgm", "spd", "l2_sp", "tpgm"],
)
def test_methods_without_radii_or_strengths_still_have_their_drift(tx):
    state = tx.init(PARAMS)
    rows = layer_table(state, jax.tree.map(lambda x: x + 1, PARAMS))
    assert [row.path for row in rows] == ["body/bias", "body/kernel", "head/kernel"]
    assert rows[1].drift == pytest.approx(12**0.5)
    assert rows[1].held is None


def test_it_prints_as_text_in_notebooks_and_with_rich():
    table = layer_table(*trained(ftp(optax.sgd(0.1), mask=MASK))[::-1])
    assert isinstance(table, LayerTable)
    lines = str(table).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert [line.split()[0] for line in lines[1:3]] == ["body/bias", "body/kernel"]
    assert tuple(lines[3:]) == table.notes
    assert len(table.notes) == 2
    assert repr(table) == str(table)
    assert table._repr_html_().count("<tr>") == 3
    assert all(f"<p>{html.escape(note)}</p>" in table._repr_html_() for note in table.notes)
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    shown = capture.get()
    assert "body/kernel" in shown
    assert "100 %" in shown
    assert all(word in shown for note in table.notes for word in note.split())


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="layer_table: the state holds no method's state; pass the optimizer state"):
        layer_table(optax.adam(0.1).init(PARAMS), PARAMS)
    tx = ftp(optax.sgd(0.1))
    with pytest.raises(ValueError, match="layer_table: not under jit or vmap"):
        jax.jit(lambda p: layer_table(tx.init(p), p)[0].radius)(PARAMS)
    with pytest.raises(ValueError, match=r"the state has a leaf 'head/kernel' that params lacks"):
        layer_table(tx.init(PARAMS), {"body": PARAMS["body"]})


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


# which units a leaf with layer axes has


def one_step(shape, layer_axes, name="kernel"):
    """Everything is within a radius of 1 after the step, so that norms are those of the step."""
    params = {name: jnp.zeros(shape)}
    tx = ftp(optax.sgd(1.0), layer_axes=layer_axes, initial_radius=100.0, hyper_optimizer=optax.sgd(0.0))
    grads = {name: -jnp.arange(1.0, 1 + params[name].size).reshape(shape)}
    updates, state = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    return state, optax.apply_updates(params, updates)


def test_layer_axes_tell_the_units_where_the_number_of_layers_does_not():
    """Two layers of one expert, each a vector, or two layers of kernels [1, 8]: 1 unit or 8."""
    for depth, largest in ((1, [8.0, 16.0]), (2, [36.0, 100.0])):
        state, params = one_step((2, 1, 8), depth)
        for layer_axes in (depth, lambda path, shape, depth=depth: depth):
            rows = layer_table(state, params, layer_axes=layer_axes)
            assert [row.norm for row in rows] == largest
            assert [row.radius for row in rows] == pytest.approx(largest)
            assert {row.held for row in rows} == {0.0}
        with pytest.raises(
            ValueError, match=r"'kernel' of shape \(2, 1, 8\) has 2 layers on its first 1 or 2 axes.*layer_axes="
        ):
            layer_table(state, params)
        with pytest.raises(
            ValueError, match=r"layer_axes gives 'kernel' of shape \(2, 1, 8\) 1 layers, the state has 2"
        ):
            layer_table(state, params, layer_axes=0)


@pytest.mark.parametrize(
    ("shape", "layer_axes", "name", "largest"),
    [
        ((2, 1, 8), 2, "bias", [36.0, 100.0]),  # one unit a layer at either depth
        ((2, 3, 1, 4), 1, "kernel", [24.0, 60.0]),  # the units are the output channels
        ((2, 3, 1), 2, "kernel", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),  # one element a layer
        ((1, 3, 2), 0, "position_embedding", [21.0]),  # one layer: no layer axes
        ((1, 3), 0, "kernel", [3.0]),
        ((), 0, "temperature", [1.0]),
    ],
)
def test_layer_axes_are_not_needed_where_the_units_are_the_same_or_there_is_one_layer(shape, layer_axes, name, largest):
    state, params = one_step(shape, layer_axes, name)
    assert [row.norm for row in layer_table(state, params)] == largest
    assert layer_table(state, params) == layer_table(state, params, layer_axes=layer_axes)


def test_a_drift_of_the_whole_leaf_is_no_layers_drift():
    """L2-SP has no layers; where it is the first with an anchor, the layers of ftp have no drift of their own."""
    params = {"kernel": jnp.ones((3, 2, 2))}
    tx = optax.chain(add_decayed_anchor(0.1), digrap(initial_strength=0.5), ftp(optax.sgd(0.1), layer_axes=1))
    rows = layer_table(tx.init(params), {"kernel": params["kernel"] + 1})
    assert [(row.strength, row.drift) for row in rows] == [(0.5, None)] * 3


# what the numbers mean


def table_of(tx, steps=4, params=PARAMS):
    return layer_table(*trained(tx, params, steps)[::-1])


def test_a_note_says_that_the_radii_limit_the_training():
    table = table_of(ftp(optax.sgd(0.1), mask=MASK))
    assert {row.held for row in table} == {1.0}
    assert "At their radius: 2 of the 2 layers that moved." in table.notes[0]
    assert "raise the hyper-optimizer's rate" in table.notes[1]
    grown = table_of(ftp(optax.sgd(0.1), mask=MASK), 10)  # what the note says of the radii
    assert [row.radius for row in grown] == pytest.approx([0.09] * 2, rel=0.1)


def test_a_note_says_that_ftp_is_plain_fine_tuning():
    free = ftp(optax.sgd(1e-3), initial_radius=1.0, hyper_optimizer=optax.sgd(0.0))
    for memory in (free, ftp(optax.sgd(1e-3), initial_radius=1.0, hyper_optimizer=optax.sgd(0.0), memory="lean")):
        table = table_of(memory, 1)
        assert "At their radius: no layer. ftp acts as plain fine-tuning." in table.notes
        assert "lower the hyper-optimizer's rate" in table.notes[1]


def test_nothing_is_said_of_layers_of_which_few_are_at_their_radius_or_that_never_moved():
    assert layer_table(ftp(optax.sgd(0.1)).init(PARAMS), PARAMS).notes == ()
    elsewhere = jax.tree.map(lambda x: x + 1, PARAMS)  # no step has projected yet
    assert layer_table(ftp(optax.sgd(0.1), anchor=elsewhere).init(PARAMS), PARAMS).notes == ()
    assert layer_table(pgm(optax.sgd(0.1), radius=1.0).init(PARAMS), elsewhere).notes == ()
    row = LayerRow("a", radius=1.0, norm=1.0, held=0.0)
    assert LayerTable([row, row._replace(held=1.0)]).notes == ()


@pytest.mark.parametrize("follower", [optax.add_decayed_weights(1.0), optax.scale(100.0), optax.add_noise(1.0, 0.0, 0)])
def test_a_note_says_that_parameters_are_outside_their_ball(follower):
    """A transformation after ftp moves them out of it. The table shows their real norm."""
    params, state = trained(optax.chain(ftp(optax.sgd(0.1)), follower))
    table = layer_table(state, params)
    assert "Outside their ball: 3 of 3 layers." in table.notes[0]
    assert "put ftp last" in table.notes[0]
    gap = np.abs(params["body"]["kernel"] - PARAMS["body"]["kernel"]).sum(0).max()
    assert table[1].norm == pytest.approx(gap, rel=1e-5)
    assert table[1].norm > 2 * table[1].radius


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("settings", [{}, {"anchor_dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("rate", [1e-4, 1e-1])
def test_rounding_takes_no_parameter_outside_its_ball(dtype, settings, rate):
    """Radii of 1e-8 and more, round weights that lie far wider apart."""
    draw = np.random.default_rng(0).standard_normal
    shapes = {
        f"{name} {size:g}": (size, shape) for size in (1e-3, 1.0, 300.0) for name, shape in (("a", (64, 8)), ("b", 64))
    }
    random = lambda: {name: jnp.asarray(size * draw(shape), dtype) for name, (size, shape) in shapes.items()}
    tx, params = ftp(optax.sgd(rate), **settings), random()
    state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
    for _ in range(4):
        updates, state = update(random(), state, params)
        params = optax.apply_updates(params, updates)
        table = layer_table(state, params)
        assert all(row.norm <= row.radius for row in table)
        assert not any("Outside" in note for note in table.notes)


def test_a_radius_that_is_not_finite_is_not_free():
    params, state = trained(ftp(optax.sgd(0.1)))
    broken = state._replace(radii=jnp.full_like(state.radii, jnp.nan))
    assert {row.held for row in layer_table(broken, params)} == {1.0}


def test_a_note_says_that_digrap_removes_nothing():
    tx = optax.chain(digrap(), optax.sgd(0.1))
    assert table_of(tx, 0).notes[0] == "All strengths are 0: digrap removes nothing."
    assert "initial_strength=1.0" in table_of(tx, 0).notes[1]
    assert table_of(optax.chain(digrap(initial_strength=1.0), optax.sgd(0.1)), 0).notes == ()
    both = table_of(optax.chain(digrap(), ftp(optax.sgd(0.1))), 1)
    assert [note.split()[0] for note in both.notes] == ["At", "To", "All", "To"]
