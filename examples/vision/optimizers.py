"""The base optimizers that the methods go round: schedule, weight decay and layer-wise learning rates."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from vision.depth import depth_groups, depth_of, depths
from vision.networks import Params, path_of
from vision.options import TrainingOptions

__all__ = ["base_optimizer", "decayed", "learning_rate"]


def learning_rate(options: TrainingOptions, num_steps: int) -> optax.Schedule:
    """The learning rate by step of the optimizer: up from zero, then as `options.schedule` says.

    Args:
        options: Peak, share of the warm-up and form.
        num_steps: Steps of the optimizer in the whole run, each of `options.accumulate` batches.
    """
    # the first step of a warm-up has rate 0: a run of one step would learn nothing
    warmup = max(1, int(options.warmup * num_steps)) if options.warmup and num_steps > 1 else 0
    rest = max(1, num_steps - warmup)
    after = {
        "cosine": optax.cosine_decay_schedule(options.lr, rest),
        "linear": optax.linear_schedule(options.lr, 0.0, rest),
        "constant": optax.constant_schedule(options.lr),
    }[options.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, options.lr, warmup), after], [warmup])


def base_optimizer(options: TrainingOptions, num_steps: int, order: Sequence[str]) -> optax.GradientTransformation:
    """The optimizer of `options.optimizer` with its decoupled weight decay, schedule and layer-wise learning rates.

    Args:
        options: Which one, and its numbers. `sgd` has momentum 0.9, not Nesterov's. `muon` takes the matrices and the
            kernels of convolutions, as matrices with a column for each output; what reads the pixels, the head,
            depthwise kernels and all vectors are adamw's. Its steps have the root mean square of adamw's, so that
            `options.lr` means the same for both.
        num_steps: Steps of the optimizer in the whole run.
        order: Paths of all parameters from the input to the output.
    """
    direction = {
        "adamw": optax.scale_by_adam,
        "sgd": lambda: optax.trace(0.9),
        "lion": optax.scale_by_lion,
        "muon": lambda: _muon(order),
    }[options.optimizer]
    links = [
        direction(),
        optax.add_decayed_weights(options.weight_decay, decayed),
        optax.scale_by_learning_rate(learning_rate(options, num_steps)),
    ]
    if options.layer_decay != 1:
        links.append(_scale_by_depth(options.layer_decay, order))
    return optax.chain(*links)


def decayed(params: Params) -> Params:
    """The mask of weight decay: kernels, the head's too. No biases, norms, layer scales, positions or tokens."""
    return _by_path(lambda path, _: _is_kernel(path), params)


def _by_path(rule: Callable[[str, Any], Any], params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: rule(path_of(path), leaf), params)


def _is_kernel(path: str) -> bool:
    """Whether a parameter is a kernel, or an adapter of one (`kernel_lora_a`)."""
    return path.rpartition("/")[2].startswith("kernel")


def _muon(order: Sequence[str]) -> optax.GradientTransformation:
    """Muon's direction for the matrices, Adam's for all else; the minus is left to the learning rate that follows."""
    first = next((path for path in order if _is_kernel(path)), None)

    def label(path: str, leaf: jax.Array) -> str:
        # Jordan 2024: the first and the last layer do better with adamw. The 1 is a depthwise convolution's, where no
        # two channels meet.
        inner = _is_kernel(path) and path != first and not path.startswith("head/")
        return "muon" if inner and (leaf.ndim == 2 or (leaf.ndim > 2 and leaf.shape[-2] > 1)) else "adam"

    columns = lambda path, leaf: MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
    # 0.2 is adamw's root mean square (Liu et al. 2025)
    matrices = muon(-1.0, muon_weight_dimension_numbers=lambda params: _by_path(columns, params), consistent_rms=0.2)
    return optax.partition({"muon": matrices, "adam": optax.scale_by_adam()}, lambda params: _by_path(label, params))


def _scale_by_depth(decay: float, order: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies the updates of the last group by 1, and of each before it by `decay` more."""
    known, last = depths(order), len(depth_groups(order)) - 1
    scaled = lambda path, update: update * decay ** (last - depth_of(path, known))
    return optax.stateless(lambda updates, params: _by_path(scaled, updates))
