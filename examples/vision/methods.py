"""The methods that are compared: each is one optax transformation, and one line apart from plain fine-tuning."""

from typing import Any

import jax
import optax

from ftp_optax import digrap, ftp
from vision.networks import Params, path_of

__all__ = ["create_method", "not_head"]


def create_method(
    name: str, *, learning_rate: float, num_steps: int, radii_learning_rate: float = 1e-2, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a method.

    Args:
        name: `vanilla`, `ftp`, `digrap` or `ftp+digrap`.
        learning_rate: Peak of the schedule: linear warm-up over the first tenth, then cosine decay.
        num_steps: Length of the schedule.
        radii_learning_rate: Of FTP's radii; the default is the released one.
        mask: Which parameters are constrained, as in `ftp_optax`: None for all; `not_head` for a new head, which has
            no pre-trained weights to stay near.

    Raises:
        ValueError: If no method has that name.
    """
    warmup = max(1, num_steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, num_steps)
    clip = optax.clip_by_global_norm(1.0)
    adamw = optax.adamw(schedule, weight_decay=0.0)
    hyper = optax.adam(radii_learning_rate)
    if name == "vanilla":
        return optax.chain(clip, adamw)
    if name == "ftp":
        return optax.chain(clip, ftp(adamw, hyper_optimizer=hyper, mask=mask))
    if name == "digrap":
        return optax.chain(clip, digrap(mask=mask), adamw)
    if name == "ftp+digrap":
        return optax.chain(clip, digrap(mask=mask), ftp(adamw, hyper_optimizer=hyper, mask=mask))
    raise ValueError(f"no method {name!r}; choose vanilla, ftp, digrap or ftp+digrap.")


def not_head(params: Params) -> Params:
    """The mask that constrains everything but the classifier."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path_of(path).startswith("head/"), params)
