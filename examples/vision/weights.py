"""Weights of an NNX model by path: into safetensors files and Orbax checkpoints, and back.

A path joins the attribute names from the model down to the array: `blocks/0/expand/kernel`. Kept are
parameters and batch-norm statistics; everything else of a model (random states, caches) is not its
weights.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.flax
from flax import nnx, traverse_util

from vision.errors import UserError
from vision.files import atomic_write

_T = TypeVar("_T", np.ndarray, str)
_HEAD = "head/"
_ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA")
_ORBAX_ADVICE = "give the directory that StandardCheckpointer wrote, or a .safetensors file"
_FIT = "give weights of this model (examples/finetune.py writes them), or choose another --model"


def model_variables(model: nnx.Module) -> dict[str, nnx.Variable]:
    """The model's parameters and batch-norm statistics themselves, by path."""
    return {
        "/".join(str(key) for key in path): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Param | nnx.BatchStat)
    }


def set_arrays(model: nnx.Module, arrays: Mapping[str, jax.Array]) -> None:
    """Sets variables of a model by path, those of an abstract model (`nnx.eval_shape`) too."""
    flat = {tuple(int(key) if key.isdigit() else key for key in path.split("/")): a for path, a in arrays.items()}
    nnx.update(model, traverse_util.unflatten_dict(flat))


def model_arrays(model: nnx.Module) -> dict[str, jax.Array]:
    """The model's parameters and batch-norm statistics by path."""
    return {path: variable[...] for path, variable in model_variables(model).items()}


def save_safetensors(path: str | Path, model: nnx.Module, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the model's weights as one safetensors file, all of it or nothing.

    Args:
        path: the file; one that exists is replaced.
        model: whose parameters and batch-norm statistics are written, in their own dtypes.
        metadata: strings for the file's header, such as the model's name and its classes.
    """
    # A header must not be without a format: other readers of safetensors ask for one.
    header = {"format": "flax", **(metadata or {})}
    atomic_write(path, _canonical(safetensors.flax.save(model_arrays(model), header)))


def load_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file by name; bfloat16 stays bfloat16.

    Raises:
        UserError: the file is missing, damaged, or no safetensors file.
    """
    return _read(path, lambda file: {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def load_metadata(path: str | Path) -> dict[str, str]:
    """Reads the strings in the header of a safetensors file.

    Raises:
        UserError: the file is missing, damaged, or no safetensors file.
    """
    return _read(path, lambda file: dict(file.metadata() or {}))


def save_orbax(path: str | Path, model: nnx.Module) -> None:
    """Writes the model's weights as a new Orbax checkpoint directory.

    Raises:
        UserError: the path exists.
    """
    path = Path(path).resolve()
    if path.exists():
        raise UserError(f"{path}: exists already; remove it, or choose another directory")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, traverse_util.unflatten_dict(model_arrays(model), sep="/"))


def load_orbax(path: str | Path) -> dict[str, jax.Array]:
    """Reads the arrays of an Orbax checkpoint of a model's state, by path.

    Args:
        path: a directory that `StandardCheckpointer` wrote: of `nnx.state(model)`, of its pure
            dict, or by `save_orbax`.

    Raises:
        UserError: the directory is missing, damaged, or no such checkpoint.
    """
    path = Path(path).resolve()
    if not all((path / name).is_file() for name in _ORBAX_FILES):
        raise UserError(f"{path}: not a whole Orbax checkpoint directory; {_ORBAX_ADVICE}")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path).item_metadata
            # Asked for on this machine's device: the checkpoint may name devices of another.
            sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                stored.tree,
            )
            restored = checkpointer.restore(path, target)
    except Exception as error:  # Orbax and TensorStore document no errors for a damaged directory
        raise UserError(f"{path}: not a checkpoint of a model's state ({_one_line(error)}); {_ORBAX_ADVICE}") from error
    return {_join(keys): array for keys, array in nnx.traversals.flatten_mapping(restored).items()}


def load_pretrained(path: str | Path, model: nnx.Module) -> tuple[str, ...]:
    """Fills the model in place from a file or directory of weights.

    Args:
        path: a safetensors file or an Orbax checkpoint directory.
        model: the model; unchanged if the weights do not fit.

    Returns:
        The paths of the classifier's leaves if the weights are for another number of classes: they
        keep their initial values.

    Raises:
        UserError: the path is missing or damaged, or its weights do not fit the model.
    """
    arrays = load_orbax(path) if Path(path).is_dir() else load_safetensors(path)
    return fill_model(model, arrays, source=path)


def fill_model(
    model: nnx.Module, arrays: Mapping[str, np.ndarray | jax.Array], *, source: str | Path
) -> tuple[str, ...]:
    """Sets every parameter and batch-norm statistic of the model; checks first, then changes.

    Args:
        model: filled in place. Each leaf keeps its dtype (floating-point weights are cast to it)
            and its sharding.
        arrays: the weights by path.
        source: where they come from, for the error messages.

    Returns:
        As `load_pretrained`.

    Raises:
        UserError: the weights do not fit the model.
    """
    variables = model_variables(model)
    _refuse(source, "has no", variables.keys() - arrays.keys(), model)
    _refuse(source, "has unknown", arrays.keys() - variables.keys(), model)
    skipped = _other_head(variables, arrays)
    wrong = {
        f"{path} of shape {tuple(arrays[path].shape)}, not {tuple(variable.shape)}"
        for path, variable in variables.items()
        if path not in skipped and arrays[path].shape != variable.shape
    }
    _refuse(source, "has", wrong, model)
    integers = {
        f"{path} of dtype {arrays[path].dtype}"
        for path in variables
        if not jnp.issubdtype(arrays[path].dtype, jnp.floating)
    }
    _refuse(source, "has", integers, model)
    for path in variables.keys() - skipped:
        old = variables[path][...]
        # Cast by NumPy, on the host: JAX would compile one program for each shape.
        new = np.array(arrays[path], old.dtype, order="C")
        # Committed to a device only if the old one was: a step whose arguments become so compiles a second time.
        variables[path][...] = jax.device_put(new, old.sharding if old.committed else None)
    return tuple(sorted(skipped))


def _canonical(data: bytes) -> bytes:
    """A safetensors file with its header's keys sorted: the library writes them in another order in every process."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def _join(keys: Iterable[Any]) -> str:
    """A path in a restored tree; a state that was saved with its Variables has a `value` below."""
    path = "/".join(str(key) for key in keys)
    return path.removesuffix("/value")


def _other_head(variables: Mapping[str, nnx.Variable], arrays: Mapping[str, np.ndarray | jax.Array]) -> set[str]:
    """The classifier's leaves if all of them differ, and in the number of classes alone."""
    head = {path for path in variables if path.startswith(_HEAD)}
    shapes = [(arrays[path].shape, variables[path].shape) for path in head]
    other = all(new[:-1] == old[:-1] and new[-1:] != old[-1:] for new, old in shapes)
    return head if other else set()


def _refuse(source: str | Path, verb: str, offending: Iterable[str], model: nnx.Module) -> None:
    """Raises for offending paths, of which it names the first three."""
    if names := sorted(name[:80] for name in offending):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(
            f"{source}: does not fit {type(model).__name__}: it {verb} {', '.join(names[:3])}{more}; {_FIT}"
        )


def _read(path: str | Path, read: Callable[[Any], dict[str, _T]]) -> dict[str, _T]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return read(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: does not exist; check the path") from error
    except Exception as error:  # SafetensorError, and what NumPy raises for dtypes it has not
        raise UserError(
            f"{path}: not a readable safetensors file ({_one_line(error)}); "
            "give a .safetensors file or an Orbax directory, or download it again"
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).encode("ascii", "backslashreplace").decode().split())
    return text[:160] or type(error).__name__
