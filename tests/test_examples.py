"""Every short example runs in its smallest size, from its command line, and what it prints is as it should be."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"

Rows = dict[str, list[str]]


def tables(text: str) -> dict[str, Rows]:
    """What was printed: by title of the table, by first cell of the row, the other cells."""
    found = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        title, _, *rows = block.splitlines()
        cells = (re.split(r"\s{2,}", row.strip()) for row in rows)
        found[title.strip()] = {first: rest for first, *rest in cells}
    return found


def numbers(rows: Rows) -> dict[str, list[float]]:
    return {name: [float(cell) for cell in cells] for name, cells in rows.items()}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path_factory):
    """Runs an example as its command line would, in this process."""
    # the pre-trained network is made once for all examples of a run, and none is left over from earlier ones
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    def run(name: str) -> dict[str, Rows]:
        monkeypatch.setattr(sys, "argv", [name, "--smallest"])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return tables(capsys.readouterr().out)

    return run


def assert_learned_and_remembered(rows: Rows) -> None:
    """Both learned the new domain, and the constrained one forgot less of the old ones."""
    scores = numbers(rows)
    loss, _, _ = scores["pre-trained"]
    assert scores["plain"][0] < loss
    assert scores["ftp"][0] < loss
    assert scores["ftp"][2] > scores["plain"][2]


def assert_in_balls(rows: Rows, count: int) -> None:
    """Every layer has moved, and none of its units has left the ball."""
    assert len(rows) == count
    for path, (radius, largest, drift, _) in numbers(rows).items():
        assert 0 < largest <= radius * 1.001, path  # printed with four digits
        assert drift > 0, path


@pytest.mark.parametrize(
    ("name", "layers"), [("with_pytrees", 6), ("with_linen", 6), ("with_equinox", 6), ("with_nnx", 4)]
)
def test_frameworks(run, name, layers):
    shown = run(name)
    assert_learned_and_remembered(shown["Fine-tuned on photo"])
    assert_in_balls(shown["Layers under ftp"], layers)
    if name == "with_nnx":  # the anchor lies where its parameter lies, and the head is free
        kernel, anchor = shown["Shards"]["first/kernel"], shown["Shards"]["its anchor"]
        assert kernel == anchor
        assert kernel[0].endswith("(None, 'model')")
        assert kernel[1] == "8"
        assert not any(path.startswith("head") for path in shown["Layers under ftp"])
    if name == "with_pytrees":
        assert all(0 <= strength <= 1 for (strength,) in numbers(shown["Layers under digrap"]).values())


def test_scanned_layers_have_a_radius_each(run):
    shown = run("scanned_lm")
    losses = numbers(shown["Nats per character"])
    assert losses["plain"][0] < losses["pre-trained"][0]
    assert losses["ftp"][0] < losses["pre-trained"][0]
    radii, largest = numbers(shown["Radii"]), numbers(shown["Largest norm"])
    assert len(radii) == 4
    for path, layers in radii.items():
        assert len(set(layers)) == 4
        assert all(0 < gap <= radius * 1.001 for gap, radius in zip(largest[path], layers, strict=True))


def test_adapters_do_not_collapse(run):
    shown = run("lora")
    rows = numbers(shown["Nats per character, and the adapters"])
    zen, _, a, ab = rows["at the start"]
    assert ab == 0
    assert rows["ftp"][0] < zen
    assert rows["ftp"][3] > 0.1
    assert abs(rows["ftp"][2] - a) < abs(rows["plain"][2] - a)
    assert rows["decay to zero"][2] < a
    assert len(shown["Radii"]) == 8


def test_accumulated_gradients_give_what_the_whole_batch_gives(run):
    ((title, rows),) = run("accumulate").items()
    before = float(re.findall(r"loss ([\d.]+) before", title)[0])
    (loss, radius, _), *others = numbers(rows).values()
    assert loss < before
    assert len(others) == 2
    for other in others:
        assert other[:2] == pytest.approx([loss, radius], rel=2e-3)
        assert other[2] < 1e-4


def test_radii_follow_their_own_schedule(run):
    shown = run("schedules")
    rows = list(numbers(shown["During training"]).values())
    assert len(rows) == 8
    half, last = rows[3], rows[-1]
    assert rows[0][2] > half[2]
    assert [row[2] for row in rows[4:]] == [0] * 4
    assert last[4] <= half[4] * 1.2  # closed: from here on the greatest radius can only shrink to its layer
    scores = numbers(shown["Fine-tuned on photo"])
    assert scores["ftp"][0] < scores["pre-trained"][0]


def test_the_recipe_learns_what_is_far_from_what_the_network_knows(run):
    """Where FTP at its defaults learns nothing, and the average of a short run lags behind."""
    rows = numbers(run("robust")["Accuracy, inverted learned"])
    assert rows["pre-trained"][0] < 0.1 < 0.9 < rows["pre-trained"][1]
    assert rows["the recipe"][0] > max(0.8, rows["AdamW"][0] - 0.05)


def test_parts_have_settings_of_their_own(run):
    shown = run("partition")
    scores = numbers(shown["Fine-tuned on photo"])
    assert scores["ftp"][0] < scores["with new head"][0]
    rows = shown["Layers under ftp"]
    assert_in_balls(rows, 6)
    radii = {path: radius for path, (radius, *_) in numbers(rows).items()}
    assert max(radii["conv1/kernel"], radii["conv2/kernel"]) < radii["hidden/kernel"] / 3


def test_tasks_in_turn(run):
    rows, rates = run("continual").values()
    means = {name: float(cells[-1].split()[0]) for name, cells in rows.items()}
    first = means.pop("after the first task")
    assert means.keys() == rates.keys() == {"plain", "ftp, one anchor", "ftp, reanchored"}
    assert all(mean > first for mean in means.values())
    clean = {name: float(cells[0].split()[0]) for name, cells in rows.items()}
    assert clean["plain"] < clean["ftp, one anchor"]  # held near the first model, it forgot less of the first task


def test_a_lost_process_changes_nothing():
    command = [sys.executable, str(EXAMPLES / "multi_process.py"), "--smallest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    # the processes' own messages come first, and two of them may write into one line
    (rows,) = tables(done.stdout[done.stdout.index("16 steps, one process killed") :]).values()
    ((share, first, last, resumed_last, step, equal),) = rows.values()
    assert float(share) < 0.6  # of two processes
    assert float(last) < float(first)
    assert resumed_last == last
    assert step == "8"
    same, count = equal.split(" of ")
    assert same == count


def test_every_layout_on_a_mesh_ends_where_one_device_ends(run):
    (rows,) = run("meshes").values()
    devices, losses, gaps, weights, states, sent = zip(*rows.values(), strict=True)
    assert devices == ("1", "8", "8", "8")
    assert len(set(losses)) == 1
    assert all(float(gap) < 1e-5 for gap in gaps)
    for cut in (weights, states):
        one, data_parallel, fsdp, tensor_parallel = map(float, cut)
        assert data_parallel == one
        assert max(fsdp, tensor_parallel) < one / 7
    assert sent[0] == "-"
    assert sent[1] == "1 all-reduce"  # of the gradients


def test_a_checkpoint_is_read_onto_other_meshes_and_refused_by_another_mask(run):
    rows, refusal = run("checkpoints").values()
    assert list(rows) == ["8 to 8", "8 to 4", "8 to 1"]
    found = numbers(rows)
    assert found["8 to 8"] == [0, 0]
    assert all(read == 0 and end < 1e-5 for read, end in found.values())
    (message,) = refusal
    assert message.startswith("The checkpoint has an array at '1/anchor/head/bias', the run has none.")


def test_log_radii_tells_from_inside_the_loop(run):
    rows = numbers(run("log_radii")["During training"])
    assert [int(step) for step in rows] == list(range(5, 45, 5))
    drifts = [drift for _, _, _, drift in rows.values()]
    assert drifts == sorted(drifts)
    assert drifts[0] > 0
