"""The average of the weights: against NumPy in float64, what it leaves alone, and where it is found."""

import functools
from typing import Any

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_contract import same, some_params, step_of

from ftp_optax import AveragedState, averaged, averaged_params, digrap, ftp, pgm, radii, reanchor, spd

KINDS = ("uniform", "polynomial", "ema")
STEPS = 12
METHODS = {
    "adamw": lambda: optax.adamw(0.05),
    "ftp": lambda: ftp(optax.adam(0.05), hyper_optimizer=optax.adam(0.1)),
    "digrap": lambda: optax.chain(digrap(), optax.sgd(0.05, momentum=0.9)),
    "spd": lambda: spd(optax.adam(0.05), strength=0.5),
    "pgm": lambda: pgm(optax.adam(0.05), radius=0.5),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.05),
}


def gradients(params: Any, step: int) -> Any:
    return jax.tree.map(lambda x: (jnp.cos(3 * x) + 0.3 * np.sin(7.0 * step)).astype(x.dtype), params)


def run(tx: Any, params: Any, steps: int = STEPS) -> tuple[list[Any], Any]:
    """The parameters before the first step and after each, and the last state."""
    step, state, path = jax.jit(step_of(tx)), tx.init(params), [params]
    for number in range(steps):
        params, state = step(params, state, gradients(params, number))
        path.append(params)
    return path, state


def mean_of(path: list[Any], weights: np.ndarray) -> Any:
    """The weighted mean of some trees, in float64."""
    total = lambda *leaves: np.tensordot(
        weights / weights.sum(), np.stack([np.asarray(x, np.float64) for x in leaves]), 1
    )
    return jax.tree.map(total, *path)


def weights_of(kind: str, count: int, eta: float, decay: float) -> np.ndarray:
    """The weight of each of the parameters that are averaged, as the papers give them: not by a recursion."""
    number = np.arange(1, count + 1, dtype=np.float64)
    if kind == "uniform":
        return np.ones(count)
    if kind == "ema":
        return decay ** (count - number)
    share = (1 + eta) / (number + eta)  # of the k-th when it is added; what comes after takes from it
    return np.array([share[k] * np.prod(1 - share[k + 1 :]) for k in range(count)])


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_weighted_mean_of_what_the_steps_led_to(kind, start):
    path, state = run(averaged(METHODS["adamw"](), kind=kind, start=start, eta=2.0, decay=0.8), some_params())
    expected = mean_of(path[start + 1 :], weights_of(kind, STEPS - start, 2.0, 0.8))
    found = averaged_params(state, path[-1])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)
    chex.assert_trees_all_equal(found, optax.tree.get(state, "average"))


def test_polynomial_weights_grow_with_the_steps_and_those_of_eta_0_do_not():
    weights = weights_of("polynomial", 200, 3.0, 0.0)
    assert (np.diff(weights) > 0).all()
    np.testing.assert_allclose(weights[99] / weights[199], 0.5**3, rtol=0.05)  # the k-th counts about k^eta
    np.testing.assert_allclose(weights_of("polynomial", 50, 0.0, 0.0), 1 / 50, rtol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.9999])
def test_every_decay_has_its_bias_corrected(decay):
    """Far below the precision of ``1 - decay^k`` in float32, where ``decay`` is close to 1."""
    path, state = run(averaged(optax.sgd(0.1), kind="ema", decay=decay), {"w": jnp.array([1.0, -2.0])}, steps=5)
    expected = mean_of(path[1:], weights_of("ema", 5, 0.0, float(np.float32(decay))))
    np.testing.assert_allclose(averaged_params(state, path[-1])["w"], expected["w"], rtol=3e-7)


def test_until_the_start_it_is_the_parameters_themselves():
    params = some_params()
    tx = averaged(optax.sgd(0.1), start=3)
    step, state = step_of(tx), tx.init(params)
    chex.assert_trees_all_equal(averaged_params(state, params), params)
    for number in range(4):
        params, state = step(params, state, gradients(params, number))
        chex.assert_trees_all_equal(averaged_params(state, params), params)
    params, state = step(params, state, gradients(params, 4))
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (averaged_params(state, params), params)), strict=True)
    )


@pytest.mark.parametrize(("method", "kind"), [*((m, "uniform") for m in METHODS), *(("ftp", k) for k in KINDS[1:])])
def test_the_run_is_the_one_without_it(method, kind):
    """State included, but for the rounding of loops that XLA fuses otherwise: only what is evaluated is another."""
    alone, expected = run(METHODS[method](), some_params())
    path, state = run(averaged(METHODS[method](), kind=kind), some_params())
    chex.assert_trees_all_close((path, state.inner_state), (alone, expected), rtol=1e-6, atol=1e-7)
    for one, *along in zip(*map(jax.tree.leaves, (averaged_params(state, path[-1]), *path[1:])), strict=True):
        assert (one >= np.min(along, 0) - 1e-6).all()
        assert (one <= np.max(along, 0) + 1e-6).all()


@functools.cache
def averaging(kind: str, start: int) -> tuple[Any, Any]:
    """`init`, and the jitted `update`, of an average of what stands still."""
    tx = averaged(optax.set_to_zero(), kind=kind, start=start)
    return tx.init, jax.jit(tx.update)


@hypothesis.given(
    st.lists(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=8, max_size=8),
    st.sampled_from(KINDS),
    st.integers(0, 5),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_a_parameter_that_stands_still_is_its_own_average(values, kind, start):
    """To the bit, however long: a frozen backbone stays what it is."""
    params = {"frozen": jnp.asarray(values, jnp.float32)}
    init, update = averaging(kind, start)
    state = init(params)
    for _ in range(8):
        _, state = update(params, state, params)
    chex.assert_trees_all_equal(averaged_params(state, params), params)


def test_a_long_average_keeps_its_precision():
    """3,000 steps of a noisy drift that is small beside the weights."""
    moves = np.float32(1e-4 * np.random.default_rng(0).standard_normal((3000, 64)) + 1e-6)
    tx = averaged(optax.identity())

    @jax.jit
    def steps(params, state):
        def body(carry, move):
            params, state = carry
            updates, state = tx.update(move, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(body, (params, state), moves)

    first = jnp.linspace(0.5, 1.0, 64)
    (_, state), path = steps(first, tx.init(first))
    expected = np.asarray(path, np.float64).mean(0)
    assert np.abs(np.asarray(state.average) - expected).max() < 1e-3 * np.abs(expected - np.asarray(first)).max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_averages_in_float32_at_least_what_the_parameters_are_rounded_to(dtype):
    with jax.enable_x64(dtype == "float64"):
        path, state = run(averaged(METHODS["ftp"]()), some_params(dtype))
        wide = np.float64 if dtype == "float64" else np.float32
        assert {x.dtype for x in jax.tree.leaves(state.average)} == {np.dtype(wide)}
        tolerance = 1e-12 if dtype == "float64" else 1e-6
        for one, other in zip(
            jax.tree.leaves(state.average), jax.tree.leaves(mean_of(path[1:], np.ones(STEPS))), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
        assert {str(x.dtype) for x in jax.tree.leaves(averaged_params(state, path[-1]))} == {dtype}


def test_leaves_that_are_no_floating_point_numbers_pass():
    """Counters, keys and masked leaves stay the parameters' own."""
    params = {
        "count": jnp.int32(3),
        "key": jax.random.key(0),
        "masked": optax.MaskedNode(),
        "none": None,
        "w": jnp.ones(3),
    }
    inner = optax.stateless(lambda updates, params: updates)
    tx = averaged(inner)
    state = tx.init(params)
    updates = params | {"count": jnp.int32(1), "w": -0.5 * params["w"]}
    updates, state = jax.jit(tx.update)(updates, state, params)
    now = params | {"count": jnp.int32(4), "w": jnp.full(3, 0.5)}
    found = averaged_params(state, now)
    assert jax.tree.structure(found) == jax.tree.structure(now)
    np.testing.assert_array_equal(found["w"], 0.5)
    assert found["count"] == 4
    assert isinstance(state.average["count"], optax.MaskedNode)


def test_counts_real_steps_alone():
    """Those that MultiSteps and apply_if_finite let through."""
    params = some_params()
    tx = optax.apply_if_finite(optax.MultiSteps(averaged(optax.sgd(0.1)), 2).gradient_transformation(), 5)
    step, state, path = jax.jit(step_of(tx)), tx.init(params), []
    for number in range(8):
        grads = gradients(params, number)
        if number == 3:
            grads["body"]["bias"] = grads["body"]["bias"].at[0].set(jnp.nan)
        before = params
        params, state = step(params, state, grads)
        if any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, params)), strict=True)):
            path.append(params)
    assert len(path) == 3
    assert optax.tree.get(state, "averaged_steps") == 3
    same(averaged_params(state, params), mean_of(path, np.ones(3)))


def test_injected_hyper_parameters_can_be_changed_in_mid_run():
    inject = optax.inject_hyperparams(averaged, static_args=("inner", "kind"))
    params = {"w": jnp.array([1.0, -2.0])}
    path, state = run(inject(optax.sgd(0.1), kind="ema", decay=0.8, start=2), params)
    expected = mean_of(path[3:], weights_of("ema", STEPS - 2, 0.0, 0.8))
    np.testing.assert_allclose(averaged_params(state, path[-1])["w"], expected["w"], rtol=1e-6)
    state.hyperparams["decay"] = jnp.asarray(0.0)  # the newest alone
    tx = inject(optax.sgd(0.1), kind="ema", decay=0.8, start=2)
    params, state = step_of(tx)(path[-1], state, path[-1])
    chex.assert_trees_all_equal(averaged_params(state, params), params)


def test_is_found_in_groups_of_a_partition():
    params = some_params()
    groups = {"a": averaged(ftp(optax.adam(0.05))), "b": averaged(optax.sgd(0.1), kind="ema", decay=0.5)}
    path, state = run(optax.partition(groups, {"body": "a", "head": "b"}), params)
    found = averaged_params(state, path[-1])
    weights = weights_of("ema", STEPS, 0.0, 0.5)
    same(found["body"], mean_of([p["body"] for p in path[1:]], np.ones(STEPS)))
    same(found["head"], mean_of([p["head"] for p in path[1:]], weights))
    assert len(radii(state, params)) == 2


def test_the_average_of_an_ensemble_is_one_of_each_member():
    members = [jax.tree.map(lambda x, s=s: s * x, some_params()) for s in (0.5, 2.0)]
    tx = averaged(METHODS["ftp"]())
    together = jax.tree.map(lambda *xs: jnp.stack(xs), *members)
    state = jax.vmap(tx.init)(together)
    step = jax.jit(jax.vmap(lambda p, s: step_of(tx)(p, s, gradients(p, 0))))
    for _ in range(3):
        together, state = step(together, state)
    found, alone = jax.vmap(averaged_params)(state, together), jax.jit(step_of(tx))
    for i, member in enumerate(members):
        own = tx.init(member)
        for _ in range(3):
            member, own = alone(member, own, gradients(member, 0))
        same(jax.tree.map(lambda x, i=i: x[i], found), averaged_params(own, member))


class Net(nnx.Module):
    def __init__(self) -> None:
        self.body = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
        self.steps = nnx.Variable(jnp.int32(0))


def test_nnx_models_take_their_average():
    model = Net()
    optimizer = nnx.Optimizer(model, averaged(optax.sgd(0.1)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss = lambda model: jnp.mean((model.body(jnp.ones((2, 4))) - 1) ** 2)
        optimizer.update(model, nnx.grad(loss)(model))

    path = []
    for _ in range(4):
        step(model, optimizer)
        path.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        path[-1] = jax.tree.map(jnp.copy, path[-1])
    nnx.update(model, averaged_params(optimizer.opt_state, nnx.state(model, nnx.Param)))
    same(nnx.to_pure_dict(nnx.state(model, nnx.Param)), mean_of(path, np.ones(4)))


def test_the_average_outlives_the_donation_of_its_state():
    tx, params = averaged(optax.sgd(0.1)), some_params()
    step, state = jax.jit(step_of(tx), donate_argnums=(0, 1)), tx.init(params)
    params, state = step(params, state, gradients(params, 0))
    kept = averaged_params(state, params)
    copies = jax.tree.map(np.array, kept)
    params, state = step(params, state, gradients(params, 1))
    chex.assert_trees_all_equal(kept, copies)


def test_reanchoring_begins_a_new_average():
    path, state = run(averaged(METHODS["ftp"]()), some_params())
    state = reanchor(state, path[-1])
    chex.assert_trees_all_equal(averaged_params(state, path[-1]), path[-1])
    assert state.averaged_steps == 0
    assert set(radii(state, path[-1]).values()) == {float(np.float32(1e-8))}
    params, state = step_of(averaged(METHODS["ftp"]()))(path[-1], state, gradients(path[-1], 0))
    chex.assert_trees_all_equal(averaged_params(state, params), params)


def test_its_state_prints_readably():
    state = averaged(optax.sgd(0.1)).init({"w": jnp.ones(3)})
    lines = ["AveragedState(", "  average: 1 arrays, 3 numbers, float32,", "  averaged_steps: int32[] of 0,"]
    assert repr(state).splitlines()[:3] == lines


# what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mean"}, "kind must be 'uniform' or 'polynomial' or 'ema', got 'mean'"),
        ({"start": -1}, "start must be finite and not negative, got -1"),
        ({"eta": float("nan")}, "eta must be finite and not negative"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_out_of_range(settings, message):
    with pytest.raises(ValueError, match=f"averaged: {message}"):
        averaged(optax.sgd(0.1), **settings)


def test_what_is_no_optimizer_or_no_number():
    with pytest.raises(TypeError, match="averaged: inner must be an optax transformation"):
        averaged(0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="averaged: start must be a real number"):
        averaged(optax.sgd(0.1), start="end")  # pyright: ignore[reportArgumentType]


def test_what_does_not_fit_is_named():
    params = some_params()
    tx = averaged(optax.sgd(0.1))
    state = tx.init(params)
    with pytest.raises(ValueError, match="averaged: update needs the current parameters"):
        tx.update(params, state)
    with pytest.raises(TypeError, match="averaged: update got a tuple as state, not the AveragedState"):
        tx.update(params, (), params)
    fewer = {"body": params["body"]}
    with pytest.raises(ValueError, match="averaged: the state has a leaf 'head/kernel'"):
        tx.update(fewer, state, fewer)
    with pytest.raises(ValueError, match="averaged_params: the state has a leaf 'head/kernel'"):
        averaged_params(state, fewer)
    wider = {**params, "head": {"kernel": jnp.ones((16, 9))}}
    for refused in (lambda: tx.update(wider, state, wider), lambda: averaged_params(state, wider)):
        with pytest.raises(
            ValueError, match=r"the state has shape \(16, 8\) at 'head/kernel', the parameter \(16, 9\)"
        ):
            refused()
    with pytest.raises(ValueError, match="averaged_params: the state holds no average"):
        averaged_params(optax.adam(0.1).init(params), params)
    with pytest.raises(TypeError, match=r"averaged: params has .* at 'w'"):
        tx.init({"w": "text"})


def test_the_outermost_of_two_is_taken():
    path, state = run(averaged(averaged(optax.sgd(0.1), kind="ema", decay=0.0)), some_params())
    same(averaged_params(state, path[-1]), mean_of(path[1:], np.ones(STEPS)))
    assert isinstance(state.inner_state, AveragedState)


def test_under_jit_it_is_what_it_is_outside():
    path, state = run(averaged(METHODS["ftp"]()), some_params())
    chex.assert_trees_all_equal(jax.jit(averaged_params)(state, path[-1]), averaged_params(state, path[-1]))


def test_is_traced_once_whatever_the_step():
    traces, tx, params = [], averaged(optax.sgd(0.1), start=2), some_params()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        traces.append(1)
        return step_of(tx)(params, state, params)

    state = tx.init(params)
    for _ in range(5):
        params, state = step(params, state)
    assert len(traces) == 1
