"""What goes wrong in real runs, and what each method does then. docs/reliability.md says the same in words.

Every method runs the same few steps twice, once with a fault. What the fault did not hit must not notice.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import count
from sklearn.datasets import load_digits

from ftp_optax import add_decayed_anchor, digrap, flax_units, ftp, pgm, radii, scale_free, spd, tpgm

BASE = optax.adam(0.05)
HYPER = optax.adam(0.1)


def held_out(params):
    """A held-out loss that wants to be elsewhere."""
    return sum(jnp.sum((leaf.astype(jnp.float32) - 0.7) ** 2) for leaf in jax.tree.leaves(params))


def with_held_out(tx):
    """TPGM with the one extra argument that it cannot do without."""
    update = lambda g, s, p=None, **extra: tx.update(g, s, p, held_out_loss=held_out, **extra)
    return optax.GradientTransformationExtraArgs(tx.init, update)


METHODS = {
    "ftp": lambda base=BASE: ftp(base, hyper_optimizer=HYPER),
    "ftp_exact": lambda base=BASE: ftp(base, hyper_optimizer=HYPER, hypergradient="exact"),
    "ftp_lean": lambda base=BASE: ftp(base, hyper_optimizer=HYPER, memory="lean"),
    "digrap": lambda base=BASE: optax.chain(digrap(), base),
    "digrap+ftp": lambda base=BASE: optax.chain(digrap(), ftp(base, hyper_optimizer=HYPER)),
    "tpgm": lambda base=BASE: with_held_out(tpgm(base, hyper_optimizer=HYPER)),
    "tpgm_l2": lambda base=BASE: with_held_out(tpgm(base, hyper_optimizer=HYPER, norm="l2")),
    "spd": lambda base=BASE: spd(base, strength=1.0),
    "pgm": lambda base=BASE: pgm(base, radius=0.2),
    "pgm_l2": lambda base=BASE: pgm(base, radius=0.2, norm="l2"),
    "l2_sp": lambda base=BASE: optax.chain(add_decayed_anchor(0.1), base),
}
STEPS = 6
LEARNS_RADII = [name for name in METHODS if "ftp" in name or "tpgm" in name]
# TPGM's held-out loss is of all leaves, so that nothing there is only one leaf's.
SEPARATE = [name for name in METHODS if "tpgm" not in name]


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


def start():
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"body": {"bias": make(4), "kernel": make(3, 4)}, "head": {"kernel": make(4, 2)}}


def gradients(params, step):
    """Of a loss that leads away from the start and wavers."""
    curve = lambda x: jnp.cos(3 * x) + 0.5 * jnp.sin(5.0 * step + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape))
    return jax.tree.map(curve, params)


BASES = {
    "adam": BASE,
    "sgd": optax.sgd(0.1),
    "late": optax.adam(lambda count: jnp.where(count < 3, 0.0, 0.05)),
}


@functools.cache
def compiled(name, base="adam", if_finite=False):
    """A method and its jitted step, shared by all tests: what a fault changes is data."""
    tx = METHODS[name](BASES[base])
    tx = optax.apply_if_finite(tx, max_consecutive_errors=2) if if_finite else tx

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return tx, step


def no_fault(step, grads, params):
    del step
    return grads, params


def run(name, fault=no_fault, steps=range(STEPS), *, first=None, **settings):
    """Parameters and state after every step; the fault changes gradients or parameters before one."""
    if fault is not no_fault:
        count("faults injected")
    tx, step_fn = compiled(name, **settings)
    params = start() if first is None else first
    state, after = tx.init(params), []
    for step in steps:
        grads, params = fault(step, gradients(params, step), params)
        params, state = step_fn(params, state, grads)
        after.append((params, state))
    return after


KERNEL = 1  # what every fault here hits: of the leaves in order the second


def others(tree):
    """What a fault in the kernel of the body does not hit."""
    return {"body": {"bias": tree["body"]["bias"]}, "head": tree["head"]}


def with_kernel(tree, value):
    return {**tree, "body": {**tree["body"], "kernel": value}}


def hit(tree, value):
    """One element of the kernel."""
    return with_kernel(tree, tree["body"]["kernel"].at[1, 2].set(value))


def scalars(state):
    """All radii and strengths."""
    return [v for key in ("radii", "strengths") for _, v in optax.tree.get_all_with_path(state, key)]


def assert_inside(params, state, anchor):
    """Every unit of the kernel within its radius of the anchor, but for the rounding of float32."""
    value, radius = np.asarray(params["body"]["kernel"]), radii(state, params)["body/kernel"]
    radius = max(radius, 0)  # TPGM's is bounded when it is used, and a step of its optimizer may have it below 0
    norms = np.abs(value - np.asarray(anchor["body"]["kernel"])).sum(axis=0)
    assert flax_units("body/kernel", value.shape) == (1,)
    assert norms.max() <= radius * (1 + 1e-5) + 3 * 1e-6


# gradients


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("name", SEPARATE)
def test_a_non_finite_gradient_spoils_its_own_leaf_alone(name, bad):
    clean = run(name)
    for at in range(STEPS - 1):
        spoilt = run(name, lambda step, grads, params, at=at: (hit(grads, bad) if step == at else grads, params))
        for (params, state), (wanted, wanted_state) in zip(spoilt, clean, strict=True):
            chex.assert_trees_all_equal(others(params), others(wanted))
            for found, expected in zip(scalars(state), scalars(wanted_state), strict=True):
                assert np.isfinite(found).all()
                np.testing.assert_array_equal(np.delete(found, KERNEL), np.delete(expected, KERNEL))
        assert not np.isfinite(spoilt[-1][0]["body"]["kernel"]).all(), "a poisoned leaf is seen, not patched up"


@pytest.mark.parametrize("name", ["tpgm", "tpgm_l2"])
def test_a_non_finite_gradient_stops_the_radii_of_tpgm(name):
    """Its held-out loss is of all leaves and now NaN: no radius learns any more, and none is lost."""
    for params, state in run(name, lambda step, grads, params: (hit(grads, jnp.nan) if step == 2 else grads, params)):
        chex.assert_tree_all_finite((others(params), scalars(state)))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_under_apply_if_finite_a_step_with_a_non_finite_gradient_never_was(name, bad):
    for at in range(STEPS - 1):
        spoilt = run(name, lambda step, g, p, at=at: (hit(g, bad) if step == at else g, p), if_finite=True)
        clean = run(name, steps=[step for step in range(STEPS) if step != at], if_finite=True)
        chex.assert_trees_all_equal(spoilt[-1][0], clean[-1][0])
        chex.assert_trees_all_equal(spoilt[-1][1].inner_state, clean[-1][1].inner_state)
        assert spoilt[-1][1].total_notfinite == 1


def test_a_gradient_of_exactly_zero_moves_nothing_by_itself(name):
    """Not from the anchor; and later only what the methods do to parameters that are elsewhere."""
    zero = lambda grads: jax.tree.map(jnp.zeros_like, grads)
    first = run(name, lambda step, grads, params: (zero(grads), params), base="sgd")
    chex.assert_trees_all_equal(first[-1][0], start())
    late = run(name, lambda step, grads, params: (grads if step < 3 else zero(grads), params), base="sgd")
    chex.assert_tree_all_finite(late)
    if name in ("digrap", "spd"):  # neither projects nor pulls without a gradient
        chex.assert_trees_all_equal(late[-1][0], late[2][0])
    if name in LEARNS_RADII and "tpgm" not in name:  # a zero hyper-gradient: the last momentum of the radii, no more
        assert all((np.asarray(found) >= 0.99e-8).all() for found in scalars(late[-1][1])[:1])


# hyper-optimizers that are undefined at a hyper-gradient of zero, as the first one is, and scalars that are lost

UNDEFINED_AT_ZERO = {
    "prodigy": optax.contrib.prodigy(),
    "dadapt_adamw": optax.contrib.dadapt_adamw(),
    "normalize": optax.chain(optax.contrib.normalize(), optax.sgd(0.01)),
}
LEARNING = {
    "ftp": ftp,
    "ftp_exact": functools.partial(ftp, hypergradient="exact"),
    "ftp_lean": functools.partial(ftp, memory="lean"),
    "ftp_lean_exact": functools.partial(ftp, memory="lean", hypergradient="exact"),
    "tpgm": lambda base, **settings: with_held_out(tpgm(base, **settings)),
    "tpgm_l2": lambda base, **settings: with_held_out(tpgm(base, norm="l2", **settings)),
    "digrap": lambda base, **settings: optax.chain(digrap(**settings), base),
}


def pushed(tx, state, steps):
    """Parameters and state after every step of a push in one direction, from ones."""
    params, after, update = {"kernel": jnp.ones((4, 3))}, [], jax.jit(tx.update)
    grads = {"kernel": jnp.full((4, 3), -1.0)}
    for _ in range(steps):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        after.append((params, state))
    return after


def moved_by(params):
    return float(jnp.abs(params["kernel"] - 1).max())


OF_FTP = [method for method in LEARNING if "ftp" in method]


# every method has prodigy; what becomes of an undefined step is written once, so that one method has the others
UNDEFINED = [
    *((method, scaled, "prodigy") for method in LEARNING for scaled in (False, True)[: 1 + (method in OF_FTP)]),
    *(("ftp", scaled, hyper) for scaled in (False, True) for hyper in UNDEFINED_AT_ZERO if hyper != "prodigy"),
]


@pytest.mark.parametrize(("method", "scaled", "hyper"), UNDEFINED)
def test_a_hyper_step_that_is_undefined_frees_nothing(method, scaled, hyper):
    hyper_optimizer = UNDEFINED_AT_ZERO[hyper]
    hyper_optimizer = scale_free(hyper_optimizer) if scaled else hyper_optimizer
    tx = LEARNING[method](BASE, hyper_optimizer=hyper_optimizer)
    after = pushed(tx, tx.init({"kernel": jnp.ones((4, 3))}), 20)
    for params, state in after:
        (learned,) = scalars(state)
        chex.assert_tree_all_finite((params, learned))
        if method == "digrap":
            assert 0 <= learned.min() <= learned.max() <= 1
        elif method in OF_FTP:
            assert learned.min() >= 0.99e-8
            assert 4 * moved_by(params) <= learned.max() * (1 + 1e-5) + 4e-6, "every unit lies in its ball"
    if method in OF_FTP:
        assert scalars(after[-1][1])[0].min() > 2e-8, "learns once its hyper-gradient is not zero"


@pytest.mark.parametrize("method", OF_FTP)
def test_ftp_holds_back_under_a_hyper_optimizer_that_is_undefined_at_zero(method):
    tx = LEARNING[method](BASE, hyper_optimizer=optax.contrib.prodigy())
    (params, _) = pushed(tx, tx.init({"kernel": jnp.ones((4, 3))}), 20)[-1]
    (free, _) = pushed(BASE, BASE.init({"kernel": jnp.ones((4, 3))}), 20)[-1]
    assert moved_by(free) > 0.99
    assert moved_by(params) < 0.05


@pytest.mark.parametrize("method", LEARNING)
def test_a_scalar_that_is_lost_counts_as_the_smallest(method):
    """As in a broken checkpoint: a radius as 1e-8, a strength as 0, and it learns on from there."""
    tx = LEARNING[method](BASE, hyper_optimizer=HYPER)
    before, state = pushed(tx, tx.init({"kernel": jnp.ones((4, 3))}), 5)[-1]
    is_scalar = lambda path: getattr(path[-1], "name", None) in ("radii", "strengths")
    grads, update = {"kernel": jnp.full((4, 3), -1.0)}, jax.jit(tx.update)
    for lost in (jnp.nan, jnp.inf, -jnp.inf):
        params = before
        broken = jax.tree.map_with_path(
            lambda path, x, lost=lost: jnp.full_like(x, lost) if is_scalar(path) else x, state
        )
        for step in range(3):
            updates, broken = update(grads, broken, params)
            stayed, params = params, optax.apply_updates(params, updates)
            (learned,) = scalars(broken)
            chex.assert_tree_all_finite((params, learned))
            if method in ("ftp", "ftp_exact"):
                assert 4 * moved_by(params) <= learned.max() * (1 + 1e-5) + 4e-6
                assert step or learned.max() < 0.2, "a step of 0.1 from 1e-8"
            elif "lean" in method and not step:  # it keeps no anchor: held where it is
                assert np.abs(params["kernel"] - stayed["kernel"]).max() < 0.05 + 1e-6
            elif method == "digrap":
                assert 0 <= learned.min() <= learned.max() <= 1


# displacements


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1e-20, 1e10, 1e18, 1e20, 1e30])
def test_a_displacement_of_any_size_stays_finite(name, size):
    """From nothing, over denormal numbers, to where the square leaves float32."""
    sign = jnp.where(jnp.arange(12).reshape(3, 4) % 2 == 0, 1.0, -1.0)
    anchor = with_kernel(start(), jnp.zeros((3, 4)))
    far = (sign * np.float64(size)).astype(jnp.float32)
    thrown = lambda step, grads, params: (grads, with_kernel(params, far) if step == 2 else params)
    after = run(name, thrown, first=anchor)
    # the base optimizer's own moments may overflow: L2-SP hands it a gradient as large as the displacement
    chex.assert_tree_all_finite([(params, scalars(state)) for params, state in after])
    if name in SEPARATE:
        for (params, _), (wanted, _) in zip(after, run(name, first=anchor), strict=True):
            chex.assert_trees_all_equal(others(params), others(wanted))
    if name in ("ftp", "ftp_exact", "digrap+ftp", "tpgm"):
        assert_inside(*after[-1], anchor)


# loss scales


def digits():
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images[:256] / 16, jnp.float16), jnp.asarray(labels[:256])


@pytest.mark.parametrize("name", ["ftp", "digrap+ftp", "spd", "pgm"])
def test_a_loss_scale_that_overflows_float16_costs_its_steps_and_no_more(name):
    """Dynamic loss scaling from far too high: the steps that overflow are skipped whole, then the run learns."""
    images, labels = digits()
    base = optax.adam(0.02, eps=1e-4)  # float16 has no 1e-8
    tx = pgm(base, radius=5.0) if name == "pgm" else METHODS[name](base)
    tx = optax.apply_if_finite(tx, max_consecutive_errors=50)
    params = {"kernel": jnp.zeros((64, 10), jnp.float16), "bias": jnp.zeros(10, jnp.float16)}

    @jax.jit
    def step(params, state, scale):
        def loss(params):
            logits = (images @ params["kernel"] + params["bias"]).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        grads = jax.grad(lambda p: (scale * loss(p)).astype(jnp.float16))(params)
        grads = jax.tree.map(lambda g: (g.astype(jnp.float32) / scale).astype(g.dtype), grads)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss(params)

    state, scale, losses = tx.init(params), jnp.float32(2.0**24), []
    for _ in range(40):
        before = params, state.inner_state
        params, state, loss = step(params, state, scale)
        losses.append(float(loss))
        if not state.last_finite:
            chex.assert_trees_all_equal((params, state.inner_state), before)
            scale = scale / 2
    assert 1 < int(state.total_notfinite) < 20
    assert losses[-1] < 0.85 * losses[0]

    held = params
    for _ in range(3):  # so low that every gradient underflows to zero
        params, state, _ = step(params, state, jnp.float32(2.0**-40))
        assert state.last_finite
    chex.assert_tree_all_finite((params, state))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (held, params)), strict=True)) < 0.5


# parameters and learning rates


@pytest.mark.parametrize("edit", ["weights loaded", "average swapped in"])
def test_parameters_edited_between_steps_stay_bound_to_the_old_anchor(name, edit):
    """Without `reanchor` the ball is where it was: what lies outside comes back, the other leaves do not notice."""
    loaded = jnp.full((3, 4), 5.0)
    average = lambda params: (params["body"]["kernel"] + start()["body"]["kernel"]) / 2
    new = lambda params: loaded if edit == "weights loaded" else average(params)
    after = run(name, lambda step, g, params: (g, with_kernel(params, new(params)) if step == 3 else params))
    chex.assert_tree_all_finite(after)
    if name in SEPARATE:
        for (params, _), (wanted, _) in zip(after, run(name), strict=True):
            # the gradient of an edited leaf is another one, those of the others are what they were
            chex.assert_trees_all_equal(others(params), others(wanted))
    if name in ("ftp", "ftp_exact", "digrap+ftp"):
        assert_inside(*after[-1], start())
    if name == "ftp_lean" and edit == "weights loaded":  # has no anchor to hold to: it moves along
        assert np.abs(after[-1][0]["body"]["kernel"] - 5).max() < 0.5


@pytest.mark.parametrize("name", SEPARATE)
def test_a_leaf_that_is_frozen_and_thawed_goes_on_from_where_it_stood(name):
    frozen = {}

    def freeze(step, grads, params):
        if step == 2:
            frozen["kernel"] = params["body"]["kernel"]
        if 2 <= step < 5:  # as trainers do: no gradient, and whatever the optimizer did is undone
            return with_kernel(grads, jnp.zeros((3, 4))), with_kernel(params, frozen["kernel"])
        return grads, params

    after = run(name, freeze, steps=range(8))
    for (params, state), (wanted, _) in zip(after, run(name, steps=range(8)), strict=True):
        chex.assert_tree_all_finite((params, state))
        chex.assert_trees_all_equal(others(params), others(wanted))
    moved = np.abs(after[-1][0]["body"]["kernel"] - frozen["kernel"]).max()
    assert 0 < moved < 1


def test_a_learning_rate_of_zero_moves_nothing_and_spoils_nothing(name):
    """Three steps at rate 0, then training: as if the first steps had only warmed up the moments."""
    after = run(name, base="late", steps=range(10))
    chex.assert_trees_all_equal(after[2][0], start())
    chex.assert_tree_all_finite(after)
    if name in LEARNS_RADII and name != "ftp_lean":
        assert max(np.asarray(found).max() for found in scalars(after[2][1])[:1]) <= 1.01e-8 or "tpgm" in name
    assert np.abs(after[-1][0]["body"]["kernel"] - start()["body"]["kernel"]).max() > 1e-3


# base optimizers that keep a point of their own; the cookbook has what to do about each


@pytest.mark.parametrize("name", ["ftp", "ftp_lean", "tpgm", "pgm"])
@pytest.mark.parametrize("wrap", [lambda base: base, lambda base: optax.chain(optax.clip(1.0), base)])
def test_schedule_free_inside_a_projection_is_refused(name, wrap):
    """What it evaluates is an average that no projection sees: in a ball of 1, it went as far as 254."""
    with pytest.raises(ValueError, match=r"schedule_free.*Put it outside: schedule_free\(ftp\(..., memory='lean'\)"):
        METHODS[name](wrap(optax.contrib.schedule_free_sgd(0.1))).init(start())


def test_schedule_free_outside_of_a_lean_ftp_is_evaluated_inside_the_ball():
    """The base optimizer moves another point than it gets gradients at; lean FTP projects the one that it moves."""
    ball = ftp(optax.sgd(0.5), memory="lean", initial_radius=1.0, hyper_optimizer=optax.sgd(0.0))
    tx, params = optax.contrib.schedule_free(ball, 0.5), {"kernel": jnp.zeros((4, 3))}
    state, update, farthest = tx.init(params), jax.jit(tx.update), 0.0
    for step in range(60):
        updates, state = update({"kernel": jnp.full((4, 3), 3 * jnp.cos(step / 5))}, state, params)
        params = optax.apply_updates(params, updates)
        evaluated = optax.contrib.schedule_free_eval_params(state, params)
        farthest = max(farthest, *(float(4 * jnp.abs(tree["kernel"]).max()) for tree in (params, evaluated)))
    assert 0.5 < farthest < 1 + 1e-5


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_lookahead_that_resets_needs_the_anchor(reset, given):
    """It calls init at every synchronisation, where the anchor that is not given becomes the present parameters."""
    params = {"kernel": jnp.zeros((4, 3))}
    anchor = {"anchor": params} if given else {}
    tx = optax.lookahead(pgm(optax.sgd(0.5), radius=1.0, **anchor), 3, 0.5, reset_state=reset)
    both = optax.LookaheadParams.init_synced(params)
    state, update = tx.init(both), jax.jit(tx.update)
    for _ in range(12):
        updates, state = update({"kernel": both.fast["kernel"] - 9.0}, state, both)
        both = optax.apply_updates(both, updates)
    farthest = float(4 * jnp.abs(both.fast["kernel"]).max())
    assert farthest > 1.5 if reset and not given else 0.5 < farthest < 1 + 1e-5
