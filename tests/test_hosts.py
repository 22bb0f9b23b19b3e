"""The main job on several devices and several hosts: the same run, and nothing lost with a host that is."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import finetune

SCRIPT = Path(finetune.__file__)
FLAGS = (
    *("--smallest", "--seed", "0", "--labels", "all", "--epochs", "8", "--methods", "vanilla,ftp"),
    *("--save-every", "4", "--validate-every", "2"),
)
STEPS = 16


def environment(cache: Path, devices: int) -> dict[str, str]:
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))},
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": flags,
        "FTP_OPTAX_CACHE": str(cache),
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(cache: Path, out: Path, *flags: str, devices: int = 1) -> str:
    line = [sys.executable, str(SCRIPT), *flags, "--out", str(out)]
    done = subprocess.run(line, env=environment(cache, devices), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def single(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one device."""
    out = tmp_path_factory.mktemp("runs") / "single"
    run(cache, out, *FLAGS)
    return out


def assert_same_but_for_sums(run_dir: Path, other: Path) -> None:
    """The same weights and scores but for the order of sums, which Adam's first steps blow up where gradients are 0."""
    for name in ("pretrained", "vanilla", "ftp"):
        one, two = (load_file(folder / "weights" / f"{name}.safetensors") for folder in (run_dir, other))
        assert one.keys() == two.keys()
        for path in one:
            np.testing.assert_allclose(one[path], two[path], rtol=1e-3, atol=2e-4, err_msg=f"{name} {path}")
    rows, others = (json.loads((folder / "report.json").read_text())["rows"] for folder in (run_dir, other))
    for row, expected in zip(rows, others, strict=True):
        assert row["id"] == pytest.approx(expected["id"], abs=0.02)


def test_eight_devices_do_as_one(cache: Path, single: Path, tmp_path: Path) -> None:
    printed = run(cache, tmp_path / "run", *FLAGS, "--fsdp", devices=8)
    assert_same_but_for_sums(tmp_path / "run", single)
    assert "8 devices, parameters sharded" in printed
    devices = json.loads((tmp_path / "run/report.json").read_text())["versions"]["devices"]
    assert devices["count"] == 8
    assert devices["mesh"] == {"data": 8}
    assert devices["fsdp"]


def test_a_killed_run_goes_on_on_more_devices(cache: Path, single: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = [sys.executable, str(SCRIPT), *FLAGS, "--out", str(out)]
    process = subprocess.Popen(line, env=environment(cache, 1), stdout=subprocess.DEVNULL)
    while process.poll() is None and not (out / "checkpoints/ftp/4").exists():
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it must not have ended by itself"
    assert not (out / "weights/ftp.safetensors").exists()
    run(cache, out, "--resume", "--fsdp", devices=8)
    assert_same_but_for_sums(out, single)


def test_devices_that_cannot_share_a_batch_are_an_error_of_one_line(cache: Path, tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPT), *FLAGS, "--batch-size", "20", "--out", str(tmp_path / "run")]
    done = subprocess.run(line, env=environment(cache, 8), capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert re.fullmatch(r"error: --batch-size 20: 8 devices cannot share it evenly; give 16,.*\n", done.stderr)
    assert not (tmp_path / "run").exists()


def hosts(cache: Path, flags: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Two processes as two hosts, of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    line = [sys.executable, str(SCRIPT), *flags, "--coordinator", address, "--hosts", "2", "--host"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([*line, str(host)], env=environment(cache, 2), **pipes) for host in range(2)]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    results = []
    for process in processes:
        out, errors = process.communicate(timeout=240)
        results.append((process.returncode, out, errors))
    return results


def test_two_hosts_lose_one_and_go_on(cache: Path, single: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    team = hosts(cache, (*FLAGS, "--fsdp", "--out", str(out)))
    while all(member.poll() is None for member in team) and not (out / "checkpoints/ftp/4").exists():
        time.sleep(0.002)
    team[1].send_signal(signal.SIGKILL)
    results = ended(team)
    assert results[1][0] == -signal.SIGKILL, results
    code, _, errors = results[0]
    assert code == 2
    assert re.fullmatch(r"error: another host was lost. Continue with: python .* --resume\n", errors)
    assert not (out / "report.json").exists()

    for code, printed, errors in ended(hosts(cache, ("--resume", "--out", str(out)))):
        assert code == 0, printed + errors
    assert_same_but_for_sums(out, single)
