"""What all tests share: eight CPU devices, a compiler that is quick rather than good, and which tests are slow."""

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

collect_ignore = ["data"]  # its scripts need torch, which no test does

if not hasattr(jax, "enable_x64"):  # before JAX 0.8
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


# What tells a contributor whether the library is right, in two minutes on two cores. All else is marked slow: it trains
# networks, or runs examples, benchmarks and notebooks, many of them in processes of their own.
LIBRARY = {
    *("test_anchor", "test_api_fuzz", "test_averaged", "test_contract", "test_digrap", "test_ftp"),
    *("test_hyper", "test_inspect", "test_l2_sp", "test_layers", "test_layout", "test_package", "test_pgm"),
    *("test_scale_free", "test_shardings", "test_spd", "test_table", "test_tpgm"),
    *("test_trees", "test_units", "test_versions", "test_wise_ft"),
}


def beyond_library(path):
    return path.parent.name == "tests" and path.suffix == ".py" and path.stem not in LIBRARY


def pytest_ignore_collect(collection_path, config):
    """Does not import what `pytest -m "not slow"` leaves out."""
    return True if config.option.markexpr == "not slow" and beyond_library(collection_path) else None


def pytest_collection_modifyitems(items):
    """Marks what is not the library's own answer; `pytest -m "not slow"` leaves it out."""
    for item in items:
        if beyond_library(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_sessionfinish(session, exitstatus):
    """Writes what the tests counted, for docs/reliability.md."""
    if path := os.environ.get("FTP_OPTAX_COUNTS"):
        import json

        from counting import COUNTS

        with open(path, "w") as file:
            json.dump(COUNTS, file)
