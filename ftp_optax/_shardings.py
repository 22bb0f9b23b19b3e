"""The shardings of the optimizer's state on a mesh."""

from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ftp_optax import _checks, _trees


def state_shardings(tx: optax.GradientTransformation, params: optax.Params) -> Any:
    """The shardings of an optimizer's state. An array with the shape of its parameter gets the parameter's sharding.

    ``jax.jit(tx.init)(params)`` replicates the state on every device, because zeros do not depend on a parameter and
    XLA does not know their sharding. Two cases do not need this function: a mesh with explicit axes, and `init` without
    jit. For billions of parameters, `init` must be jitted.

    Args:
      tx: any optax transformation whose state `optax.tree.map_params` can map, with or without methods of this package.
        SM3 and line searches (also that of L-BFGS) do not work, because their ``init`` fails without parameters.
      params: arrays, or `jax.ShapeDtypeStruct` with a sharding.

    Returns:
      A tree like the state with a sharding for every array. Learned radii and strengths, counters, and arrays that
      belong to a parameter but have another shape (factored moments) are replicated over the parameters' mesh.

    Raises:
      ValueError: if a parameter has no sharding, or if the params are on several meshes.
      TypeError: if `optax.tree.map_params` cannot map the transformation's state.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jax.sharding import NamedSharding, PartitionSpec as P
      >>> from ftp_optax import ftp, state_shardings
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> params = {"kernel": jax.device_put(jnp.ones((16, 4)), NamedSharding(mesh, P("data")))}
      >>> tx = ftp(optax.adamw(1e-4))
      >>> shardings = state_shardings(tx, params)
      >>> state = jax.jit(tx.init, out_shardings=shardings)(params)
      >>> state.displacement["kernel"].sharding == params["kernel"].sharding
      True

      With this target Orbax restores a checkpoint onto this mesh, also from another mesh:

      >>> shapes = jax.eval_shape(tx.init, params)
      >>> place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
      >>> target = jax.tree.map(place, shapes, shardings)
    """
    _checks.transformations("state_shardings", tx=tx)
    leaves = _trees.flatten(params)
    rows = [row for row in zip(leaves.paths, leaves.values, strict=True) if not _trees.is_masked(row[1])]
    for path, value in rows:
        if getattr(value, "sharding", None) is None:
            raise ValueError(
                f"state_shardings: the leaf {path!r} has no sharding; pass arrays that lie on the mesh, or "
                "jax.ShapeDtypeStruct(shape, dtype, sharding=...)."
            )
    places = [value.sharding for _, value in rows]
    meshes = {place.mesh for place in places if isinstance(place, NamedSharding)}
    if len(meshes) > 1:
        raise ValueError(f"state_shardings: the parameters lie on {len(meshes)} meshes; put them on one.")
    # parameters without a mesh are on one device, and so is the state
    whole = NamedSharding(meshes.pop(), PartitionSpec()) if meshes else next(iter(places), None)

    def beside(leaf: Any, param: Any) -> Any:
        if _trees.is_masked(leaf):
            return leaf
        return param.sharding if leaf.shape == param.shape else whole

    shapes = jax.eval_shape(tx.init, params)
    try:
        return optax.tree.map_params(
            tx, beside, shapes, params, transform_non_params=lambda _: whole, is_leaf=_trees.is_masked
        )
    except Exception as error:  # any error that init raises for a tree without leaves
        raise TypeError(
            "state_shardings: optax.tree.map_params cannot tell which arrays of the state belong to the parameters, as "
            f"with line searches, L-BFGS and SM3 ({type(error).__name__} in its init). Keep that state whole on every "
            "device: jax.tree.map(lambda _: replicated, jax.eval_shape(tx.init, params))."
        ) from error
