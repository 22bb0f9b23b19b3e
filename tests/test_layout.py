"""The layout of every state is public API: a field that is renamed, moved or reshaped makes old checkpoints unreadable.

What such a change does to users is in docs/checkpoints.md. If one is meant, list it in CHANGELOG.md under *Changed* and
write the new layout down: `python tests/test_layout.py > tests/data/state_layouts.txt`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from ftp_optax import add_decayed_anchor, averaged, digrap, ftp, pgm, spd, tpgm

LAYOUTS = Path(__file__).parent / "data/state_layouts.txt"

SGD = optax.sgd(0.1)
MASK = {"body": True, "head": False}
PARAMS = {
    "body": {
        "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
        "kernel": jax.ShapeDtypeStruct((3, 4, 8), jnp.bfloat16),
    },
    "head": {"kernel": jax.ShapeDtypeStruct((8, 2), jnp.float32)},
}
LAYERED = {"layer_axes": lambda path, shape: int(path == "body/kernel"), "mask": MASK}
METHODS = {
    "ftp(sgd)": ftp(SGD, **LAYERED),
    "ftp(sgd, memory='lean')": ftp(SGD, memory="lean", mask={"body": {"bias": True, "kernel": False}, "head": False}),
    "digrap()": digrap(**LAYERED),
    "tpgm(sgd)": tpgm(SGD, **LAYERED),
    "spd(sgd)": spd(SGD, strength=0.1, **LAYERED),
    "pgm(sgd)": pgm(SGD, radius=0.1, **LAYERED),
    "add_decayed_anchor()": add_decayed_anchor(0.1, mask=MASK),
    "averaged(sgd)": averaged(SGD),
}


def layouts() -> str:
    """Every array of every state, in the order of the tree: field, dtype and shape."""
    text = ""
    for name, tx in METHODS.items():
        text += f"{name}\n"
        for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(tx.init, PARAMS)):
            text += f"    {jax.tree_util.keystr(path, simple=True, separator='/')}: {leaf.dtype}{list(leaf.shape)}\n"
    return text


def test_no_state_has_changed():
    assert layouts() == LAYOUTS.read_text()


if __name__ == "__main__":
    print(layouts(), end="")
