"""What the main job predicts with each candidate's weights."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision import evaluation
from vision.data import ArrayDomain
from vision.evaluation import Candidate, evaluate


@jax.tree_util.register_pytree_node_class
class Biases:
    """A network whose logits are its biases, and the brightness of the image for the first class."""

    def logits(self, params: Any, images: jax.Array, stats: Any) -> jax.Array:
        bright = images.astype(jnp.float32).mean((1, 2, 3))[:, None] * jnp.array([1.0, 0.0, 0.0])
        body = params["body"]["bias"] if "body" in params else 0
        return bright + body + params["head"]["bias"] + stats.get("shift", 0)

    def tree_flatten(self):
        return (), None

    @classmethod
    def tree_unflatten(cls, _, __):
        return cls()


@dataclass
class Hosts:
    """One of several processes: it reads its rows of each batch, and the devices have those of all."""

    part: int = 0
    parts: int = 1
    bad: tuple[int, ...] = ()
    reading: Any = None
    batches: list[dict[str, Any]] = field(default_factory=list)

    def eval_batches(self, domain: Any, batch_size: int, *, reading: Any) -> Any:
        assert reading is self.reading
        for first in range(0, len(domain), batch_size):
            rows = [domain[i]["image"] for i in range(first, min(first + batch_size, len(domain)))]
            weight = [float(first + i not in self.bad) for i in range(len(rows))]
            filling = batch_size - len(rows)
            whole = {
                "image": np.stack(rows + [np.zeros_like(rows[0])] * filling),
                "weight": np.array(weight + [0.0] * filling, np.float32),
            }
            self.batches.append(whole)
            share = batch_size // self.parts
            yield {key: column[self.part * share : (self.part + 1) * share] for key, column in whole.items()}

    def place(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        (whole,) = [b for b in self.batches[-1:] if len(b["weight"]) == self.parts * len(batch["weight"])]
        return {key: jnp.asarray(column) for key, column in whole.items()}

    def gather(self, array: jax.Array) -> np.ndarray:
        return np.asarray(array)


def layers(body: list[float], head: list[float]) -> dict[str, Any]:
    return {"body": {"bias": jnp.array(body)}, "head": {"bias": jnp.array(head)}}


def images(count: int) -> ArrayDomain:
    """Images whose brightness is their number."""
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3))
    return ArrayDomain("photo", pixels, np.zeros(count, np.int32))


@pytest.fixture
def predict(monkeypatch):
    def predict(hosts: Hosts, *args: Any, **options: Any):
        monkeypatch.setattr(evaluation, "eval_batches", hosts.eval_batches)
        return evaluate(Biases(), *args, **{"allowed": {}, "batch_size": 4, "devices": hosts} | options)

    return predict


@pytest.mark.parametrize(
    ("start", "expected"), [(Candidate("zero_shot", 1.0), [0, 0, 1]), (None, [2, 2, 1])], ids=["all", "new head"]
)
def test_a_new_head_stays_as_tuned_while_the_rest_is_interpolated(predict, start, expected):
    pretrained = (layers([0.0, 0.0, 4.0], [9.0, 0.0, 0.0]), {})
    weights = {"ftp": (layers([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]), {})} | ({start.method: pretrained} if start else {})
    path = [Candidate("ftp", alpha) for alpha in (0.0, 0.5, 1.0)]
    found = predict(
        Hosts(), pretrained, weights, [*path, *([start] if start else [])], {"id": images(1)}, start=start
    )  # fmt: skip
    assert [found[candidate]["id"].labels.tolist() for candidate in path] == [[label] for label in expected]


def test_a_model_that_is_frozen_but_for_a_new_head_has_nothing_to_interpolate(predict):
    head = lambda bias: ({"head": {"bias": jnp.array(bias)}}, {"shift": jnp.zeros(3)})
    candidate, tuned = Candidate("ftp", 0.5), {"ftp": head([0.0, 0.0, 1.0])}
    found = predict(Hosts(), head([9.0, 0.0, 0.0]), tuned, [candidate], {"id": images(1)}, start=None)
    assert found[candidate]["id"].labels.tolist() == [2]


def test_live_statistics_are_interpolated_too(predict):
    at = lambda shift: (layers([1.0, 0.0, 0.0], [0.0] * 3), {"shift": jnp.array([0.0, shift, 0.0])})
    path = [Candidate("ftp", alpha) for alpha in (0.25, 0.75)]
    found = predict(Hosts(), at(0.0), {"ftp": at(2.0)}, path, {"id": images(1)}, start=Candidate("start", 1.0))
    assert [found[candidate]["id"].labels.tolist() for candidate in path] == [[0], [1]]


def test_confidence_is_the_probability_among_the_classes_to_choose_from(predict):
    tuned, candidate = (layers([0.0, 1.0, 3.0], [0.0, 0.0, 0.0]), {}), Candidate("ftp", 1.0)
    allowed = {"ood/few": np.array([True, True, False])}
    domains = {"id": images(1), "ood/few": images(1)}
    found = predict(Hosts(), tuned, {"ftp": tuned}, [candidate], domains, allowed=allowed, start=None)[candidate]
    e = np.exp([0.0, 1.0, 3.0])
    assert (found["id"].labels, found["ood/few"].labels) == (2, 1)
    assert found["id"].confidence == pytest.approx(e[2] / e.sum())
    assert found["ood/few"].confidence == pytest.approx(e[1] / e[:2].sum())
    assert found["id"].confidence.dtype == np.float32


@pytest.mark.parametrize("hosts", [Hosts(), Hosts(0, 2), Hosts(1, 2), Hosts(bad=(1, 5))], ids=str)
def test_every_image_has_its_row_whoever_read_it(predict, hosts):
    """Six images in batches of four: the second one is half filling."""
    tuned, candidate = (layers([0.0, 2.5, 0.0], [0.0, 0.0, 0.0]), {}), Candidate("ftp", 1.0)
    found = predict(hosts, tuned, {"ftp": tuned}, [candidate], {"id": images(6)}, start=None)[candidate]["id"]
    assert found.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.counted.tolist() == [i not in hosts.bad for i in range(6)]
    logits = np.array([[i, 2.5, 0] for i in range(6)])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found.confidence, probabilities.max(1), rtol=1e-6)


def test_the_end_of_a_path_that_is_the_start_is_evaluated_once(predict):
    start, weights = Candidate("pre-trained", 1.0), (layers([1.0, 0.0, 0.0], [0.0] * 3), {})
    diverged = (layers([np.nan] * 3, [0.0] * 3), {})
    candidates = [start, Candidate("ftp", 0.0), Candidate("ftp", 1.0)]
    found = predict(
        Hosts(), weights, {"ftp": diverged, "pre-trained": weights}, candidates, {"id": images(2)}, start=start
    )
    assert list(found) == candidates
    assert found[candidates[1]] is found[start]
    assert np.isnan(found[candidates[2]]["id"].confidence).all()
