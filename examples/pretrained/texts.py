"""Class names as a text tower sees them: prompts, tokens, one embedding a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pretrained.fields import read_json
from pretrained.load import Pretrained
from pretrained.outputs import outputs
from vision.errors import UserError

__all__ = ["PROMPTS", "class_embeddings", "read_lines", "tokenize"]

PROMPTS = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that OpenAI found to do nearly as well on ImageNet as all eighty."""


def class_embeddings(loaded: Pretrained, directory: Path, names: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """The mean embedding of each class over all prompts, each of length 1 before: `(classes, features)`.

    Args:
        loaded: A model with a text tower.
        directory: Where its `tokenizer.json` is.
        names: Of the classes, in words.
        prompts: Templates with `{}` where the name goes.
    """
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    embeds = outputs(loaded, {"ids": tokenize(loaded, directory, texts)})["text_embeds"]
    return embeds.reshape(len(names), len(prompts), -1).mean(1)


def tokenize(loaded: Pretrained, directory: Path, texts: Sequence[str]) -> np.ndarray:
    """Token ids `(texts, length)` as the text tower takes them: of its full length, the rest filled up.

    Raises:
        UserError: The tokenizer is missing or damaged, or not that of the model.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        raise UserError(f"{path}: does not exist, and texts need it; copy it from where the model is from")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{path}: not a readable tokenizer ({error}); download it again") from None
    options = read_json(directory / "tokenizer_config.json") if (directory / "tokenizer_config.json").exists() else {}
    config = loaded.model.text.config
    name, number = _padding(tokenizer, options, path)
    tokenizer.enable_truncation(max_length=config.length)
    tokenizer.enable_padding(length=config.length, pad_id=number, pad_token=name)
    if options.get("do_lower_case"):
        texts = [text.lower() for text in texts]
    ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(list(texts))], np.int32)
    if ids.max() >= config.vocabulary:
        raise UserError(
            f"{path}: has the id {ids.max()}, the model has 0 to {config.vocabulary - 1}; it is another model's"
        )
    if config.pooling == "end" and not (ids == config.end).any(1).all():
        raise UserError(
            f"{path}: ends no text with the id {config.end}, the model's eos_token_id; it is another model's"
        )
    return ids


def _padding(tokenizer: Tokenizer, options: Mapping[str, Any], path: Path) -> tuple[str, int]:
    """The token that fills up short texts, and its id."""
    token = options.get("pad_token")
    name = token.get("content") if isinstance(token, dict) else token
    if name is None and tokenizer.padding is not None:
        name = tokenizer.padding["pad_token"]
    number = tokenizer.token_to_id(name) if isinstance(name, str) else None
    if name is None or number is None:
        raise UserError(f"{path}: neither it nor tokenizer_config.json names a pad_token that is in the vocabulary")
    return name, number


def read_lines(path: Path, what: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty.

    Raises:
        UserError: It cannot be read, or holds none.
    """
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a text file with {what}") from None
    if not lines:
        raise UserError(f"{path}: is empty; give a text file with {what}")
    return lines
