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

jax.config.update("jax_num_cpu_devices", 8)

collect_ignore = ["data"]  # its scripts need torch, which no test does

if not hasattr(jax, "enable_x64"):  # before JAX 0.8
    from jax.experimental import enable_x64

    jax.enable_x64 = enable_x64


def pytest_sessionfinish(session, exitstatus):
    """Writes what the tests counted, for docs/reliability.md."""
    if path := os.environ.get("FTP_OPTAX_COUNTS"):
        import json

        from counting import COUNTS

        with open(path, "w") as file:
            json.dump(COUNTS, file)
