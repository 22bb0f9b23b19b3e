"""The methods of the main job: all are made, of the flags that concern them, and keep what each promises."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ftp_optax import add_decayed_anchor, averaged_params, digrap, drift, ftp, radii
from vision.methods import KNOBS, Method, create_method, not_head
from vision.options import METHODS, MethodOptions, TrainingOptions


@dataclass(frozen=True)
class Options(TrainingOptions, MethodOptions):
    """As the main job's configuration has them."""


AT_ONCE: dict[str, Any] = {"warmup": 0.0, "schedule": "constant", "lr": 0.1}
ORDER = ["stem/kernel", "blocks/0/kernel", "blocks/0/bias", "blocks/1/kernel", "head/kernel", "head/bias"]
SHAPES = [(3, 3, 2, 4), (4, 6), (6,), (6, 5), (5, 3), (3,)]
BALLS = ("ftp", "ftp_exact", "ftp_scale_free", "ftp_lean", "ftp+digrap", "tpgm", "pgm")


def tree(seed: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), len(ORDER))
    leaves = [jax.random.normal(key, shape) for key, shape in zip(keys, SHAPES, strict=True)]
    (stem, kernel0, bias0, kernel1, head, head_bias) = leaves
    return {
        "stem": {"kernel": stem},
        "blocks": {0: {"kernel": kernel0, "bias": bias0}, 1: {"kernel": kernel1}},
        "head": {"kernel": head, "bias": head_bias},
    }


PARAMS = tree(0)
FORWARD = jax.tree.map(lambda leaf: leaf / optax.tree.norm(tree(1)), tree(1))
BACK = jax.tree.map(lambda leaf: -0.2 * leaf, FORWARD)
# forth, so that the weights have moved; then back, which momentum does not follow: what SPD looks for; and forth again,
# against the pull of the pre-trained weights: what DiGraP looks for
GRADIENTS = [FORWARD, FORWARD, BACK, FORWARD, FORWARD]


def held_out_loss(params: Any) -> jax.Array:
    """Wants every weight to go a little up."""
    return sum((jnp.sum(jnp.square(leaf - 0.1)) for leaf in jax.tree.leaves(params)), jnp.zeros(()))


def train(
    method: Method, gradients: Sequence[Any] = GRADIENTS, params: Any = PARAMS, loss: Any = held_out_loss
) -> tuple[Any, Any]:
    extra = {"held_out_loss": loss} if method.held_out else {}
    step = jax.jit(lambda gradient, state, params: method.tx.update(gradient, state, params, **extra))
    state = method.tx.init(params)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def trained(name: str, *, mask: Any = None, **flags: Any) -> tuple[Any, Any]:
    options = Options(**(AT_ONCE | flags))
    return train(create_method(name, options, num_steps=10, order=ORDER, mask=mask))


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


# the other tests have adamw; muon's state is the least like it
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "muon") for name in METHODS), *((name, o) for name in ("ftp+digrap", "tpgm") for o in ("sgd", "lion"))],
)
def test_every_method_goes_round_every_optimizer(name: str, optimizer: Any) -> None:
    """Down the loss of which these are the gradients, with finite numbers in every state."""
    method = create_method(name, Options(optimizer=optimizer, lr=0.05, radii_lr=0.1), num_steps=8, order=ORDER)
    loss = jax.value_and_grad(lambda params: sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params)))
    extra = {"held_out_loss": held_out_loss} if method.held_out else {}

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        value, gradient = loss(params)
        updates, state = method.tx.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state, value

    params, state = PARAMS, method.tx.init(PARAMS)
    values = []
    for _ in range(8):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, state)))


def test_names_and_what_they_ask_of_the_training() -> None:
    made = {name: create_method(name, Options(), num_steps=10, order=ORDER) for name in METHODS}
    asking = {field: {name for name in METHODS if getattr(made[name], field)} for field in Method._fields[1:-1]}
    assert asking == {
        "head_only": {"linear_probe"},
        "probe_first": {"lp_ft"},
        "held_out": {"tpgm"},
        "project_after": {"tpgm_project"},
        "averaged": {"vanilla_averaged"},
    }
    with pytest.raises(ValueError, match="no method 'sgd'; choose one of vanilla, vanilla_averaged, ftp, "):
        create_method("sgd", Options(), num_steps=10, order=ORDER)


@pytest.mark.parametrize("name", METHODS)
def test_knobs_are_the_options_that_a_method_reads(name: str) -> None:
    read: set[str] = set()

    class Recorder:
        def __getattr__(self, option: str) -> Any:
            read.add(option)
            return getattr(Options(), option)

    create_method(name, Recorder(), num_steps=10, order=ORDER)
    training = {field.name for field in dataclasses.fields(TrainingOptions)}
    # the loop's own, and what follows the training
    elsewhere = {"epochs", "batch_size"} | ({"radii_lr", "project_steps"} if name == "tpgm_project" else set())
    # the head is one layer; the mean of all steps is the mean of all steps
    without = {"linear_probe": {"layer_decay"}, "vanilla_averaged": {"average"}}.get(name, set())
    assert read | elsewhere - without >= set(KNOBS[name])
    assert (read | elsewhere) - training == set(KNOBS[name]) - training
    assert training - set(KNOBS[name]) == without


def test_every_option_of_a_method_is_a_knob_of_one() -> None:
    assert KNOBS.keys() == set(METHODS)
    whole_run = {"methods", "sweep", "wise_alpha", "wise_path"}
    options = {field.name for field in dataclasses.fields(Options)} - whole_run
    assert {knob for knobs in KNOBS.values() for knob in knobs} == options


KNOB_CHANGES = [
    *((name, "kappa", 0.3) for name in ("ftp", "ftp_exact", "ftp_scale_free", "ftp_lean", "ftp+digrap")),
    *((name, "radii_lr", 0.03) for name in ("ftp", "ftp_exact", "ftp_lean", "ftp+digrap", "tpgm")),
    *((name, knob, 0.1) for name in ("digrap", "ftp+digrap") for knob in ("strengths_lr", "max_strength")),
    ("ftp_scale_free", "radii_scale", 0.1),
    ("spd", "spd_strength", 0.3),
    ("maps", "spd_strength", 0.3),
    ("pgm", "pgm_radius", 0.2),
    ("l2_sp", "l2_sp_strength", 0.5),
]


@pytest.mark.parametrize(("name", "knob", "value"), KNOB_CHANGES)
def test_a_knob_changes_what_its_method_does(name: str, knob: str, value: float) -> None:
    usual = {"radii_lr": 0.3, "max_strength": 0.5} if "ftp+" in name else {}
    before, after = (trained(name, **(usual | flags))[0] for flags in ({}, {knob: value}))
    assert not equal(before, after)


def test_the_rate_of_radii_is_that_of_the_flag() -> None:
    """Adam's first step has the length of its rate, and the radii's first step is their second."""
    for name in ("ftp", "ftp+digrap"):
        found = {}
        for rate in (0.01, 0.1):
            method = create_method(name, Options(lr=1.0, radii_lr=rate), num_steps=10, order=["kernel"])
            params, state = train(method, [{"kernel": jnp.full((4, 3), 0.1)}] * 4, {"kernel": jnp.ones((4, 3))})
            found[rate] = float(radii(state, params)["kernel"])
        assert found[0.1] == pytest.approx(10 * found[0.01], rel=0.05)


def test_the_first_four_methods_are_what_they_were_to_the_bit() -> None:
    """The recorded results are theirs."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 1, 10)
    clip, adamw, hyper = optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0), optax.adam(0.02)
    were = {
        "vanilla": optax.chain(clip, adamw),
        "ftp": optax.chain(clip, ftp(adamw, hyper_optimizer=hyper, mask=not_head)),
        "digrap": optax.chain(clip, digrap(mask=not_head), adamw),
        "ftp+digrap": optax.chain(clip, digrap(mask=not_head), ftp(adamw, hyper_optimizer=hyper, mask=not_head)),
    }
    options = Options(lr=0.1, radii_lr=0.02)
    for name, tx in were.items():
        now = create_method(name, options, num_steps=10, order=ORDER, mask=not_head)
        expected, _ = train(Method(optax.with_extra_args_support(tx)))
        assert equal(train(now)[0], expected), name
        assert not equal(expected, PARAMS)


def test_the_variants_of_ftp() -> None:
    """Exact and scale-free radii are others; lean memory gives the same weights and keeps no anchor.

    SGD moves some units further than others, so that not all of them are projected.
    """
    options = Options(**(AT_ONCE | {"optimizer": "sgd", "lr": 1.0, "radii_lr": 3.0, "radii_scale": 3.0}))
    weights, states = {}, {}
    for name in ("ftp", "ftp_exact", "ftp_scale_free", "ftp_lean"):
        method = create_method(name, options, num_steps=10, order=ORDER)
        weights[name], states[name] = train(method, [tree(seed) for seed in range(1, 9)])
    kernels = {name: np.asarray(params["blocks"][0]["kernel"]) for name, params in weights.items()}
    assert np.abs(kernels["ftp_exact"] - kernels["ftp"]).max() > 1e-3
    assert np.abs(kernels["ftp_scale_free"] - kernels["ftp"]).max() > 1e-3
    np.testing.assert_allclose(kernels["ftp_lean"], kernels["ftp"], atol=1e-5)
    size = {name: sum(leaf.size for leaf in jax.tree.leaves(state)) for name, state in states.items()}
    assert size["ftp"] - size["ftp_lean"] == sum(leaf.size for leaf in jax.tree.leaves(PARAMS))


@pytest.mark.parametrize("name", BALLS)
def test_every_constrained_unit_ends_within_its_radius(name: str) -> None:
    params, state = trained(name, mask=not_head, radii_lr=0.2, pgm_radius=0.3)
    known = dict.fromkeys(["stem/kernel", "blocks/0/kernel", "blocks/1/kernel"], 0.3)
    if name != "pgm":
        known = {path: float(radius) for path, radius in radii(state, params).items() if path.endswith("kernel")}
    gap = jax.tree.map(jnp.subtract, params, PARAMS)
    of = {"stem/kernel": gap["stem"], "blocks/0/kernel": gap["blocks"][0], "blocks/1/kernel": gap["blocks"][1]}
    assert known.keys() == of.keys()
    bound = False
    for path, radius in known.items():
        kernel = np.asarray(of[path]["kernel"])
        norms = np.abs(kernel).sum(axis=tuple(range(kernel.ndim - 1)))
        assert (norms <= radius * (1 + 1e-5) + 1e-6).all()
        bound |= bool((norms > 0.999 * radius).any())
    assert bound, "some unit lies on its ball"


@pytest.mark.parametrize("name", METHODS)
def test_what_the_mask_leaves_out_moves_as_in_plain_fine_tuning(name: str) -> None:
    params, _ = trained(name, mask=not_head)
    plain, _ = trained("vanilla")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params["head"], plain["head"])
    learns = name not in ("vanilla", "vanilla_averaged", "tpgm_project", "linear_probe", "lp_ft")
    assert learns != equal(params["blocks"], plain["blocks"])


def test_maps_is_spd_at_the_input_and_plain_at_the_output() -> None:
    maps, spd, plain = (trained(name, spd_strength=0.8)[0] for name in ("maps", "spd", "vanilla"))
    assert equal(maps["stem"], spd["stem"])
    assert equal(maps["head"], plain["head"])
    assert not equal(spd["stem"], plain["stem"])
    assert not equal(spd["head"], plain["head"])
    second, _ = trained("spd", spd_strength=0.8 * 2 / 3)
    third, _ = trained("spd", spd_strength=0.8 / 3)
    for block, part in enumerate((second, third)):  # of four groups, the second and the third
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), maps["blocks"][block], part["blocks"][block]
        )


def test_maps_of_a_part_of_the_network() -> None:
    """What is frozen is no part of the parameters, and what is added to a layer has its strength."""
    method = create_method("maps", Options(**AT_ONCE), num_steps=10, order=ORDER)
    params = {"blocks": {0: {"kernel_lora_a": jnp.ones((4, 2))}}}
    state = method.tx.init(params)
    updates, _ = method.tx.update(params, state, params)
    assert [leaf.shape for leaf in jax.tree.leaves(updates)] == [(4, 2)]


def test_l2_sp_pulls_before_the_base_optimizer() -> None:
    sgd = {"optimizer": "sgd", "clip": 0.0}
    params, state = trained("l2_sp", l2_sp_strength=0.5, **sgd)
    expected, _ = train(
        Method(optax.with_extra_args_support(optax.chain(add_decayed_anchor(0.5), optax.sgd(0.1, momentum=0.9))))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), params, expected)
    plain, _ = trained("vanilla", **sgd)
    far = {path: float(np.linalg.norm(leaf)) for path, leaf in gaps(plain).items()}
    assert all(float(near) < far[path] for path, near in drift(state, params).items())


def gaps(params: Any) -> dict[str, np.ndarray]:
    found = jax.tree.map(lambda a, b: np.asarray(a - b), params, PARAMS)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize(("clip", "length"), [(1.0, 1.0), (0.25, 0.25), (0.0, 30.0)])
def test_gradients_are_clipped_first(clip: float, length: float) -> None:
    gradient = jax.tree.map(lambda leaf: leaf * 30, FORWARD)  # of norm 30
    method = create_method("vanilla", Options(optimizer="sgd", clip=clip, **AT_ONCE), num_steps=10, order=ORDER)
    updates, _ = method.tx.update(gradient, method.tx.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.1 * length, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_averaging_changes_no_step_and_keeps_the_mean_of_all(name: str) -> None:
    """Of real steps: accumulation goes round it."""
    flags = AT_ONCE | {"radii_lr": 0.2}
    alone = create_method(name, Options(**flags), num_steps=10, order=ORDER)
    path = [train(alone, GRADIENTS[:count])[0] for count in range(1, len(GRADIENTS) + 1)]
    for accumulate in (1, 2):
        options = Options(average="uniform", accumulate=accumulate, **flags)
        gradients = [gradient for gradient in GRADIENTS for _ in range(accumulate)]
        params, state = train(create_method(name, options, num_steps=10, order=ORDER), gradients)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, path[-1])
        mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *path)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), averaged_params(state, params), mean
        )


def test_plain_fine_tuning_averaged_is_plain_fine_tuning_and_the_average() -> None:
    asked = create_method("vanilla", Options(average="uniform", **AT_ONCE), num_steps=10, order=ORDER)
    for average in ("none", "ema"):  # whatever the others have
        method = create_method("vanilla_averaged", Options(average=average, **AT_ONCE), num_steps=10, order=ORDER)
        assert method.averaged
        jax.tree.map(np.testing.assert_array_equal, train(method, GRADIENTS), train(asked, GRADIENTS))


@pytest.mark.parametrize("name", METHODS)
def test_accumulated_batches_are_one_step_of_their_mean(name: str) -> None:
    options = Options(weight_decay=0.1, **AT_ONCE)
    parts = [[tree(seed), tree(seed + 1)] for seed in (1, 3, 5)]
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *pair) for pair in parts]
    whole, _ = train(create_method(name, options, num_steps=10, order=ORDER), means)
    accumulated = create_method(name, dataclasses.replace(options, accumulate=2), num_steps=10, order=ORDER)
    halfway, _ = train(accumulated, parts[0][:1])
    assert equal(halfway, PARAMS)
    small, _ = train(accumulated, [part for pair in parts for part in pair])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), small, whole)
    assert not equal(whole, PARAMS)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_tpgm_learns_from_the_held_out_loss(accumulate: int) -> None:
    method = create_method("tpgm", Options(accumulate=accumulate, **AT_ONCE), num_steps=10, order=ORDER)
    gradients = [gradient for gradient in GRADIENTS for _ in range(accumulate)]
    ends = [train(method, gradients, loss=loss)[0] for loss in (held_out_loss, lambda params: -held_out_loss(params))]
    assert not equal(*ends)
    with pytest.raises(ValueError, match="held_out_loss="):
        method.tx.update(FORWARD, method.tx.init(PARAMS), PARAMS)
