"""What all tests share: eight CPU devices, and a compiler that is quick rather than good."""

import os

# Most of the suite's time is compile time, and these three make that a tenth. They change the machine code alone, not
# the HLO: buffers, aliasing and cost analyses stay. To test with the default compiler: XLA_FLAGS= python -m pytest
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

if not hasattr(jax, "enable_x64"):  # before JAX 0.8
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


# Each has a fixture that takes long to make: runs of the main job, a foundation model.
MADE_ONCE = {"continual", "corruptions", "dense", "efficientnet", "finetune", "foundation", "robustness", "vqa"}


def pytest_collection_modifyitems(items):
    """The tests of such a file go to one worker, so that its fixture is made once; all others where there is room."""
    for item in items:
        if item.path.stem.removeprefix("test_") in MADE_ONCE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_sessionfinish(session, exitstatus):
    """Writes what the tests counted, for docs/reliability.md."""
    if path := os.environ.get("FTP_OPTAX_COUNTS"):
        import json

        from counting import COUNTS

        with open(path, "w") as file:
            json.dump(COUNTS, file)
