"""TPGM: against an oracle in NumPy, its start and bounds, the use once at the end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from ftp_optax import radii, tpgm, tpgm_project

ANCHOR = {"body": {"kernel": jnp.sin(jnp.arange(12.0)).reshape(4, 3), "bias": jnp.zeros(3)}, "head": jnp.ones(2)}
MASK = {"body": True, "head": False}
HELD_OUT = jax.tree.map(lambda x: x + 0.05, ANCHOR)
TRAIN = jax.tree.map(lambda x: x + jnp.cos(jnp.arange(x.size)).reshape(x.shape), ANCHOR)


def distance(params, target):
    return sum(jnp.sum((p - t) ** 2) for p, t in zip(*map(jax.tree.leaves, (params, target)), strict=True))


class TPGMLeaf:
    """TPGM on one leaf, spelled out; the held-out gradient at the projected leaf is 2 (W - target)."""

    def __init__(self, anchor, axis, target):
        self.anchor, self.target, self.hyper, self.radius = np.array(anchor), np.array(target), oracle.Adam(1e-2), None
        self.units = oracle.units(self.anchor.shape, axis)

    def project(self, displacement, norms):
        out = self.anchor.copy()
        for unit, n in zip(self.units, norms, strict=True):
            out[unit] += np.clip(self.radius / (n + 1e-8), 0, 1) * displacement[unit]
        return out

    def step(self, stepped):
        displacement = stepped - self.anchor
        norms = [np.abs(displacement[unit]).sum() for unit in self.units]
        if self.radius is None:
            self.radius = min(norms) / 2
        self.radius = np.clip(self.radius, 1e-8, max(norms))
        at, slope = self.project(displacement, norms), 0.0
        for unit, n in zip(self.units, norms, strict=True):
            if self.radius < n + 1e-8:
                slope += np.sum(2 * (at - self.target)[unit] * displacement[unit]) / (n + 1e-8)
        self.radius = self.radius + self.hyper(slope)
        return self.project(displacement, norms)


def test_agrees_with_the_oracle():
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
        params, anchor, held_out, train = map(wide, (ANCHOR, ANCHOR, HELD_OUT, TRAIN))
        tx = tpgm(optax.sgd(0.1, momentum=0.9), mask=MASK)
        state, base = tx.init(params), optax.sgd(0.1, momentum=0.9)
        own = base.init(params)
        leaves = {
            n: TPGMLeaf(anchor["body"][n], axis, held_out["body"][n]) for n, axis in (("kernel", (1,)), ("bias", ()))
        }
        update = jax.jit(lambda g, s, p: tx.update(g, s, p, held_out_loss=lambda q: distance(q, held_out)))
        for _ in range(25):
            grads = jax.grad(distance)(params, train)
            u, own = base.update(grads, own, params)
            expected = {n: leaf.step(np.asarray(params["body"][n] + u["body"][n])) for n, leaf in leaves.items()}
            updates, state = update(grads, state, params)
            np.testing.assert_array_equal(updates["head"], u["head"])
            params = optax.apply_updates(params, updates)
            for name, leaf in leaves.items():
                np.testing.assert_allclose(params["body"][name], expected[name], rtol=0, atol=1e-11)
                assert radii(state, params)[f"body/{name}"] == pytest.approx(leaf.radius, abs=1e-11)


def test_first_radius_is_half_the_smallest_unit():
    tx = tpgm(optax.sgd(1.0), hyper_optimizer=optax.sgd(0.0))
    params = {"kernel": jnp.zeros((2, 3))}
    grads = {"kernel": -jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])}
    updates, state = tx.update(grads, tx.init(params), params, held_out_loss=lambda p: 0.0 * jnp.sum(p["kernel"]))
    assert radii(state, params)["kernel"] == pytest.approx(1.0)
    np.testing.assert_allclose(jnp.abs(updates["kernel"]).sum(0), 1.0, rtol=1e-6)


def test_held_out_loss_is_required():
    tx = tpgm(optax.sgd(0.1))
    with pytest.raises(ValueError, match="update needs held_out_loss="):
        tx.update(ANCHOR, tx.init(ANCHOR), ANCHOR)


def test_other_extra_arguments_reach_the_inner_optimizer():
    tx = tpgm(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)))
    updates, _ = tx.update(ANCHOR, tx.init(ANCHOR), ANCHOR, held_out_loss=lambda p: jnp.sum(p["head"]), value=1.0)
    assert jax.tree.structure(updates) == jax.tree.structure(ANCHOR)


def test_a_non_finite_held_out_loss_leaves_the_radii_finite():
    tx = tpgm(optax.sgd(0.1))
    _, state = tx.update(
        ANCHOR, tx.init(ANCHOR), ANCHOR, held_out_loss=lambda p: jnp.nan * jnp.sum(p["head"]) + distance(p, TRAIN)
    )
    assert np.isfinite(state.radii).all()


@pytest.mark.parametrize("norm", ["l2", "mars"])
def test_once_at_the_end_finds_what_the_held_out_set_wants(norm):
    batches = [jnp.float32(0.3)] * 300
    loss = lambda p, share: distance(p, jax.tree.map(lambda a, t: a + share * (t - a), ANCHOR, TRAIN))
    found = tpgm_project(TRAIN, ANCHOR, loss, batches, norm=norm, mask=MASK)
    assert float(loss(found, 0.3)) < 0.3 * float(loss(TRAIN, 0.3))
    np.testing.assert_array_equal(found["head"], TRAIN["head"])
    if norm == "l2":  # the whole leaf is scaled, so that the share itself can be found
        gap, whole = (np.linalg.norm(p["body"]["kernel"] - ANCHOR["body"]["kernel"]) for p in (found, TRAIN))
        assert gap / whole == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_once_at_the_end_converts_dtypes_by_name(dtype):
    params, anchor = (jax.tree.map(lambda x: x.astype(dtype), tree["body"]) for tree in (TRAIN, ANCHOR))
    loss = lambda p, batch: jnp.sum(jnp.abs(p["kernel"])) * batch
    with jax.numpy_dtype_promotion("strict"):
        found = tpgm_project(params, anchor, loss, [jnp.ones((), dtype)] * 2, hyper_optimizer=optax.sgd(0.1))
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


def test_once_at_the_end_refuses_no_batches_and_unknown_norms():
    loss = lambda p, batch: jnp.sum(p["head"])
    with pytest.raises(ValueError, match="batches is empty"):
        tpgm_project(TRAIN, ANCHOR, loss, [])
    with pytest.raises(ValueError, match="norm must be"):
        tpgm_project(TRAIN, ANCHOR, loss, [1], norm="l1")
    with pytest.raises(ValueError, match="has no leaf 'body/bias'"):
        tpgm_project(TRAIN, {"head": jnp.ones(2)}, loss, [1])
