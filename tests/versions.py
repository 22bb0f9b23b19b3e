"""Runs the tests with the oldest and the newest of what the package promises, each in an environment of its own.

    python tests/versions.py                             # all three
    python tests/versions.py library                     # the library alone, on the oldest JAX: a few minutes
    python tests/versions.py oldest -- -k checkpoints    # what follows -- goes to pytest

Environments are kept in `.versions/`. pyproject.toml promises what is run here; `test_versions.py` compares the two.
What a compiled program costs (`test_cost.py` and the like) is asked of the newest compiler alone; so are benchmarks and
the site, whose recorded results are of the newest.
"""

import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


def floors() -> tuple[str, ...]:
    """The oldest version promised of every dependency of every extra, for pip: `name==version`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    promised = [requirement for extra in ("examples", "docs", "dev") for requirement in extras[extra]]
    return tuple(requirement.replace(">=", "==") for requirement in promised if ">=" in requirement)


class Versions(NamedTuple):
    """What is installed, besides the newest of all else, and what is run.

    Attributes:
        installed: for pip.
        run: for pytest.
        without: tests that are left out.
        extra: which of the package's extras comes with it.
    """

    installed: tuple[str, ...]
    run: tuple[str, ...]
    without: tuple[str, ...] = ()
    extra: str = "[dev]"


OF_COMPILER = ("tests/test_cost.py", "tests/test_benchmarks.py")
OF_BENCHMARKS = tuple(
    f"tests/test_{name}.py"
    for name in (
        "corruptions",
        "dense",
        "docs",
        "emoji",
        "evidence",
        "low_label",
        "past",
        "reliability",
        "robustness",
        "scenes",
    )
)
LIBRARY = (
    "ftp_optax",
    *(f"tests/test_{module}.py" for module in ("ftp", "digrap", "tpgm", "spd", "pgm", "l2_sp", "hyper")),
)
VERSIONS = {
    # the package needs jax and optax alone; flax and orbax of today need a newer jax than it does
    "library": Versions(
        ("jax==0.6.0", "jaxlib==0.6.0", "optax==0.2.8", "chex==0.1.90", "scikit-learn", "pytest", "pytest-xdist"),
        LIBRARY,
        extra="",
    ),
    "oldest": Versions(
        ("jax==0.8.1", "jaxlib==0.8.1", "optax==0.2.8", *floors()),
        ("ftp_optax", "tests"),
        OF_COMPILER + OF_BENCHMARKS,
    ),
    "newest": Versions(("--upgrade", "jax", "jaxlib", "optax", "flax"), ("ftp_optax", "tests")),
}


def run(name: str, arguments: list[str]) -> bool:
    """Whether the tests pass with these versions."""
    versions, folder = VERSIONS[name], ROOT / ".versions" / name
    if not folder.exists():
        venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    install = [python, "-m", "pip", "install", "-q", "-e", f"{ROOT}{versions.extra}", *versions.installed]
    subprocess.run(install, check=True)
    ignored = [f"--ignore={path}" for path in versions.without]
    return subprocess.run([python, "-m", "pytest", *versions.run, *ignored, *arguments], cwd=ROOT).returncode == 0


def main() -> None:
    """Runs what the command line names and says what failed."""
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    ours, theirs = sys.argv[1:at], sys.argv[at + 1 :]
    names = ours or list(VERSIONS)
    if unknown := set(names) - VERSIONS.keys():
        raise SystemExit(f"No versions named {', '.join(sorted(unknown))}; there are {', '.join(VERSIONS)}.")
    failed = [name for name in names if not run(name, theirs)]
    if failed:
        raise SystemExit(f"Failed with: {', '.join(failed)}.")
    print(f"Passed with: {', '.join(names)}.")


if __name__ == "__main__":
    main()
