"""The figures of a run, from made-up results: what is drawn, read from the figures that are written."""

import csv
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from results_by_hand import made, trained

from vision import figures, scalars
from vision.config import METHODS, Config
from vision.networks import depth_order
from vision.report import build_report
from vision.style import STYLES

WEIGHTS = {"last": {"body": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 3))}}}
SMALL = depth_order("small-cnn")
LEAVES = (
    "norm/scale",
    "norm/bias",
    "query/kernel",
    "query/bias",
    "key/kernel",
    "key/bias",
    "value/kernel",
    "value/bias",
)
DEEP = [
    "image/patches/kernel",
    *(f"image/blocks/{block}/{leaf}" for block in range(12) for leaf in LEAVES),
    *(f"head/{leaf}" for leaf in ("kernel", "bias")),
]


def config(methods: str) -> Config:
    return Config(methods=methods, train=Path("/photos"), val=Path("/more"))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    kept: list[Figure] = []
    save = Figure.savefig

    def savefig(figure: Figure, *args: Any, **options: Any) -> None:
        kept.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return kept


def learned(order: list[str], *methods: str) -> dict[str, Any]:
    """Every method with radii that grow with depth and strengths that fall with it; the last radius is closed."""
    radii = {path: 0.1 + index for index, path in enumerate(order)} | {order[-1]: 1e-8}
    strengths = {path: 1 - index / len(order) for index, path in enumerate(order)}
    return {
        name: trained(WEIGHTS, radii if "ftp" in name else {}, strengths if "digrap" in name else {})
        for name in methods
    }


def test_every_method_has_a_look_of_its_own(tmp_path):
    assert set(STYLES) == set(METHODS)
    assert len({(s.colour, s.marker, s.hollow) for s in STYLES.values()}) == len(METHODS)
    methods = ",".join(METHODS)
    results = made(config(methods), {name: trained(WEIGHTS, {}, {}) for name in METHODS})
    figures.draw_frontier(build_report(results, devices={}), tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000


@pytest.mark.parametrize("head", ["pre-trained", "new"])
def test_the_frontier_goes_through_the_points_there_are(tmp_path, drawn, head):
    report = build_report(made(config("ftp"), {"ftp": trained(WEIGHTS, {}, {})}, head=head), devices={})
    path = report["methods"]["ftp"]["wise_path"]
    for x, point in enumerate(path, start=1):
        point |= {"id": x / 10, "ood_mean": 1 - x / 10}
    if head != "new":
        report["rows"][0] |= {"id": 0.0, "ood_mean": 1.0}
    figures.draw_frontier(report, tmp_path / "frontier.png")
    line = drawn[0].axes[0].get_lines()[0]
    starts = [] if head == "new" else [(0.0, 100.0)]
    assert np.column_stack(line.get_data()) == pytest.approx(np.array([*starts, (10.0, 90.0), (20.0, 80.0)]))


def test_a_domain_without_a_score_is_not_drawn(tmp_path, drawn):
    results = made(config("ftp"), {"ftp": trained(WEIGHTS, {}, {})}, bad=(0, 1, 2, 3))
    figures.draw_frontier(build_report(results, devices={}), tmp_path / "frontier.png")
    assert np.isnan(drawn[0].axes[0].get_lines()[0].get_ydata()).all()
    figures.draw_examples(results, tmp_path / "examples.png")
    assert [axes.get_title() for axes in drawn[1].axes] == ["photo (ID)"] + [""] * 2


def test_examples_are_of_images_that_can_be_read(tmp_path, drawn):
    results = made(config("vanilla"), {"vanilla": trained(WEIGHTS, {}, {})}, bad=(0, 3))
    figures.draw_examples(results, tmp_path / "examples.png")
    said = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert len(said) == 2 * 2 * 3, "as many rows as the smallest domain has readable images"
    assert "pre-trained cat ✓" in said


def test_few_layers_have_a_line_each_and_a_legend(tmp_path, drawn):
    results = made(config("ftp,digrap"), learned(SMALL, "ftp", "digrap"), order=SMALL)
    assert scalars.has_scalars(results)
    scalars.draw_scalars(results, tmp_path / "radii.png")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["radii, ftp", "strengths, digrap"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [len(SMALL)] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == SMALL


def test_many_layers_are_drawn_by_depth(tmp_path, drawn):
    results = made(config("ftp+digrap"), learned(DEEP, "ftp+digrap"), order=DEEP)
    scalars.draw_scalars(results, tmp_path / "radii.png")
    (figure,) = drawn
    radii, ends, strengths, strengths_at_end = figure.axes
    lines = {line.get_label(): line for line in radii.get_lines()}
    assert list(lines) == ["early third", "middle third", "late third"]
    # fourteen depths; the late ones are 10 to 13: the last three blocks and the head
    late = [0.1 + i for i, path in enumerate(DEEP) if path.startswith(tuple(f"image/blocks/{b}/" for b in (9, 10, 11)))]
    late += [0.1 + DEEP.index("head/kernel"), 1e-8]
    assert lines["late third"].get_ydata()[-1] == pytest.approx(np.median(late))
    assert lines["late third"].get_ydata()[0] == pytest.approx(np.median(late) / 2)
    band = radii.collections[2].get_paths()[0].vertices
    assert band[band[:, 0] == 20][:, 1].min() == pytest.approx(np.percentile(late, 25), rel=1e-5)
    assert band[band[:, 0] == 20][:, 1].max() == pytest.approx(np.percentile(late, 75), rel=1e-5)
    points = np.concatenate([marks.get_offsets() for marks in ends.collections])
    assert len(points) == len(DEEP)
    assert sorted(set(points[:, 0])) == list(range(14))
    assert points[:, 1].min() == pytest.approx(ends.get_ylim()[0]), "the closed radius lies on the edge"
    assert "closed" in ends.get_title()
    assert "closed" not in strengths_at_end.get_title()
    assert ends.get_ylim() == radii.get_ylim()
    median = next(line for line in ends.get_lines() if line.get_label() == "median of a depth")
    assert median.get_ydata()[0] == pytest.approx(0.1)
    assert strengths.get_lines()[0].get_ydata()[-1] > strengths.get_lines()[2].get_ydata()[-1]
    assert len({to_hex(line.get_color()) for line in radii.get_lines()}) == 3


def test_adapters_lie_where_their_layer_does(tmp_path, drawn):
    order = [path for path in DEEP if not path.endswith("bias")]
    adapters = [f"{path}_lora_{one}" for path in order if path.endswith("query/kernel") for one in "ab"]
    results = made(config("ftp"), learned(adapters, "ftp"), order=order)
    scalars.draw_scalars(results, tmp_path / "radii.png")
    points = np.concatenate([marks.get_offsets() for marks in drawn[0].axes[1].collections])
    assert sorted(set(points[:, 0])) == list(range(1, 13))


def test_all_values_are_in_a_file(tmp_path):
    methods = {
        "ftp": trained(WEIGHTS, {"body/kernel": 0.5, "stack": jnp.array([1.0, 2.0])}, {}),
        "digrap": trained(WEIGHTS, {}, {"body/kernel": 0.25}),
        "vanilla": trained(WEIGHTS, {}, {}),
    }
    results = made(config("ftp,digrap,vanilla"), methods)
    scalars.write_scalars(results, tmp_path / "radii.csv")
    rows = list(csv.reader((tmp_path / "radii.csv").read_text().splitlines()))
    assert rows == [
        ["method", "kind", "path", "layer", "value"],
        ["ftp", "radii", "body/kernel", "", "0.5"],
        ["ftp", "radii", "stack", "0", "1.0"],
        ["ftp", "radii", "stack", "1", "2.0"],
        ["digrap", "strengths", "body/kernel", "", "0.25"],
    ]
    assert not scalars.has_scalars(made(config("vanilla"), {"vanilla": methods["vanilla"]}))
