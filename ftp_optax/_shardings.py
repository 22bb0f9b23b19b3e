"""Where the optimizer's state lies on a mesh: beside the parameters."""

from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ftp_optax import _checks, _trees


def state_shardings(tx: optax.GradientTransformation, params: optax.Params) -> Any:
    """The shardings of an optimizer's state: what has a parameter's shape lies where the parameter lies.

    A state made by ``jax.jit(tx.init)(params)`` is whole on every device: what `init` fills with zeros depends on no
    parameter, so that nothing tells XLA to cut it (on a mesh with explicit axes the types do). Called without jit,
    `init` follows the parameters too, but an initialisation of billions of parameters is jitted.

    Args:
      tx: an optax transformation, this package's methods in it or not, whose state `optax.tree.map_params` can map:
        any but SM3 and line searches, of which L-BFGS has one. Their ``init`` fails without a parameter to look at.
      params: arrays, or `jax.ShapeDtypeStruct` with a sharding.

    Returns:
      A tree like the state with a sharding for every array. Arrays that have the place of a parameter but not its shape
      (factored moments), the learned radii and strengths, and counters are replicated over the parameters' mesh.

    Raises:
      ValueError: if a parameter has no sharding, or if the params lie on several meshes.
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

      The target that makes Orbax read a checkpoint onto this mesh, whatever mesh it was written on:

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
    # parameters without a mesh lie on one device, and so does the state
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
    except Exception as error:  # whatever the init of somebody's transformation raises for a tree without leaves
        raise TypeError(
            "state_shardings: optax.tree.map_params cannot tell which arrays of the state belong to the parameters, as "
            f"with line searches, L-BFGS and SM3 ({type(error).__name__} in its init). Keep that state whole on every "
            "device: jax.tree.map(lambda _: replicated, jax.eval_shape(tx.init, params))."
        ) from error
