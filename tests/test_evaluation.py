"""What the main job predicts with each candidate's weights."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from vision.digits import digits_task
from vision.evaluation import Candidate, evaluate


def logits(params: Any, images: jax.Array) -> jax.Array:
    return jnp.broadcast_to(params["body"]["bias"] + params["head"]["bias"], (images.shape[0], 3))


@pytest.mark.parametrize(
    ("start", "expected"), [(Candidate("zero_shot", 1.0), [0, 0, 1]), (None, [2, 2, 1])], ids=["all", "new head"]
)
def test_a_new_head_stays_as_tuned_while_the_rest_is_interpolated(start, expected):
    layers = lambda body, head: {"body": {"bias": jnp.array(body)}, "head": {"bias": jnp.array(head)}}
    pretrained, tuned = layers([0.0, 0.0, 4.0], [9.0, 0.0, 0.0]), layers([0.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    weights = {"ftp": tuned} | ({start.method: pretrained} if start else {})
    path = [Candidate("ftp", alpha) for alpha in (0.0, 0.5, 1.0)]
    found = evaluate(
        SimpleNamespace(logits=logits), pretrained, weights, [*path, *([start] if start else [])],
        {"id": digits_task(0, smallest=True).id_test}, allowed={}, start=start, batch_size=64,
    )  # fmt: skip
    assert [{*found[candidate]["id"].tolist()} for candidate in path] == [{label} for label in expected]
