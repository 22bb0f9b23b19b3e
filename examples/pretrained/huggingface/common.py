"""What the configurations of several families have in common."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pretrained.activations import ACTIVATIONS
from pretrained.fields import DEEPEST, Fields
from pretrained.transformer import BlockConfig

__all__ = ["activation", "alone", "blocks", "classifier", "ignore_common", "part", "patches"]

# Fields of every configuration that change nothing in what a model computes at test time: who wrote it, initial values,
# dropout, what a call returns, text generation. (Fine-tuning here uses no dropout and no stochastic depth.)
_WITHOUT_EFFECT = (
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "dropout",
    "dtype",
    "finetuning_task",
    "hidden_dropout_prob",
    "initializer_factor",
    "initializer_range",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    # of a backbone in a larger model
    "apply_layernorm",
    "out_features",
    "out_indices",
    "reshape_hidden_states",
    "stage_names",
    # of text generation, which versions before 5 write into every part
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "pad_token_id",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
)
# ImageNet has 21,841.
_MOST_LABELS = 10**6
# Fields that must have the value that means nothing.
_OFF = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
}


def ignore_common(fields: Fields) -> None:
    """Passes over what has no effect."""
    fields.ignore(*_WITHOUT_EFFECT)
    for name, off in _OFF.items():
        fields.one_of(name, [off], off)


def activation(fields: Fields, name: str = "hidden_act", default: str = "gelu") -> str:
    """An activation function's name."""
    return fields.one_of(name, ACTIVATIONS, default)


def classifier(
    fields: Fields, architecture: str, features: int
) -> tuple[tuple[int, int] | None, tuple[str, ...] | None]:
    """The head's features and outputs of a `...ForImageClassification`, and its classes; None for a model without one.

    A configuration always has labels, two where nobody gave any.
    """
    labels = fields.take("id2label", dict, {})
    fields.ignore("label2id")
    count = fields.count("num_labels", len(labels) or 2, most=_MOST_LABELS)
    if not architecture.endswith("ForImageClassification"):
        return None, None
    if labels and sorted(labels) != sorted(map(str, range(count))):
        raise fields.unsupported("id2label", sorted(labels)[:3], f"the ids 0 to {count - 1} are needed")
    names = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(count))
    return (features, count), names


def blocks(
    fields: Fields,
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp_width: int = 3072,
    epsilon: float,
    act: str = "gelu",
    **others: Any,
) -> BlockConfig:
    """The blocks of a transformer, from the fields that all have; the arguments are for those that are absent."""
    width = fields.positive("hidden_size", width)
    heads = fields.positive("num_attention_heads", heads)
    if width % heads:
        raise fields.unsupported("num_attention_heads", heads, f"it must divide hidden_size = {width}")
    return BlockConfig(
        width=width,
        depth=fields.positive("num_hidden_layers", depth, most=DEEPEST),
        heads=heads,
        head_width=fields.positive("head_dim", width // heads),
        mlp_width=fields.positive("intermediate_size", mlp_width),
        activation=activation(fields, default=act),
        epsilon=fields.take("layer_norm_eps", float, epsilon),
        **others,
    )


class Patches(NamedTuple):
    """How images are cut: height and width of a patch, of the grid of them, and of the image."""

    patch: tuple[int, int]
    grid: tuple[int, int]
    size: tuple[int, int]


def patches(fields: Fields, *, size: int = 224, patch: int = 16) -> Patches:
    """The patches that a configuration asks for."""
    size_, patch_ = fields.pair("image_size", (size, size)), fields.pair("patch_size", (patch, patch))
    if size_[0] < patch_[0] or size_[1] < patch_[1]:
        raise fields.unsupported("patch_size", patch_, f"it must not exceed image_size = {size_}")
    grid = (size_[0] // patch_[0], size_[1] // patch_[1])
    fields.one_of("num_channels", [3], 3)
    return Patches(patch_, grid, size_)


@contextmanager
def part(fields: Fields, kind: str, name: str) -> Iterator[Fields]:
    """The fields of one tower: those of its own object in the configuration of both, or all of a tower's own file.

    An old `..._config_dict` beside it replaces it, its absent fields by their defaults, as in transformers.
    """
    if kind.endswith(f"_{name}_model"):
        yield fields
        return
    own, old = (fields.take(f"{name}_config{suffix}", dict, {}) for suffix in ("", "_dict"))
    tower = Fields(old or own, f"{fields.source}: {name}_config")
    if conflict := next((field for field in old.keys() & own.keys() if old[field] != own[field]), None):
        raise tower.unsupported(conflict, own[conflict], f"{name}_config_dict has another value")
    if "model_type" in tower:
        tower.one_of("model_type", [f"{kind}_{name}_model"])
    yield tower
    ignore_common(tower)
    tower.ignore("architectures", "id2label", "label2id")
    tower.close()


def alone(tensors: Collection[str], kind: str) -> list[tuple[str, str]]:
    """The rule that drops the tower's name where the file of one tower does without, as versions from 5 write it."""
    tower = f"{kind.split('_')[1]}_model." if "_" in kind else ""
    return [] if any(name.startswith(tower) for name in tensors) else [(rf"^{re.escape(tower)}", "")]
