"""The linear probe: as good as logistic regression on the same features, and a head for the features as they are."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.linear_model import LogisticRegression

from vision.data import ArrayDomain
from vision.probe import linear_probe


class Table(nnx.Module):
    """A model whose features of image i are row i of a table."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = nnx.Param(jnp.asarray(rows, jnp.float32))

    def features(self, images: jax.Array) -> jax.Array:
        return self.rows[...][images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]]


def domain(labels: np.ndarray) -> ArrayDomain:
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return ArrayDomain("table", images, labels.astype(np.int32))


def samples(rng: np.random.Generator, count: int, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds round the centres, in features of very different sizes."""
    labels = rng.integers(0, len(centres), count)
    features = centres[labels] + rng.standard_normal((count, centres.shape[1]))
    return features * np.logspace(-2, 2, centres.shape[1]) + 5, labels


def test_it_is_as_good_as_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 12))
    (train, labels), (test, truth) = samples(rng, 1000, centres), samples(rng, 4000, centres)
    kernel, bias = linear_probe(Table(train), domain(labels), 5, epochs=20, seed=0)
    assert (kernel.shape, bias.shape) == ((12, 5), (5,))
    standard = lambda x: (x - train.mean(0)) / train.std(0)
    reference = LogisticRegression().fit(standard(train), labels).score(standard(test), truth)
    assert 0.5 < reference < 0.95, "it can be told apart"
    assert ((test @ kernel + bias).argmax(1) == truth).mean() > reference - 0.01


def test_the_head_is_for_features_as_they_are() -> None:
    """Shifted and scaled features give the same logits: standardisation is folded into the head."""
    rng = np.random.default_rng(0)
    train, labels = samples(rng, 200, rng.standard_normal((3, 4)))
    kernel, bias = linear_probe(Table(train), domain(labels), 3, epochs=3, seed=0)
    scale, shift = np.array([1e-3, 1.0, 10.0, 1e3]), np.array([0.0, -1.0, 3.0, 1.0])
    other, other_bias = linear_probe(Table(train * scale + shift), domain(labels), 3, epochs=3, seed=0)
    logits, other_logits = train @ kernel + bias, (train * scale + shift) @ other + other_bias
    np.testing.assert_allclose(other_logits, logits, atol=1e-3 * np.abs(logits).max())


def test_a_feature_that_never_changes_is_left_out() -> None:
    """Its rounding errors must not be blown up: fine-tuning moves it, and the head would follow."""
    rng = np.random.default_rng(0)
    train, labels = samples(rng, 300, rng.standard_normal((3, 4)))
    constant = np.concatenate([train, np.full((300, 1), 1000.1), np.zeros((300, 1))], 1)
    kernel, _ = linear_probe(Table(constant), domain(labels), 3, epochs=5, seed=0)
    assert np.isfinite(kernel).all()
    np.testing.assert_allclose(kernel[4:], 0, atol=1e-6)


def test_progress_counts_batches_and_epochs() -> None:
    rng = np.random.default_rng(0)
    train, labels = samples(rng, 130, rng.standard_normal((2, 3)))
    seen: list[tuple[int, int]] = []
    linear_probe(
        Table(train), domain(labels), 2, epochs=4, seed=0, on_step=lambda done, total, loss: seen.append((done, total))
    )
    assert seen == [(i, 3 + 4) for i in range(1, 8)]
