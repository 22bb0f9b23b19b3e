"""What optax, NNX, linen, equinox and a mesh demand of an optimizer, asked of every public transform.

A new method joins by one line in `METHODS`.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ftp_optax import add_decayed_anchor, averaged, digrap, ftp, pgm, scale_free, spd, tpgm

RATE = 0.05
ADAM = optax.adam(RATE, eps=1e-4)  # float16 has no 1e-8
HYPER = optax.adam(0.1)  # radii that grow with the learning rate above: a test sees them move


def ftp_of(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return ftp(base, **{"hyper_optimizer": HYPER, **settings})


def digrap_chain(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(digrap(**settings), base)


def all_chain(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.clip_by_global_norm(10.0), digrap(**settings), ftp_of(base, **settings))


def spd_of(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return spd(base, **{"strength": 0.5, **settings})


def pgm_of(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return pgm(base, **{"radius": 100.0, **settings})


def l2_sp_chain(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(add_decayed_anchor(**{"strength": 1e-3, **settings}), base)


def averaged_ftp(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return averaged(ftp_of(base, **settings), kind="ema", decay=0.5, start=1)


def tpgm_of(base: optax.GradientTransformation, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """TPGM with the one extra argument that it cannot do without: a held-out loss that wants to be far away."""
    tx = tpgm(base, **{"hyper_optimizer": HYPER, **settings})
    is_masked = lambda node: isinstance(node, optax.MaskedNode)

    def update(updates, state, params=None, **extra):
        def held_out(at):
            pairs = zip(*(jax.tree.leaves(tree, is_leaf=is_masked) for tree in (at, state.anchor)), strict=True)
            gaps = [jnp.abs(x - a).astype(jnp.float32) for x, a in pairs if not is_masked(a)]
            return -sum(map(jnp.sum, gaps), start=jnp.float32(0))

        return tx.update(updates, state, params, held_out_loss=held_out, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update)


# name -> (how to build it round a base optimizer with a mask and the like, its own base optimizer)
METHODS: dict[str, tuple[Callable[..., Any], optax.GradientTransformation]] = {
    "ftp_adam": (ftp_of, ADAM),
    "ftp_lean": (functools.partial(ftp_of, memory="lean"), ADAM),
    "ftp_exact": (functools.partial(ftp_of, hypergradient="exact"), ADAM),
    "ftp_scale_free": (functools.partial(ftp_of, hyper_optimizer=scale_free(optax.adam(2.0))), ADAM),
    "digrap_adam": (digrap_chain, ADAM),
    "digrap_lean": (functools.partial(digrap_chain, memory="lean", initial_strength=0.5), ADAM),
    "spd_adam": (spd_of, ADAM),
    "pgm_adam": (pgm_of, ADAM),
    "l2_sp_adam": (l2_sp_chain, ADAM),
    "tpgm_adam": (tpgm_of, ADAM),
    "averaged_ftp": (averaged_ftp, ADAM),
    "clip_digrap_ftp_adamw": (all_chain, optax.adamw(RATE, eps=1e-4)),
}
LEARNS = tuple(m for m in METHODS if m not in ("spd_adam", "pgm_adam", "l2_sp_adam"))
# options and a chain of the others, left to the whole suite
OPTIONS = ("ftp_lean", "ftp_exact", "ftp_scale_free", "digrap_lean", "clip_digrap_ftp_adamw")
MARKED = {name: pytest.mark.slow if name in OPTIONS else () for name in METHODS}
NEEDS_FLOAT32 = ("ftp_lean",)
RECORDS = ("anchor", "displacement")  # what a state has in the shape of the params


@pytest.fixture(params=[pytest.param(name, marks=marks) for name, marks in MARKED.items()])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def build(name: str) -> Callable[..., Any]:
    """``build(base=None, **settings)``: the transform round its own base optimizer or another one."""
    make, own = METHODS[name]
    return lambda base=own, **settings: make(base, **settings)


def some_params(dtype: Any = jnp.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    return {"body": {"bias": make(8), "kernel": make(8, 16)}, "head": {"kernel": make(16, 8)}}


MASK = {"body": True, "head": False}
SPECS = {"body": {"bias": P("x"), "kernel": P("x", None)}, "head": {"kernel": P(None, "x")}}


@jax.jit
def quadratic_gradient(params: Any) -> Any:
    """The gradient of a quadratic with its minimum at 0.3 and a different curvature for every element."""
    curve = lambda x: (jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) / x.size + 0.5) * (x - 0.3)
    return jax.tree.map(lambda x: curve(x).astype(x.dtype), params)


def step_of(tx: Any) -> Callable[..., Any]:
    """``step(params, state, grads) -> (params, state)``, in the order that donation wants."""

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def train(tx: Any, params: Any, steps: int = 4, **extra: Any) -> tuple[Any, Any]:
    """A few jitted steps on the quadratic, in one scan."""

    @jax.jit
    def run(params: Any, state: Any) -> tuple[Any, Any]:
        def body(carry: Any, _: Any) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(quadratic_gradient(params), state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), length=steps)[0]

    return run(params, tx.init(params))


@functools.cache
def reference(name: str) -> tuple[Any, Any]:
    """Params and state where `train` takes a method, for what must end at the same place."""
    make, base = METHODS[name]
    return train(make(base), some_params())


def same(a: Any, b: Any) -> None:
    """Equal to within the rounding of another order of float32 sums."""
    chex.assert_trees_all_close(jax.device_get(a), jax.device_get(b), rtol=1e-4, atol=1e-5)


def moved(before: Any, after: Any) -> bool:
    """Whether every leaf is finite and has changed."""
    arrays = [[np.asarray(x, np.float64) for x in jax.tree.leaves(tree)] for tree in (before, after)]
    return all(np.isfinite(b).all() and (a != b).any() for a, b in zip(*arrays, strict=True))


# optax: arguments, compilation, trees, dtypes


def test_extra_arguments_are_accepted_and_reach_the_base_optimizer(build):
    plateau = optax.contrib.reduce_on_plateau(patience=1, factor=0.5)  # its update requires value=
    _, state = train(build(optax.chain(optax.adam(RATE), plateau)), some_params(), value=1.0, unheard_of=2)
    assert optax.tree.get(state, "scale") < 0.6


def test_is_traced_once(build):
    traces = []

    def counted(*args):
        traces.append(1)
        return step(*args)

    tx, params = build(), some_params()
    step, jitted = step_of(tx), jax.jit(counted)
    state = tx.init(params)
    for _ in range(4):
        params, state = jitted(params, state, quadratic_gradient(params))
    assert len(traces) == 1


def test_params_shaped_state_can_be_mapped_to_partition_specs(build):
    tx, params = build(), some_params()
    state = tx.init(params)
    specs = optax.tree.map_params(tx, lambda _, spec: spec, state, SPECS, transform_non_params=lambda _: P())
    for (path, spec), leaf in zip(jax.tree.leaves_with_path(specs), jax.tree.leaves(state), strict=True):
        inside = [k for k in ("bias", "kernel", "head") if k in str(path)]  # what every params-shaped path contains
        assert spec == {0: P(), 1: P("x"), 2: P(None, "x")}[len(inside)] or spec == P("x", None), path
        assert (spec == P()) == (not inside), path
        assert len(spec) <= leaf.ndim, path
    twice = optax.tree.map_params(tx, lambda x: x * 2, state, transform_non_params=lambda x: x * 2)
    chex.assert_trees_all_equal(twice, jax.tree.map(lambda x: x * 2, state))


def test_masked_state_can_be_mapped_to_partition_specs(build):
    tx, masked = build(mask=MASK), lambda x: isinstance(x, optax.MaskedNode)
    to_spec = lambda x, spec: x if masked(x) else spec
    state = tx.init(some_params())
    specs = optax.tree.map_params(tx, to_spec, state, SPECS, transform_non_params=lambda _: P(), is_leaf=masked)
    chex.assert_trees_all_equal_structs(specs, state)
    kept = {"body": SPECS["body"], "head": {"kernel": optax.MaskedNode()}}
    shaped = [v for f in RECORDS for _, v in optax.tree.get_all_with_path(specs, f) if v is not None]
    assert shaped
    assert all(one == kept for one in shaped)


def test_converges_in_a_scan(build):
    target = {"bias": jnp.array([1.0, -1.0, 1.0]), "kernel": jnp.array([[0.5, -0.5], [1.0, 2.0]])}
    losses = {
        "parabola": lambda x: jnp.sum((x - target["bias"]) ** 2),
        "rosenbrock": lambda x: (1 - x[0]) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2,
        "matrix": lambda x: jnp.sum((x - target["kernel"]) ** 2),
        "mixed": lambda x: jnp.sum((x["m"] @ x["v"] - 1.0) ** 2) + (x["s"] - 3.0) ** 2,
    }
    start = {
        "parabola": jnp.array([-1.0, 3.0, 1.0]),
        "rosenbrock": jnp.zeros(2),
        "matrix": jnp.zeros((2, 2)),
        "mixed": {"m": jnp.ones((2, 3)), "v": jnp.array([0.1, 0.2, -0.3]), "s": jnp.array(0.0)},
    }
    tx = build()

    @jax.jit
    def run(params, state):
        def body(carry, _):
            params, state = carry
            grads = jax.grad(lambda p: sum(losses[k](p[k]) for k in losses))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), length=4000)[0][0]

    end = run(start, tx.init(start))
    reached = {k: (float(losses[k](start[k])), float(losses[k](end[k]))) for k in losses}
    assert all(last < 1e-2 * first for first, last in reached.values()), reached


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_keeps_every_dtype_and_shape_through_cond(name, build, dtype):
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        tx, params = build(), some_params(dtype)
        if name in NEEDS_FLOAT32 and params["head"]["kernel"].dtype.itemsize < 4:
            with pytest.raises(TypeError, match=r"body/bias.*memory='exact'"):
                tx.init(params)
            return

        @jax.jit
        def maybe(go, state, params):
            grads = quadratic_gradient(params)
            skip = lambda *_: (jax.tree.map(jnp.zeros_like, grads), state)
            updates, state = jax.lax.cond(go, tx.update, skip, grads, state, params)
            return updates, state, optax.apply_updates(params, updates)

        state = tx.init(params)
        before = params
        for go in (True, True, False):
            updates, new, after = maybe(go, state, params)
            chex.assert_trees_all_equal_shapes_and_dtypes((updates, new, after), (params, state, params))
            params, state = after, new
        chex.assert_tree_all_finite(state)
        assert moved(before, params)
        assert jax.tree.leaves(params)[0].dtype == dtype


def test_first_of_two_accumulated_steps_is_zero_and_the_second_the_large_batch_step(build):
    params = some_params()
    grads = quadratic_gradient(params)
    first, second = (jax.tree.map(lambda g, s=s: s * np.asarray(g), grads) for s in np.float32([0.5, 1.5]))
    small, large = optax.MultiSteps(build(), every_k_schedule=2), build()
    update, state = jax.jit(small.update), small.init(params)
    reference, wanted = jax.jit(large.update), large.init(params)
    for _ in range(3):
        updates, state = update(first, state, params)
        chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
        updates, state = update(second, state, params)
        expected, wanted = reference(grads, wanted, params)
        same(updates, expected)
        params = optax.apply_updates(params, updates)
    same(state.inner_opt_state, wanted)


def test_jit_scan_loop_and_eager_agree(name, build):
    tx, params = build(), some_params()
    eager, jitted = step_of(tx), jax.jit(step_of(tx))
    ones, others = (params, tx.init(params)), (params, tx.init(params))
    for _ in range(4):
        ones, others = eager(*ones, quadratic_gradient(ones[0])), jitted(*others, quadratic_gradient(others[0]))
    same(ones, others)
    same(reference(name), others)
    chex.assert_trees_all_equal(jax.jit(tx.init)(params), tx.init(params))


def test_vmap_over_an_ensemble_is_a_loop(build):
    tx = build()
    members = [jax.tree.map(lambda x, s=s: s * np.asarray(x), some_params()) for s in np.float32([0.5, 1, 2])]
    together = jax.tree.map(lambda *xs: np.stack(xs), *members)
    state = jax.vmap(tx.init)(together)
    step = jax.jit(lambda p, s: step_of(tx)(p, s, quadratic_gradient(p)))
    stacked = jax.jit(jax.vmap(lambda p, s: step_of(tx)(p, s, quadratic_gradient(p))))
    alone = [(p, tx.init(p)) for p in members]
    for _ in range(3):
        together, state = stacked(together, state)
        alone = [step(*a) for a in alone]
    ensemble = jax.device_get((together, state))
    for i, member in enumerate(alone):
        same(jax.tree.map(lambda x, i=i: x[i], ensemble), member)


def test_none_leaves_stay_in_place(name, build):
    params = some_params()
    holes = {**params, "frozen": None, "body": {**params["body"], "norm": None}}
    with_holes, _ = train(build(), holes)
    assert with_holes["frozen"] is None
    assert with_holes["body"]["norm"] is None
    same(jax.tree.leaves(with_holes), jax.tree.leaves(reference(name)[0]))


def test_a_tree_without_leaves_is_fine(build):
    params, state = train(build(), {})
    assert params == {}
    chex.assert_tree_all_finite(state)


# optax: schedules, injected hyper-parameters, wrappers


def learned(state: Any) -> list[jax.Array]:
    """All radii and strengths."""
    fields = ("radii", "strengths")
    is_field = lambda path: getattr(path[-1], "name", None) in fields
    return [leaf for path, leaf in jax.tree.leaves_with_path(state) if is_field(path)]


def test_hyper_optimizer_takes_a_schedule(name, build):
    if name not in LEARNS:
        with pytest.raises(TypeError, match="hyper_optimizer"):
            build(hyper_optimizer=optax.sgd(1.0))
        return
    rate = optax.piecewise_constant_schedule(1.0, {6: 0.0})
    tx, params = build(hyper_optimizer=optax.sgd(rate)), some_params()
    step, state, rng = jax.jit(step_of(tx)), tx.init(params), np.random.default_rng(3)
    seen = [learned(state)]
    for _ in range(9):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
        params, state = step(params, state, grads)
        seen.append(learned(state))
    for scalars in zip(*seen, strict=True):
        assert not np.array_equal(scalars[0], scalars[6])
        # once the rate is 0 nothing but its cap, the largest norm, can change a radius: that lowers it
        assert (scalars[7] <= scalars[6]).all()
        assert (scalars[9] <= scalars[7]).all()


STATIC = ("unit_axes", "layer_axes", "mask")
INJECTED = {
    "ftp": (functools.partial(ftp, optax.adam(RATE)), {"kappa": 0.5, "initial_radius": 0.02}),
    "ftp_lean": (functools.partial(ftp, optax.adam(RATE), memory="lean"), {"kappa": 0.5, "initial_radius": 0.02}),
    "digrap": (digrap, {"max_strength": 0.25}),
}


@pytest.mark.parametrize("case", INJECTED)
def test_injected_hyper_parameters_give_the_same_result(case):
    factory, settings = INJECTED[case]
    plain, injected = factory(**settings), optax.inject_hyperparams(factory, static_args=STATIC)(**settings)
    expected, _ = train(plain, some_params())
    actual, state = train(injected, some_params())
    same(actual, expected)
    assert set(settings) <= set(state.hyperparams)


@pytest.mark.parametrize(
    ("case", "setting", "values"), [("ftp", "kappa", (1.0, 0.0)), ("digrap", "max_strength", (1.0, 0.1))]
)
def test_injected_hyper_parameters_are_read_at_every_step(case, setting, values):
    factory, _ = INJECTED[case]
    hyper = {"hyper_optimizer": optax.sgd(3.0)}
    injected = lambda value: optax.inject_hyperparams(factory, static_args=STATIC)(**hyper, **{setting: value})
    constant, scheduled = injected(values[0]), injected(lambda count: jnp.where(count < 2, *values))

    update = jax.jit(lambda tx, *args: tx.update(*args), static_argnums=0)

    def run(tx, switch_at=None):
        params = some_params()
        state = tx.init(params)
        for i in range(6):
            if i == switch_at:
                state.hyperparams[setting] = jnp.asarray(values[1], jnp.float32)
            # a large step out, then gradients that pull back and push on in turn
            grads = jax.tree.map(lambda x, i=i: jnp.full_like(x, 0.1 * (-1) ** i if i else -1.0), params)
            updates, state = update(tx, grads, state, params)
            params = optax.apply_updates(params, updates if case == "ftp" else grads)
        return learned(state)

    by_hand, by_schedule, never = run(constant, 2), run(scheduled), run(constant)
    same(by_hand, by_schedule)
    assert not np.allclose(by_hand[0], never[0])


def test_a_step_with_nan_gradients_is_skipped(build):
    params = some_params()
    tx = optax.apply_if_finite(build(), max_consecutive_errors=3)
    step, state = jax.jit(step_of(tx)), tx.init(params)
    params, state = step(params, state, quadratic_gradient(params))
    poisoned = quadratic_gradient(params)
    poisoned["body"]["kernel"] = poisoned["body"]["kernel"].at[0, 0].set(jnp.nan)
    after, new = step(params, state, poisoned)
    chex.assert_trees_all_equal((after, new.inner_state), (params, state.inner_state))
    assert new.total_notfinite == 1
    later, _ = step(after, new, quadratic_gradient(after))
    assert moved(params["head"], later["head"])


def test_partition_gives_every_group_its_own_settings(build):
    params, slow = some_params(), optax.sgd(0.01)
    inside = {"bias": False, "kernel": True}
    body, _ = train(build(mask=inside), params["body"])
    head, _ = train(build(slow), params["head"])
    by_leaf = {"body": {"bias": "a", "kernel": "a"}, "head": {"kernel": "b"}}
    groups = {"a": build(mask={"body": inside, "head": False}), "b": build(slow)}
    same(train(optax.partition(groups, by_leaf), params)[0], {"body": body, "head": head})
    # labels for whole subtrees, and a mask made of what the group sees
    groups["a"] = build(mask=lambda seen: jax.tree.map(lambda x: x.ndim > 1, seen))
    same(train(optax.partition(groups, {"body": "a", "head": "b"}), params)[0], {"body": body, "head": head})


def test_masked_outside_passes_raw_gradients_of_the_other_leaves(build):
    params = some_params()
    tx, alone = optax.masked(build(), MASK), build()
    grads = quadratic_gradient(params)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    chex.assert_trees_all_equal(updates["head"], grads["head"])
    updates, _ = jax.jit(tx.update)(grads, state, params)
    first, own = alone.update(grads["body"], alone.init(params["body"]), params["body"])
    second, _ = alone.update(grads["body"], own, params["body"])
    same(updates["body"], second)
    assert moved(first, second)


# base optimizers

RELEASED = optax.GradientTransformation(  # a hyper-optimizer that opens every ball as far as its cap
    lambda _: optax.EmptyState(), lambda g, s, p=None: (jnp.full_like(g, 1e6), s)
)
BASES = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "adam": optax.adam(RATE),
    "adamw": optax.adamw(RATE, weight_decay=0.1),
    "lion": optax.lion(RATE),
    "lamb": optax.lamb(RATE, weight_decay=0.1),
    "muon": optax.contrib.muon(RATE),
    "prodigy": optax.contrib.prodigy(RATE),
    "scheduled_clip_adam": optax.chain(optax.clip(0.5), optax.adam(optax.cosine_decay_schedule(RATE, 10))),
}


SOME_BASES = ("adamw", "muon", "prodigy")  # enough for what a base optimizer can hardly notice


@functools.cache
def alone(base: str) -> tuple[Any, Any]:
    return train(BASES[base], some_params())


@pytest.mark.parametrize(("base", "memory"), [*((b, "exact") for b in BASES), *((b, "lean") for b in SOME_BASES)])
def test_a_ball_without_bounds_leaves_every_base_optimizer_as_it_is(base, memory):
    params = some_params()
    actual, state = train(ftp(BASES[base], hyper_optimizer=RELEASED, memory=memory), params)
    assert moved(params, actual)
    same((actual, state.inner_state), alone(base))


@pytest.mark.parametrize("base", SOME_BASES)
def test_digrap_without_strength_leaves_every_base_optimizer_as_it_is(base):
    actual, state = train(optax.chain(digrap(hyper_optimizer=optax.sgd(0.0)), BASES[base]), some_params())
    same((actual, state[1]), alone(base))


# JAX: derivatives, checks, strict types


def first_gradients(name: str, params: Any) -> list[Any]:
    """A gradient of 0, where every sum that a method divides by is 0, and two that are not."""
    grads = quadratic_gradient(params)
    clips = name.startswith("clip")  # optax divides by the norm
    return [grads if clips else jax.tree.map(jnp.zeros_like, grads), grads, grads]


def test_debug_nans_finds_nothing(name, build):
    """Step by step, where every operation is looked at; under jit, checkify looks at every one below."""
    tx, params = build(), some_params()
    step, state = step_of(tx), tx.init(params)
    with jax.debug_nans(True):
        for grads in first_gradients(name, params):
            params, state = step(params, state, grads)
    chex.assert_tree_all_finite(params)


@pytest.mark.slow
def test_checkify_finds_nothing(name, build):
    """Not what is masked away afterwards either: a division by zero, a place past the end of an array."""
    tx, params = build(), some_params()
    checked = jax.jit(checkify.checkify(step_of(tx), errors=checkify.float_checks | checkify.index_checks))
    state = tx.init(params)
    for grads in first_gradients(name, params):
        error, (params, state) = checked(params, state, grads)
        error.throw()


SMOOTH_HYPER = optax.adam(0.1, eps_root=1e-8)  # without it the first step has the infinite slope of a root at 0
SETTINGS = {  # the number that a method is built with, and where it is neither at a bound nor without effect
    "ftp": {"initial_radius": 0.3, "kappa": 0.7},
    "digrap": {"initial_strength": 0.3},
    "spd": {"strength": 0.5},
    "pgm": {"radius": 0.4},
    "l2": {"strength": 0.1},
    "tpgm": {},
}
DIFFERENTIATED = {
    **METHODS,
    "ftp_scale_free": (
        functools.partial(ftp_of, hyper_optimizer=scale_free(optax.adam(2.0, eps_root=1e-8))),
        ADAM,
    ),
    "pgm_l2": (functools.partial(pgm_of, norm="l2"), ADAM),
    "tpgm_l2": (functools.partial(tpgm_of, norm="l2"), ADAM),
}
# chains and wrappers have no rule; lean memory takes no anchor; one case takes the params' own for one
ALONE = [name for name in DIFFERENTIATED if not name.startswith(("averaged", "clip"))]
ANCHORED = [*((name, name == "ftp_lean") for name in ALONE), ("ftp_adam", True)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own_anchor"), ANCHORED)
def test_derivatives_through_steps_agree_with_finite_differences(name, own_anchor):
    """By the learning rate, the method's numbers, the parameters and the anchor; forwards and backwards."""
    make, _ = DIFFERENTIATED[name]
    rng = np.random.default_rng(5)
    tree = lambda: {"bias": jnp.asarray(rng.normal(size=3)), "kernel": jnp.asarray(rng.normal(size=(12, 3)))}
    learns = name.startswith(LEARNS) and name != "ftp_scale_free"
    fixed = {"hyper_optimizer": SMOOTH_HYPER} if learns else {}

    def loss(inputs: Any) -> jax.Array:
        anchor = {} if own_anchor else {"anchor": inputs["anchor"]}
        tx = make(optax.adam(inputs["rate"], eps=1e-4), **fixed, **inputs["numbers"], **anchor)
        params, step = inputs["params"], step_of(tx)
        state = tx.init(params)
        for sign in (1, 1, -1):  # not scanned: in a scan every tangent is there
            grads = jax.tree.map(lambda g, sign=sign: sign * g, quadratic_gradient(params))
            params, state = step(params, state, grads)
        return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(params))

    with jax.enable_x64(True):
        params = tree()
        anchor = jax.tree.map(lambda x, y: x + 0.02 * y, params, tree())
        numbers = {key: jnp.asarray(value) for key, value in SETTINGS[name.split("_")[0]].items()}
        inputs = {"rate": jnp.asarray(RATE), "numbers": numbers, "params": params, "anchor": anchor}
        whole = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), inputs)
        zeros = jax.tree.map(jnp.zeros_like, inputs)
        parts = [{**zeros, key: whole[key]} for key in inputs if inputs[key]]
        tangents = jax.tree.map(lambda *xs: jnp.stack(xs), *parts)

        @jax.jit
        def derivatives(tangents: Any) -> tuple[jax.Array, ...]:
            at = lambda size: jax.tree.map(lambda x, t: x + size * t, inputs, tangents)
            backwards = jax.grad(loss)(inputs)
            products = jax.tree.map(lambda g, t: jnp.sum(g * t, axis=range(1, t.ndim)), backwards, tangents)
            forwards = jax.vmap(lambda t: jax.jvp(loss, (inputs,), (t,))[1])(tangents)
            ends = jax.vmap(loss)(jax.tree.map(lambda *xs: jnp.concatenate(xs), at(1e-5), at(-1e-5)))
            differences = (ends[: len(parts)] - ends[len(parts) :]) / 2e-5
            return sum(jax.tree.leaves(products)), forwards, differences

        backwards, forwards, differences = derivatives(tangents)
    np.testing.assert_allclose(forwards, differences, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(backwards, differences, rtol=1e-5, atol=1e-7)
    assert np.abs(differences[: len(parts) - own_anchor]).min() > 1e-6, "each of them tells"


DTYPES = ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=marks)
        for name, marks in MARKED.items()
        for dtype in DTYPES[: 1 if name in NEEDS_FLOAT32 else 2]
    ],
)
def test_dtypes_are_converted_by_name(build, name, dtype):
    plain = optax.sgd(RATE, momentum=0.9)  # optax' Adam converts its count implicitly
    settings = {"hyper_optimizer": scale_free(plain) if "scale_free" in name else plain} if name in LEARNS else {}
    tx = build(plain, **settings)
    params = some_params(dtype)
    grads = quadratic_gradient(params)
    with jax.numpy_dtype_promotion("strict"):
        state = tx.init(params)
        for step in (step_of(tx), functools.partial(jax.eval_shape, step_of(tx))):  # traced, as under jit
            after, _ = step(params, state, grads)
            chex.assert_trees_all_equal_shapes_and_dtypes(after, params)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_refused_with_the_leafs_name(build, dtype):
    params = some_params()
    params["body"]["kernel"] = params["body"]["kernel"].astype(dtype)
    with pytest.raises(TypeError, match=rf"'body/kernel'.*{dtype}.*mask="):
        build(optax.sgd(RATE)).init(params)
    build(optax.sgd(RATE), mask={"body": {"bias": True, "kernel": False}, "head": True}).init(params)


# memory: donation and meshes


def test_all_donated_buffers_are_reused(build):
    tx, params = build(), some_params()
    state, grads = tx.init(params), quadratic_gradient(params)
    step = jax.jit(step_of(tx), donate_argnums=(0, 1))
    memory = step.lower(params, state, grads).compile().memory_analysis()
    size = sum(x.nbytes for x in jax.tree.leaves((params, state)))
    assert memory.alias_size_in_bytes == size
    for _ in range(3):  # twice the same buffer would raise, a buffer that cannot be reused would warn
        old = jax.tree.leaves((params, state))
        params, state = step(params, state, grads)
        assert all(x.is_deleted() for x in old)


def placed(tree: Any, mesh: Any, specs: Any) -> Any:
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


@pytest.mark.slow
def test_shardings_are_part_of_stable_types_on_an_explicit_mesh(name, build):
    mesh, tx = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,)), build()
    with jax.set_mesh(mesh):
        params = placed(some_params(), mesh, SPECS)
        types = jax.tree.map(jax.typeof, (params, tx.init(params)))
        end = train(tx, params)
        assert jax.tree.map(jax.typeof, end) == types
    same(end, reference(name))


@pytest.mark.slow
def test_sharded_params_on_a_mesh_give_the_result_of_one_device(name, build):
    mesh, tx = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)), build()
    params, state = train(tx, placed(some_params(), mesh, SPECS))
    same((params, state), reference(name))
    is_spec = lambda s: isinstance(s, P)
    for leaf, spec in zip(jax.tree.leaves(params), jax.tree.leaves(SPECS, is_leaf=is_spec), strict=True):
        assert leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)


def test_init_keeps_the_shardings_of_the_params(build):
    mesh, tx = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)), build()
    params = placed(some_params(), mesh, SPECS)
    for path, leaf in jax.tree.leaves_with_path(tx.init(params)):
        if "head" in jax.tree_util.keystr(path):
            assert leaf.sharding.is_equivalent_to(params["head"]["kernel"].sharding, leaf.ndim), path


# model libraries


class Net(nnx.Module):
    def __init__(self, shard: bool = False):
        init = nnx.initializers.lecun_normal()
        self.body = nnx.Linear(
            8, 16, kernel_init=nnx.with_partitioning(init, (None, "x")) if shard else init, rngs=nnx.Rngs(0)
        )
        self.head = nnx.Linear(16, 8, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jnp.tanh(self.body(x)))


X = jnp.asarray(np.random.default_rng(1).standard_normal((4, 8)), jnp.float32)


def loss_of(model: Callable[..., Any]) -> jax.Array:
    return jnp.mean((model(X) - 1.0) ** 2)


def nnx_step(model: nnx.Module, optimizer: nnx.Optimizer) -> jax.Array:
    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def train_nnx(tx: Any, jitted: bool, shard: bool = False) -> tuple[Any, Any]:
    model = Net(shard)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx.jit(nnx_step) if jitted else nnx_step
    losses = [float(step(model, optimizer)) for _ in range(4)]
    assert losses[-1] < losses[0]
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), optimizer.opt_state


@functools.cache
def train_pure(name: str) -> Any:
    """The same as `train_nnx` on a plain dict of arrays, the head unconstrained."""
    make, base = METHODS[name]
    tx = make(base, mask=MASK)
    graph, state = nnx.split(Net())
    params = nnx.to_pure_dict(state)

    def loss(params: Any) -> jax.Array:
        nnx.replace_by_pure_dict(state, params)
        return loss_of(nnx.merge(graph, state))

    step, opt_state = jax.jit(lambda p, s: step_of(tx)(p, s, jax.grad(loss)(p))), tx.init(params)
    for _ in range(4):
        params, opt_state = step(params, opt_state)
    return params


def test_nnx_optimizer_gives_what_a_plain_dict_gives(name, build):
    same(train_nnx(build(mask=MASK), jitted=True)[0], train_pure(name))


NNX_MASKS = {
    "callable": lambda params: nnx.map_state(lambda path, _: path[0] == "body", params),
    "by_name": lambda params: jax.tree.map_with_path(lambda path, _: "body" in str(path[0]), params),
    "full_dict": {"body": {"bias": True, "kernel": True}, "head": {"bias": False, "kernel": False}},
}


@pytest.mark.parametrize("mask", NNX_MASKS)
@pytest.mark.parametrize("name", ["clip_digrap_ftp_adamw"])  # every method reads masks, and NNX's trees, in one way
def test_nnx_masks(name, build, mask):
    same(train_nnx(build(mask=NNX_MASKS[mask]), jitted=mask == "callable")[0], train_pure(name))


@pytest.mark.parametrize("name", ["ftp_lean", "clip_digrap_ftp_adamw"])
def test_nnx_sharded_params(name, build):
    with jax.set_mesh(jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))):
        actual, _ = train_nnx(build(mask=MASK), jitted=True, shard=True)
    same(actual, train_pure(name))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(8, name="head")(jnp.tanh(nn.Dense(16, name="body")(x)))


def test_linen_train_state(build):
    model = LinenNet()
    params = model.init(jax.random.key(0), X)["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=build(mask=MASK))

    @jax.jit
    def step(state):
        loss, grads = jax.value_and_grad(lambda p: loss_of(lambda x: state.apply_fn({"params": p}, x)))(state.params)
        return state.apply_gradients(grads=grads), loss

    losses = []
    for _ in range(4):
        state, loss = step(state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert moved(params, state.params)


def test_equinox_filter_jit(build):
    model = eqx.nn.MLP(8, 8, 16, depth=1, key=jax.random.key(0))  # its activation is a leaf that is no array
    tx = build(mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        loss, grads = eqx.filter_value_and_grad(lambda m: loss_of(jax.vmap(m)))(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, loss

    losses, start = [], model
    for _ in range(4):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert moved(eqx.filter(start, eqx.is_array), eqx.filter(model, eqx.is_array))
