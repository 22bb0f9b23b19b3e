"""What the main job predicts with each candidate's weights."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from vision.digits import digits_task
from vision.evaluation import Candidate, evaluate
from vision.methods import not_head


def logits(params: Any, images: jax.Array) -> jax.Array:
    return jnp.broadcast_to(params["body"]["bias"] + params["head"]["bias"], (images.shape[0], 3))


@pytest.mark.parametrize(("mask", "expected"), [(None, [0, 0, 1]), (not_head, [2, 2, 1])], ids=["all", "new head"])
def test_a_new_head_stays_as_tuned_while_the_rest_is_interpolated(mask, expected):
    layers = lambda body, head: {"body": {"bias": jnp.array(body)}, "head": {"bias": jnp.array(head)}}
    pretrained, tuned = layers([0.0, 0.0, 4.0], [9.0, 0.0, 0.0]), layers([0.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    path = [Candidate("ftp", alpha) for alpha in (0.0, 0.5, 1.0)]
    found = evaluate(
        SimpleNamespace(logits=logits), pretrained, {"ftp": tuned}, path, {"id": digits_task(0, smallest=True).id_test},
        mask=mask, batch_size=64,
    )  # fmt: skip
    assert [{*found[candidate]["id"].tolist()} for candidate in path] == [{label} for label in expected]
