"""What a user installs: light to import, and the same version everywhere."""

import subprocess
import sys


def test_import_loads_nothing_but_jax_optax_and_the_package():
    """What takes long is to load other packages; how long is never asserted."""
    code = (
        "import sys, jax, jax.numpy, optax; before = set(sys.modules); import ftp_optax; "
        "print(*(set(sys.modules) - before))"
    )
    new = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "ftp_optax" in new
    assert {name.partition(".")[0] for name in new} <= {"ftp_optax", *sys.stdlib_module_names}
