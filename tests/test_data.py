"""Batches: order, exact restart, epochs, padding."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data import ArrayDomain, eval_batches, steps_in, train_batches
from vision.errors import UserError

sizes = st.integers(1, 23)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)  # each example starts threads


def numbered(n: int) -> ArrayDomain:
    """A domain whose labels are 0, 1, ..., n - 1, and whose images say the same."""
    numbers = np.arange(n, dtype=np.int32)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (n, 4, 5, 3))
    return ArrayDomain("numbered", images, numbers)


def labels(batches) -> list[list[int]]:
    return [batch["label"].tolist() for batch in batches]


def test_batches_have_the_documented_dtypes_and_shapes():
    (batch,) = train_batches(numbered(10), 4, seed=0, num_steps=1)
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (4, 4, 5, 3)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])


@few
@given(n=sizes, batch_size=sizes, epochs=st.integers(1, 3), seed=seeds)
def test_every_epoch_shows_every_example_once(n, batch_size, epochs, seed):
    num_steps = steps_in(n, batch_size, epochs)
    batches = labels(train_batches(numbered(n), batch_size, seed=seed, num_steps=num_steps))
    assert [len(batch) for batch in batches] == [batch_size] * num_steps
    seen = list(itertools.chain(*batches))
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert len(seen) - epochs * n < batch_size


@few
@given(n=sizes, batch_size=sizes, num_steps=st.integers(1, 6), data=st.data(), seed=seeds)
def test_restart_at_any_step_gives_the_rest_of_the_run(n, batch_size, num_steps, data, seed):
    first_step = data.draw(st.integers(0, num_steps))
    whole = labels(train_batches(numbered(n), batch_size, seed=seed, num_steps=num_steps))
    rest = labels(train_batches(numbered(n), batch_size, seed=seed, first_step=first_step, num_steps=num_steps))
    assert rest == whole[first_step:]


def test_the_order_depends_on_the_seed_and_on_the_epoch():
    def order(seed: int) -> list[list[int]]:
        return labels(train_batches(numbered(50), 50, seed=seed, num_steps=2))

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0)[0] != order(0)[1]


def test_a_longer_run_starts_like_a_shorter_one():
    short = labels(train_batches(numbered(9), 4, seed=3, num_steps=2))
    assert labels(train_batches(numbered(9), 4, seed=3, num_steps=7))[:2] == short


def test_training_on_nothing_is_an_error():
    with pytest.raises(ValueError, match="'numbered' has no examples"):
        train_batches(numbered(0), 4, seed=0, num_steps=1)


def test_an_abandoned_iterator_leaves_the_next_one_alone():
    assert next(train_batches(numbered(9), 3, seed=0, num_steps=10**6)) is not None
    assert len(labels(train_batches(numbered(9), 3, seed=0, num_steps=3))) == 3


@few
@given(n=sizes, batch_size=sizes)
def test_evaluation_shows_every_example_once_in_order_in_one_shape(n, batch_size):
    batches = list(eval_batches(numbered(n), batch_size))
    assert len(batches) == steps_in(n, batch_size, 1)
    weight = np.concatenate([batch["weight"] for batch in batches])
    label = np.concatenate([batch["label"] for batch in batches])
    image = np.concatenate([batch["image"] for batch in batches])
    assert {batch["image"].shape for batch in batches} == {(batch_size, 4, 5, 3)}
    assert weight.dtype == np.float32
    assert label.dtype == np.int32
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(weight, np.arange(len(weight)) < n)
    np.testing.assert_array_equal(label[:n], np.arange(n))
    assert not label[n:].any()
    assert not image[n:].any()


def test_a_users_error_while_reading_reaches_the_user_as_it_is():
    class Broken(ArrayDomain):
        def __getitem__(self, index):
            raise UserError(f"{index} cannot be read")

    source = numbered(5)
    broken = Broken(source.name, source.images, source.labels)
    for batches in (train_batches(broken, 2, seed=0, num_steps=2), eval_batches(broken, 2)):
        with pytest.raises(UserError, match="cannot be read"):
            list(batches)


def test_a_message_is_one_printable_line():
    assert str(UserError("in a\nb\x1b.png: caf\xe9 \udcff")) == "in a\\nb\\x1b.png: café \ufffd"
