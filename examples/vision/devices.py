"""The devices of a run: a mesh over all of them, what lies where on it, and which rows of a batch a host reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ftp_optax import state_shardings
from vision.config import Config
from vision.data import Reading
from vision.errors import UserError

__all__ = ["Devices", "connect"]

T = TypeVar("T")

_AXIS = "data"
_EVAL_BATCH_SIZE = 64
# Seconds without a sign of a host after which JAX ends the others: they would wait for it in the next sum.
_LOST_AFTER = 30


def connect(config: Config) -> None:
    """Joins the hosts of a run; before anything else of JAX is used.

    Raises:
        UserError: They cannot be joined.
    """
    if config.coordinator is None:
        return
    try:
        if config.coordinator == "auto":
            jax.distributed.initialize(heartbeat_timeout_seconds=_LOST_AFTER)
        else:
            jax.distributed.initialize(
                config.coordinator, config.hosts, config.host, heartbeat_timeout_seconds=_LOST_AFTER
            )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--coordinator {config.coordinator}: the hosts cannot be joined ({reason})") from None


@dataclass(frozen=True, eq=False)
class Devices:
    """Where arrays lie.

    Attributes:
        mesh: All devices along one axis; None for a single device, which needs no mesh.
        fsdp: Whether parameters and optimizer state are cut over the devices, or whole on each.
        reading: How this process reads batches.
    """

    mesh: Mesh | None
    fsdp: bool
    reading: Reading

    @classmethod
    def of(cls, config: Config) -> "Devices":
        """All devices of all hosts.

        Raises:
            UserError: They do not share a batch evenly.
        """
        count = jax.device_count()
        reading = Reading(
            workers=config.workers,
            part=jax.process_index(),
            parts=jax.process_count(),
            skip_bad=config.on_bad_image == "skip",
        )
        if count == 1:
            return cls(None, False, reading)
        if config.batch_size % count:
            nearest = max(1, round(config.batch_size / count)) * count
            raise UserError(
                f"--batch-size {config.batch_size}: {count} devices cannot share it evenly; give {nearest}, or let JAX "
                "see fewer devices"
            )
        return cls(jax.make_mesh((count,), (_AXIS,), axis_types=(AxisType.Auto,)), config.fsdp, reading)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return jax.process_index() == 0

    @property
    def eval_batch_size(self) -> int:
        """Images at a time where no gradient is taken, shared evenly by the devices."""
        count = jax.device_count()
        return -(-_EVAL_BATCH_SIZE // count) * count

    def place(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The global batch, of the rows that each process has read."""
        if self.mesh is None:
            return {name: jax.numpy.asarray(column) for name, column in batch.items()}
        rows = NamedSharding(self.mesh, PartitionSpec(_AXIS))
        return {
            name: jax.make_array_from_process_local_data(rows, np.asarray(column)) for name, column in batch.items()
        }

    def put(self, tree: Any, *, whole: bool = False) -> Any:
        """A copy of a tree of arrays, the same in all processes, where parameters lie; `whole` on every device."""
        mesh = self.mesh
        if mesh is None:
            return jax.tree.map(jax.numpy.copy, tree)

        def put(leaf: Any) -> jax.Array:
            host = np.asarray(leaf)
            where = NamedSharding(mesh, PartitionSpec() if whole else self._cut(mesh, host.shape))
            return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

        return jax.tree.map(put, tree)

    def init(self, tx: optax.GradientTransformation, params: Any) -> Any:
        """The optimizer's state, beside the parameters."""
        if self.mesh is None:
            return tx.init(params)
        return jax.jit(tx.init, out_shardings=state_shardings(tx, params))(params)

    def shardings_like(self, tree: Any) -> Any:
        """Where the arrays of a tree lie, and after them what is whole on every device; None without a mesh."""
        if self.mesh is None:
            return None
        return *jax.tree.map(lambda leaf: leaf.sharding, tree), NamedSharding(self.mesh, PartitionSpec())

    def gather(self, array: jax.Array) -> np.ndarray:
        """The whole of an array, in every process."""
        if self.mesh is None or array.is_fully_addressable or array.is_fully_replicated:
            return np.asarray(array)
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    def wait(self, what: str) -> None:
        """Waits until all processes are here."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(what)

    def first_alone(self, make: Callable[[], T]) -> T:
        """What the first process makes and keeps on disk, then the others read."""
        made = make() if self.first else None
        self.wait("made")
        return make() if made is None else made

    def agree(self, yes: bool) -> bool:
        """What the first process says, in all of them."""
        if jax.process_count() == 1:
            return yes
        return bool(multihost_utils.broadcast_one_to_all(np.array(yes)))

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        device = jax.devices()[0]
        return {
            "count": jax.device_count(),
            "processes": jax.process_count(),
            "kind": device.device_kind,
            "platform": device.platform,
            "mesh": None if self.mesh is None else dict(self.mesh.shape),
            "fsdp": self.fsdp,
        }

    def _cut(self, mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
        """Cuts the longest axis that the devices share evenly; a vector is too small to be worth it."""
        even = [axis for axis, length in enumerate(shape) if length % mesh.size == 0]
        if not self.fsdp or len(shape) < 2 or not even:
            return PartitionSpec()
        longest = max(even, key=lambda axis: shape[axis])
        return PartitionSpec(*(_AXIS if axis == longest else None for axis in range(len(shape))))
