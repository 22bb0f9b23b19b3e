"""What pyproject.toml promises is what `versions.py` runs."""

import re
import tomllib

import pytest
import versions

PROJECT = tomllib.loads((versions.ROOT / "pyproject.toml").read_text())["project"]
PROMISED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["examples"]]


def pinned(name: str) -> dict[str, str]:
    return dict(p.split("==") for p in versions.VERSIONS[name].installed if "==" in p)


@pytest.mark.parametrize(("name", "packages"), [("library", ["jax", "optax"]), ("oldest", ["flax"])])
def test_the_oldest_versions_promised_are_run(name, packages):
    oldest = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(PROMISED), flags=re.MULTILINE))
    for package in packages:
        assert pinned(name)[package].removesuffix(".0") == oldest[package].removesuffix(".0"), package


@pytest.mark.parametrize("extra", ["examples", "docs", "dev", "dinov2"])
def test_every_dependency_has_a_floor_and_the_oldest_are_run(extra):
    for requirement in PROJECT["optional-dependencies"][extra]:
        if requirement.startswith("ftp_optax["):
            continue
        assert re.fullmatch(r"[\w-]+(\[\w+\])?(>=|==)[\d.]+", requirement), requirement
        if ">=" in requirement and extra != "dinov2":
            assert requirement.replace(">=", "==") in versions.VERSIONS["oldest"].installed


@pytest.mark.parametrize("name", versions.VERSIONS)
def test_what_is_run_is_there(name):
    paths = (*versions.VERSIONS[name].run, *versions.VERSIONS[name].without)
    assert all((versions.ROOT / path).exists() for path in paths)
