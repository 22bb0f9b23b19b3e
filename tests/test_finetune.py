"""The commands as their users run them: whole processes in their smallest size."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import finetune
from vision import evaluation, foundation, networks, training, weights
from vision.config import Config, load_config, parse_config
from vision.data import Domain
from vision.digits import digits_task
from vision.errors import UserError
from vision.folders import read_image

EXAMPLES = Path(finetune.__file__).parent
METHODS = Config().method_names
ONE_RUN = ("--smallest", "--seed", "0", "--labels", "all")
# Long enough that a run can be killed while it trains.
SMALLEST = (
    *(*ONE_RUN, "--epochs", "12", "--methods", ",".join(METHODS), "--wise-path"),
    *("--save-every", "2", "--validate-every", "2"),
)
STEPS = 24

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tests' own cache, and a compiler set up as for the tests."""
    return {**os.environ, "FTP_OPTAX_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def command(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs one of the scripts to its end, in a directory of its own."""
    work = tmp_path_factory.mktemp("work")

    def run(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(EXAMPLES / script), *map(str, args)]
        return subprocess.run(line, env=environment, cwd=work, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="module")
def baseline(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of all methods, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "baseline"
    done = command("finetune.py", *SMALLEST, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def report_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text())


def write_images(root: Path, domain: Domain, names: Sequence[str], count: int = 40) -> None:
    """The first images of a domain as files, one sub-folder a class."""
    for index in range(count):
        folder = root / names[int(domain.labels[index])]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(domain[index]["image"]).save(folder / f"{index}.png")


def assert_same_run(run_dir: Path, other: Path) -> None:
    """The same files of weights to the last byte and the same report, but for how long it took."""
    names = sorted(path.name for path in (other / "weights").iterdir())
    assert sorted(path.name for path in (run_dir / "weights").iterdir()) == names
    for name in names:
        one, two = ((folder / "weights" / name).read_bytes() for folder in (run_dir, other))
        assert one == two, name
    reports = [report_of(folder) for folder in (run_dir, other)]
    assert all(report.pop("timing") for report in reports)
    assert reports[0] == reports[1]


def test_run_directory_holds_everything(baseline: tuple[Path, str]) -> None:
    run_dir, printed = baseline
    assert {path.name for path in run_dir.iterdir()} == {
        *("config.json", "report.json", "frontier.png", "radii.png", "radii.csv", "examples.png"),
        *("checkpoints", "weights", "logs"),
    }
    report = report_of(run_dir)["methods"]
    better_before = {f"{name}-best" for name in METHODS if report[name]["best"]["step"] < STEPS}
    assert {path.stem for path in (run_dir / "weights").iterdir()} == {*METHODS, *better_before, "pretrained"}
    assert better_before, "a case of it"
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {*METHODS}
    for method in METHODS:
        steps = [int(path.name) for path in (run_dir / "checkpoints" / method).iterdir()]
        assert steps == [STEPS], "of a finished run the last state is kept"
        rows = (run_dir / "logs" / f"{method}.csv").read_text().splitlines()
        assert rows[0].startswith("step,loss,accuracy,")
        assert rows[-1].startswith(f"{STEPS},")
    for figure in run_dir.glob("*.png"):
        with Image.open(figure) as image:
            image.load()
            assert min(image.size) > 400
    assert f"{run_dir}\n" in printed
    assert f"predict.py {run_dir} IMAGE" in printed.splitlines()[-1]
    assert "\x1b" not in printed
    assert "\r" not in printed


def test_table_shows_the_report(baseline: tuple[Path, str]) -> None:
    run_dir, printed = baseline
    report = report_of(run_dir)
    cut = lambda edge: [re.split(f"\\s*{edge}\\s*", line)[1:-1] for line in printed.splitlines() if line[0:1] == edge]
    header, rows = [" ".join(words).strip() for words in zip(*cut("┃"), strict=True)], cut("│")
    ood = list(report["rows"][0]["ood"])
    assert header == ["", "ID photo", *ood, "mean seen", "mean held out", "mean OOD"]
    assert [row[0] for row in rows] == ["pre-trained", *METHODS, *(f"{name} + WiSE 0.5" for name in METHODS)]
    for shown, row in zip(rows, report["rows"], strict=True):
        numbers = [row["id"], *row["ood"].values(), *row["ood_group_means"].values(), row["ood_mean"]]
        assert shown == [row["name"], *(f"{100 * number:.1f}" for number in numbers)]


def test_report_is_consistent(baseline: tuple[Path, str]) -> None:
    report = report_of(baseline[0])
    rows = {row["name"]: row for row in report["rows"]}
    for row in report["rows"]:
        for group, members in report["task"]["ood_groups"].items():
            assert row["ood_group_means"][group] == pytest.approx(np.mean([row["ood"][m] for m in members]))
        assert row["ood_mean"] == pytest.approx(np.mean(list(row["ood"].values())))
    for name, method in report["methods"].items():
        path = {point["alpha"]: point for point in method["wise_path"]}
        assert path[0.0]["ood"] == rows["pre-trained"]["ood"]
        assert path[1.0]["ood"] == rows[name]["ood"]
        assert path[0.5]["id"] == rows[f"{name} + WiSE 0.5"]["id"]
        assert method["steps"] == STEPS
        assert bool(method["radii"]) == ("ftp" in name)
        assert bool(method["strengths"]) == ("digrap" in name)
        assert set(method["drift"]) == set(networks.depth_order("small-cnn"))
        assert min(method["drift"].values()) > 0
    assert report["model"]["parameters"] == sum(
        array.size for array in load_file(baseline[0] / "weights" / "ftp.safetensors").values()
    )


@pytest.mark.parametrize("name", ["pretrained", "ftp+digrap"])
def test_saved_weights_have_the_reported_accuracy(baseline: tuple[Path, str], name: str) -> None:
    run_dir, _ = baseline
    task = digits_task(0, smallest=True)
    model: Any = networks.blank_model("small-cnn", len(task.classes))
    assert weights.load_pretrained(run_dir / "weights" / f"{name}.safetensors", model) == ()
    row_name = "pre-trained" if name == "pretrained" else name
    (row,) = (row for row in report_of(run_dir)["rows"] if row["name"] == row_name)
    for domain, reported in ((task.id_test, row["id"]), (task.ood["stripes"], row["ood"]["stripes"])):
        images = jnp.asarray(np.stack([domain[i]["image"] for i in range(len(domain))]))
        assert float((model(images).argmax(-1) == domain.labels).mean()) == pytest.approx(reported)


def test_killed_run_resumes_to_the_same_end(
    baseline: tuple[Path, str], environment: dict[str, str], command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    line = [sys.executable, str(EXAMPLES / "finetune.py"), *SMALLEST, "--out", str(out)]
    process = subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    first_checkpoint = out / "checkpoints" / "ftp" / "4"
    while process.poll() is None and not first_checkpoint.exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it must not have ended by itself"
    assert not (out / "checkpoints" / "ftp" / str(STEPS)).exists()
    assert not (out / "weights" / "ftp.safetensors").exists()

    done = command("finetune.py", "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(out, baseline[0])


def test_interrupted_run_says_how_to_go_on(environment: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    flags = (*ONE_RUN, "--epochs", "5000", "--save-every", "2")
    line = [sys.executable, str(EXAMPLES / "finetune.py"), *flags, "--out", str(out)]
    process = subprocess.Popen(
        line, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (out / "checkpoints" / "vanilla" / "2").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    last = errors.splitlines()[-1]  # with an old jaxlib grain warns of it before
    assert last == f"Stopped. Continue with: python {EXAMPLES / 'finetune.py'} --out {out.name} --resume"
    assert "Traceback" not in errors


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_the_checkpoint(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "diverged"
    flags = (*ONE_RUN, "--epochs", "12", "--methods", "vanilla", "--lr", "1e18", "--clip", "0", "--save-every", "1")
    done = command("finetune.py", *flags, "--out", out)
    assert done.returncode == 2
    said = re.search(
        r"^error: vanilla: (the loss is (nan|inf) at step|parameters are not finite after step) (\d+)", done.stderr
    )
    assert said, done.stderr
    kept = sorted(int(path.name) for path in (out / "checkpoints" / "vanilla").iterdir())
    assert kept
    assert kept[-1] < int(said[3])
    assert f"the checkpoint of step {kept[-1]} is kept in {out / 'checkpoints' / 'vanilla'}" in done.stderr
    assert done.stderr.count("\n") == 1
    again = command("finetune.py", "--out", out, "--resume")
    assert again.returncode == 2
    assert again.stderr == done.stderr, "nothing is lost, and it says the same"


def test_a_finished_run_is_shown_again(baseline: tuple[Path, str], command: Command) -> None:
    shown = command("finetune.py", "--out", baseline[0], "--resume")
    assert shown.returncode == 0, shown.stderr
    table = baseline[1][baseline[1].index("Accuracy in %") :]
    assert shown.stdout.strip() == table.strip()


def test_several_seeds_and_numbers_of_labels_and_a_sweep(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ("--smallest", "--methods", "vanilla,pgm", "--seeds", "0,3", "--labels", "20,all")
    done = command("finetune.py", *flags, "--sweep", "pgm-radius=0.01,100", "lr=0.001,0.003", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation accuracy") == 2 * (2 + 4)
    for labels, images in (("20", 20), ("all", 64)):
        first, second = (out / f"labels-{labels}" / f"seed-{seed}" for seed in (0, 3))
        chosen = json.loads((first / "knobs.json").read_text())
        assert chosen.keys() == {"vanilla", "pgm"}
        assert chosen["pgm"].keys() == {"pgm_radius", "lr"}
        assert json.loads((second / "knobs.json").read_text()) == chosen
        reports = [report_of(first), report_of(second)]
        assert [report["config"]["seed"] for report in reports] == [0, 3]
        for report in reports:
            assert report["methods"]["pgm"]["knobs"]["pgm_radius"] == chosen["pgm"]["pgm_radius"]
            assert report["methods"]["pgm"]["steps"] == 4
            assert report["task"]["train_images"] == images
        assert {path.name for path in (first / "checkpoints").iterdir()} == {"vanilla", "pgm"}
        for name in ("vanilla", "pgm"):
            rows = (first / "logs" / f"{name}.csv").read_text().splitlines()
            assert rows[-1].startswith("4,"), "the log of the chosen trial is the method's"
        assert (first / "examples.png").exists()
        assert not (second / "examples.png").exists()
        (summary,) = (one for one in report_of(out)["summaries"] if one["labels"] == labels)
        for row in summary["rows"]:
            values = [next(r for r in report["rows"] if r["name"] == row["name"])["id"] for report in reports]
            assert row["id"]["mean"] == pytest.approx(np.mean(values))
    assert (out / "gains.png").exists()
    again = command("finetune.py", "--out", out, "--resume")
    assert again.returncode == 0, again.stderr
    told = again.stdout.split("\n\nReport, figures")[0].strip()
    assert told
    assert told in done.stdout
    shown = command("predict.py", out, EXAMPLES / "images" / "three.png")
    assert shown.returncode == 0, shown.stderr
    weights_file = out / "labels-all" / "seed-0" / "weights" / "pgm.safetensors"
    assert f"The weights are {weights_file}, those of the run's last method." in " ".join(shown.stdout.split())

    # killed before it had the choice that all seeds share
    part = out / "labels-20" / "seed-3"
    chosen = json.loads((part / "knobs.json").read_text())
    for path in (out / "report.json", part / "report.json", part / "knobs.json"):
        path.unlink()
    assert command("finetune.py", "--out", out, "--resume").returncode == 0
    assert json.loads((part / "knobs.json").read_text()) == chosen


def test_seeds_and_numbers_of_labels_compile_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTP_OPTAX_CACHE", str(tmp_path / "cache"))
    steps: set[Any] = set()
    programs: list[Any] = [evaluation._predict, foundation._step, training._scores]
    made = training.make_step
    monkeypatch.setattr(training, "make_step", lambda *args, **options: [steps.add(s := made(*args, **options)), s][1])
    before = [program._cache_size() for program in programs]
    flags = ("--smallest", "--methods", "vanilla,ftp,digrap", "--seeds", "0,1", "--labels", "10,all")
    assert finetune.main((*flags, "--out", str(tmp_path / "run"))) == 0
    assert [step._cache_size() for step in steps] == [1] * 3
    assert all(program._cache_size() <= 1 + size for program, size in zip(programs, before, strict=True))


def test_one_seed_of_several_is_a_run_like_any_other(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = (
        "--smallest",
        "--methods",
        "vanilla",
        "--seeds",
        "3",
        "--labels",
        "20",
        "--batch-size",
        "300",
        "--epochs",
        "1",
    )
    done = command("finetune.py", *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert (report["config"]["seed"], report["task"]["train_images"]) == (3, 20)
    assert report["methods"]["vanilla"]["steps"] == 1
    assert max(report["methods"]["vanilla"]["drift"].values()) > 0, "a run of one step learns"
    shown = command("predict.py", out, EXAMPLES / "images" / "three.png", "--method", "vanilla")
    assert shown.returncode == 0, shown.stderr
    assert "These are" not in shown.stdout, "it was asked for"


def test_what_a_newcomer_sees() -> None:
    """Without flags: few labels beside all of them, several seeds; elsewhere nothing of it."""
    seen = parse_config(())
    assert (seen.label_counts, seen.seed_list) == ((30, None), (0, 1, 2, 3, 4))
    assert seen.method_names == ("vanilla", "vanilla_averaged", "ftp", "digrap")
    assert parse_config(("--smallest",)).several
    for flags in (
        ("--train", "a", "--val", "b"),
        ("--model", "efficientnet-lite0"),
        ("--seed", "3", "--labels", "all"),
    ):
        assert not parse_config(flags).several
    assert parse_config(("--seed", "3")).seed_list == (3,)
    assert parse_config(("--labels", "50")).label_counts == (50,)
    assert parse_config(("--select", "best")).validate_every is None


def test_what_is_projected_after_training_is_what_validation_sees(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = (*ONE_RUN, "--methods", "tpgm_project", "--lr", "0.03", "--project-steps", "5")
    done = command("finetune.py", *flags, "--sweep", "radii-lr=0.01,0.1", "--out", out)
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    (row,) = (row for row in report["rows"] if row["name"] == "tpgm_project")
    last = report["methods"]["tpgm_project"]["validations"][-1]
    assert last["accuracy"] == pytest.approx(row["validation"])


def test_validation_chooses_when_to_stop_and_what_to_report(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = (*ONE_RUN, "--methods", "vanilla", "--epochs", "20", "--patience", "3", "--select", "best")
    done = command("finetune.py", *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    report = report_of(out)["methods"]["vanilla"]
    looks = report["validations"]
    assert report["stopped_early"]
    assert report["steps"] == looks[-1]["step"] < 40
    accuracies = [look["accuracy"] for look in looks]
    assert len(accuracies) - 1 - int(np.argmax(accuracies)) == 3
    assert report["best"] == {"step": looks[int(np.argmax(accuracies))]["step"], "validation": max(accuracies)}
    task, model = digits_task(0, smallest=True), networks.blank_model("small-cnn", 10)
    weights.load_pretrained(out / "weights" / "vanilla-best.safetensors", model)
    images = jnp.asarray(np.stack([task.validation[i]["image"] for i in range(len(task.validation))]))
    assert float((model(images).argmax(-1) == task.validation.labels).mean()) == pytest.approx(max(accuracies))


@pytest.mark.parametrize("same_classes", [True, False], ids=["same classes", "other classes"])
def test_own_folders(baseline: tuple[Path, str], command: Command, tmp_path: Path, same_classes: bool) -> None:
    task = digits_task(0, smallest=True)
    names = task.classes if same_classes else [f"number {name}" for name in task.classes]
    write_images(tmp_path / "train", task.train, names)
    write_images(tmp_path / "val", task.id_test, names)
    write_images(tmp_path / "clean", task.ood["clean"], names)
    write_images(tmp_path / "striped", task.ood["stripes"], names)
    pretrained = baseline[0] / "weights" / "vanilla.safetensors"
    out = tmp_path / "run"
    done = command(
        "finetune.py", "--smallest", "--model", "small-cnn", "--pretrained", pretrained, "--image-size", 16,
        "--train", tmp_path / "train", "--val", tmp_path / "val", "--ood", f"clean={tmp_path / 'clean'}",
        "--ood", f"striped={tmp_path / 'striped'}", "--methods", "ftp", "--out", out, "--wise-alpha", 0.25,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert report["task"]["classes"] == sorted(names)
    assert report["task"]["test_images"] == {"id": 40, "ood/clean": 40, "ood/striped": 40}
    assert report["model"]["new_head"] is not same_classes
    rows = [row["name"] for row in report["rows"]]
    start = load_file(out / "weights" / "pretrained.safetensors")
    assert np.array_equal(start["conv2/kernel"], load_file(pretrained)["conv2/kernel"])
    kept_head = np.array_equal(start["head/kernel"], load_file(pretrained)["head/kernel"])
    if same_classes:
        assert rows == ["pre-trained", "ftp", "ftp + WiSE 0.25"]
        assert kept_head
        assert "head/kernel" in report["methods"]["ftp"]["radii"]
    else:
        assert rows == ["ftp", "ftp + WiSE 0.25"]
        assert not kept_head
        assert report["methods"]["ftp"]["radii"].keys() == {
            path for path in networks.depth_order("small-cnn") if not path.startswith("head/")
        }


def test_a_data_set_of_domains(baseline: tuple[Path, str], command: Command, tmp_path: Path) -> None:
    """One root, other names of classes in one of its domains, and a subset of them: the whole way to the report."""
    task = digits_task(0, smallest=True)
    root, few = tmp_path / "root", {"0", "3", "8"}
    write_images(root / "clean", task.ood["clean"], task.classes, count=64)
    write_images(root / "striped", task.ood["stripes"], [f"number {name}" for name in task.classes])
    write_images(root / "inverted", task.ood["inverted"], task.classes)
    for folder in (root / "striped").iterdir():
        if folder.name[-1] not in few:
            shutil.rmtree(folder)
    class_map = tmp_path / "map.json"
    class_map.write_text(json.dumps({f"number {name}": name for name in task.classes}))
    out = tmp_path / "run"
    done = command(
        "finetune.py", "--smallest", "--model", "small-cnn", "--image-size", 16, "--dataset", root, "--id", "clean",
        "--pretrained", baseline[0] / "weights" / "pretrained.safetensors", "--methods", "vanilla", "--out", out,
        "--class-map", class_map, "--ood-subset", "--val-fraction", 0.2, "--lr", 0.03,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert report["task"]["id"] == "clean"
    assert report["task"]["scored_among"] == {"inverted": 10, "striped": 3}
    assert "ID clean: 20 % of every class for validation and as many for the test, at random, seed 0\n" in done.stdout
    assert re.search(r"^reading images +(\d+)/\1", done.stdout, flags=re.MULTILINE)
    assert "Domains scored among fewer than all 10 classes: striped 3." in " ".join(done.stdout.split())
    counts = report["task"]["test_images"]
    assert counts["id"] == counts["validation"]
    assert counts["id"] + counts["validation"] + report["task"]["train_images"] == 64

    model: Any = networks.blank_model("small-cnn", 10)
    weights.load_pretrained(out / "weights" / "vanilla.safetensors", model)
    files = sorted((root / "striped").glob("*/*.png"))
    labels = np.array([int(path.parent.name[-1]) for path in files])
    logits = np.array(model(jnp.asarray(np.stack([read_image(path, 16) for path in files]))))
    among = sorted(map(int, few))
    expected = (np.array(among)[logits[:, among].argmax(-1)] == labels).mean()
    assert expected != (logits.argmax(-1) == labels).mean(), "it makes a difference"
    (row,) = (row for row in report["rows"] if row["name"] == "vanilla")
    assert row["ood"]["striped"] == pytest.approx(expected)


def test_predict_classifies_as_the_model_does(baseline: tuple[Path, str], command: Command, tmp_path: Path) -> None:
    run_dir, _ = baseline
    task = digits_task(0, smallest=True)
    files = []
    for index in range(6):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(task.id_test[index]["image"]).save(files[-1])
    done = command("predict.py", run_dir, *files, "--method", "digrap", "--top", 2)
    assert done.returncode == 0, done.stderr
    model: Any = networks.blank_model("small-cnn", len(task.classes))
    weights.load_pretrained(run_dir / "weights" / "digrap.safetensors", model)
    logits = np.asarray(model(jnp.asarray(np.stack([task.id_test[i]["image"] for i in range(6)]))))
    shown = [re.split(r"\s*│\s*", line)[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    for row, file, scores in zip(shown, files, logits, strict=True):
        best, second = np.argsort(-scores)[:2]
        assert row[0] == str(file)
        assert (row[1], row[3]) == (task.classes[best], task.classes[second])
        assert 100 >= float(row[2]) >= float(row[4]) >= 0


def test_the_lines_on_the_site_load_a_result(baseline: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXAMPLES.parent / "docs" / "models.md").read_text()
    (lines,) = (
        block for block in re.findall(r"```\{code-block\} python\n(.*?)```", page, re.DOTALL) if "RUN_DIR" in block
    )
    exec(compile(lines, "models.md", "exec"), {"RUN_DIR": baseline[0], "IMAGE": EXAMPLES / "images" / "three.png"})
    assert capsys.readouterr().out.strip() in digits_task(0, smallest=True).classes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere", "x.png"), r"nowhere.config\.json: no such file"),
        (("RUN", "missing.png"), r"missing\.png does not exist"),
        (
            ("RUN", "IMAGE", "--method", "sgd"),
            "--method sgd: the run in .* has vanilla, ftp, digrap, ftp.digrap, pretr",
        ),
        (("RUN", "IMAGE", "--top", "11"), "--top 11: the run has 10 classes"),
        (("RUN",), "name at least one image"),
    ],
    ids=["no run", "no image", "unknown method", "too many classes", "nothing to do"],
)
def test_predict_errors_are_one_line(
    baseline: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    import predict

    image = tmp_path / "image.png"
    Image.new("RGB", (20, 20)).save(image)
    given = [{"RUN": str(baseline[0]), "IMAGE": str(image)}.get(arg, arg) for arg in args]
    assert predict.main(given) == 2
    errors = capfd.readouterr().err
    assert re.fullmatch(f"error: .*{message}.*\n", errors)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--methods", "vanilla,sgd"),
            "--methods sgd: unknown; the methods are vanilla, vanilla_averaged, ftp, ftp_exact, ftp_scale_free",
        ),
        (("--methods", "ftp,ftp"), "none twice"),
        (("--methods", ","), "at least one method"),
        (("--epochs", "0"), "--epochs 0: out of range"),
        (("--lr", "nan"), "--lr nan: out of range; give a number above 0"),
        (("--wise-alpha", "1.5"), "--wise-alpha 1.5: out of range; give a number in 0..1, auto or best"),
        (
            ("--average", "ema", "--batch-norm", "live"),
            "--average ema: live statistics .*; leave it or --batch-norm live out",
        ),
        (("--seeds", "0,0"), "--seeds 0,0: give whole numbers, none twice"),
        (("--seeds", "0,x"), "--seeds 0,x: give whole numbers"),
        (("--labels", "x"), "--labels x: give whole numbers from 1 on, or all, none twice, such as 30,all"),
        (("--labels", "0"), "--labels 0: give whole numbers from 1 on"),
        (("--labels", "30,030"), "--labels 30,030: give whole numbers"),
        (("--labels", "30,301"), "--labels 301: there are 300 training images; give at most 300, or all"),
        (("--labels", "all,9"), "--labels 9: every class needs an image; give 10 or more"),
        (
            ("--methods", "vanilla_averaged", "--batch-norm", "live"),
            "--methods vanilla_averaged: live .*; leave it or --batch-norm live out",
        ),
        (("--sweep", "radii=1,2"), "--sweep radii=1,2: no number to choose is called 'radii'; one of .*radii-lr"),
        (("--sweep", "lr=0.1"), "--sweep lr=0.1: give two values or more"),
        (("--sweep", "lr=0.1,-1"), "--lr -1.0: out of range"),
        (("--hosts", "2"), "--coordinator HOST:PORT"),
        (("--hosts", "2", "--host", "2"), "--host 2: out of range; give a whole number from 0 on, below --hosts 2"),
        (("--coordinator", "x:1"), "--coordinator: all hosts write to one directory; name it"),
        (("--patience", "2", "--validate-every", "0"), "leave --validate-every 0 out"),
        (("--augment", "light"), "--augment light: mirrors images"),
        (("--wandb", "x"), "--wandb x: the package is missing"),
        (("--dtype", "bfloat16", "--methods", "ftp_lean"), "--dtype bfloat16: ftp_lean needs float32 parameters"),
        (("--freeze", "x/*", *ONE_RUN), "--freeze x/.: no parameter has such a path"),
        (("--test", "a"), "--train DIR or --dataset ROOT"),
        (("--train", "a"), "--val DIR"),
        (("--ood", "x=y"), "--train DIR"),
        (("--train", "a", "--val", "b", "--ood", "sketch"), "--ood sketch: give a name and a folder"),
        (("--train", "a", "--val", "b", "--ood", "x=1", "x=2"), "--ood x=...: given twice"),
        (("--train", "a", "--val", "b", "--model", "small-cnn"), "--pretrained FILE"),
        (("--out", "here"), "here: exists already"),
        (("--resume",), "--out DIR --resume"),
        (("--out", "here", "--resume"), "here/config.json: no such file"),
        (("--train", "no", "--val", "no"), "no does not exist"),
        (("--train", "a", "--val", "b", "--class-map", "no.json"), "no.json does not exist"),
        (("--class-map", "no.json"), "--train DIR or --dataset ROOT"),
        (("--ood-subset",), "--train DIR or --dataset ROOT"),
        (("--id", "x"), "--dataset ROOT"),
        (("--train", "a", "--val", "b", "--val-fraction", "0.2"), "--dataset ROOT"),
        (("--dataset", "a", "--val-fraction", "0.5"), "--val-fraction 0.5: out of range"),
        (("--dataset", "a", "--id", "x", "--train", "b"), "leave --train, --val and --test out"),
        (("--dataset", "a", "--id", "x", "--ood", "y=b"), "--ood y=b: with --dataset, name one of its domains"),
        (("--dataset", "a", "--id", "x", "--ood", "y", "y"), "--ood y: given twice"),
        (("--dataset", "a", "--id", "x", "--model", "small-cnn"), "--pretrained FILE"),
        (("--dataset", "no", "--id", "x"), "no does not exist"),
        (("--dataset", "empty", "--id", "x"), "empty has no domains"),
        (("--dataset", "no.csv"), "no.csv does not exist"),
        (("--dataset", "no.csv", "--id", "x"), "leave --id and --val-fraction out"),
        (("--train", "empty", "--val", "empty"), "empty has no class folders"),
        (("--pretrained", "no.safetensors", *ONE_RUN), "no.safetensors"),
        (("--pretrained", "broken.safetensors", *ONE_RUN), "broken.safetensors"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert finetune.main(args) == 2
    printed = capfd.readouterr()
    assert re.fullmatch(f"error: .*{message}.*\n", printed.err)
    assert printed.out == ""
    assert not list(tmp_path.glob("runs/*"))


def test_resume_refuses_flags_that_contradict_the_run(baseline: tuple[Path, str]) -> None:
    resume = ("--out", str(baseline[0]), "--resume")
    assert parse_config(resume) == parse_config((*resume, "--epochs", "12", "--lr", "1e-3", "--smallest"))
    for flag, value in (("--epochs", "15"), ("--lr", "0.01"), ("--methods", "ftp"), ("--dtype", "bfloat16")):
        with pytest.raises(UserError, match=f"{flag} {value}: the run in .* has"):
            parse_config((*resume, flag, value))


def test_configuration_survives_its_file(tmp_path: Path) -> None:
    config = parse_config(
        ("--train", "a", "--val", "b", "--ood", "x=c", "y=d", "--ood", "z=e=f", "--out", str(tmp_path / "run"))
    )
    assert config.model == "efficientnet-lite0"
    assert config.ood_folders == {"x": Path.cwd() / "c", "y": Path.cwd() / "d", "z": Path.cwd() / "e=f"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_json()))
    assert load_config(tmp_path / "run") == config
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not the configuration of a run"):
        load_config(tmp_path / "run")


def test_configuration_of_a_data_set_survives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--dataset", "root", "--id", "Real World", "--ood", "Art", "Clip Art", "--class-map", "map.json")
    config = parse_config((*flags, "--ood-subset", "--val-fraction", "0.2", "--out", "run"))
    assert (config.model, config.task_name, config.ood_names) == ("efficientnet-lite0", "folders", ("Art", "Clip Art"))
    assert (config.dataset, config.class_map) == (tmp_path / "root", tmp_path / "map.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.to_json()))
    assert load_config(tmp_path / "run") == config
    resume = ("--out", "run", "--resume")
    assert parse_config(resume) == parse_config((*resume, *flags, "--ood-subset"))
    assert parse_config(resume).to_json() == config.to_json()
    with pytest.raises(UserError, match=r"--id Art: the run in .* has Real World"):
        parse_config((*resume, "--id", "Art"))


def test_a_run_of_the_first_version_is_read_with_the_released_rate_of_radii(tmp_path: Path) -> None:
    stored = parse_config(["--out", str(tmp_path)]).to_json()
    for name in ("radii_lr", "dataset", "id", "val_fraction", "class_map", "ood_subset"):
        del stored[name]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load_config(tmp_path).radii_lr == 0.01


def test_help_explains_every_flag(command: Command) -> None:
    shown = command("finetune.py", "--help")
    assert shown.returncode == 0
    for flag in (
        *("methods", "model", "train", "val", "ood", "pretrained", "out", "seed", "seeds", "epochs", "lr", "radii-lr"),
        *("batch-size", "dtype", "image-size", "wise-alpha", "smallest", "resume"),
        *("class-map", "ood-subset", "dataset", "id", "val-fraction", "labels"),
    ):
        assert f"--{flag}" in shown.stdout


def test_help_breaks_lines_only_where_they_are_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_config(("--help",))
    texts = [re.findall(r"^(?:│ {19,20}| {20,21})(\S.*?) *│?$", line) for line in capsys.readouterr().out.splitlines()]
    pairs = [(*one, *two) for one, two in itertools.pairwise(texts) if one and two]
    assert len(pairs) > 50
    for line, following in pairs:
        assert len(f"{line} {following.split()[0]}") > 58, f"{following!r} begins with a word that fits above"
