"""Low-rank adapters (LoRA, Hu et al. 2022) through qwix: `kernel + A B`, A random and B zero at the start.

`split_model` trains the adapters and the head alone. A ball round their start is one round the pre-trained model.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vision.errors import UserError

__all__ = ["add_lora", "merged"]

# the linear layers of attention and MLP, whatever tower they are in
_ADAPTED = r"image/(.*/)?(attention|mlp)/[^/]+"


def add_lora(model: Any, rank: int, images: jax.Array, *, seed: int = 0) -> Any:
    """A copy of a model with adapters of this rank at the kernels of attention and MLP; it computes the same.

    Args:
        model: The model.
        rank: Of the adapters, at most the smaller side of the smallest kernel.
        images: Any that the model takes; one is enough.
        seed: Of the matrices A.

    Raises:
        UserError: The model has no attention, or a smaller kernel.
    """
    import qwix  # imported here so that other runs do not pay for it

    # alpha is what qwix divides by the rank and multiplies the product with
    provider = qwix.LoraProvider(module_path=_ADAPTED, rank=rank, alpha=rank)
    adapted = qwix.apply_lora_to_model(model, provider, images[:1], rngs=nnx.Rngs(seed))
    kernels = [module.kernel.shape for module in _adapted_layers(adapted)]
    if not kernels:
        raise UserError(f"--lora-rank {rank}: the model has no attention for adapters; leave the flag out")
    if rank > (most := min(min(shape) for shape in kernels)):
        raise UserError(f"--lora-rank {rank}: the smallest kernel has rank {most}; choose 1 to {most}")
    return adapted


def merged(model: Any) -> Any:
    """A copy of a model with its adapters added to the kernels: what it was before `add_lora`, tuned. Others stay."""
    if not _adapted_layers(model):
        return model
    model = nnx.clone(model)
    model.__class__ = type(model).__base__  # qwix has made a subclass that looks for adapters
    for layer in _adapted_layers(model):
        wide = [array[...].astype(jnp.float32) for array in (layer.kernel, layer.kernel_lora_a, layer.kernel_lora_b)]
        tuned = wide[0] + jnp.matmul(wide[1], wide[2], precision="highest")
        layer.kernel[...] = tuned.astype(layer.kernel.dtype)
        del layer.kernel_lora_a, layer.kernel_lora_b
    return model


def _adapted_layers(model: Any) -> list[Any]:
    modules = (node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module))
    return [module for module in modules if hasattr(module, "kernel_lora_a")]
