"""Texts as a text tower sees them: tokens, their end, what fills them up, one embedding a class."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pretrained.load import Pretrained, load
from pretrained.outputs import outputs
from pretrained.texts import class_embeddings, read_lines, tokenize
from vision.errors import UserError

DATA = Path(__file__).parent / "data" / "hf"
WORDS = {"a": 3, "photo": 4, "of": 5, "the": 6, "red": 7, "green": 8, "dog": 9, ".": 10}
UNKNOWN, END, PAD = 0, 199, 2  # END is the one of the reference CLIP
LENGTH = 12


@pytest.fixture(scope="module")
def clip() -> Pretrained:
    return load(DATA / "clip")


@pytest.fixture(scope="module")
def siglip() -> Pretrained:
    return load(DATA / "siglip")


def tokenizer(directory: Path, *, end: int = END, pad: str | None = "<pad>", **options: object) -> Path:
    """A tokenizer of words that ends a text with `<end>` and knows capital letters."""
    vocabulary = WORDS | {"<unknown>": UNKNOWN, "<pad>": PAD, "<end>": end}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])  # pyright: ignore[reportAttributeAccessIssue]
    made.save(str(directory / "tokenizer.json"))
    named = {} if pad is None else {"pad_token": pad}
    (directory / "tokenizer_config.json").write_text(json.dumps(named | options))
    return directory


def test_texts_end_and_are_filled_up_to_the_towers_length(clip: Pretrained, tmp_path: Path) -> None:
    ids = tokenize(clip, tokenizer(tmp_path), ["a photo of the red dog .", "Dog", ""])
    first = [3, 4, 5, 6, 7, 9, 10]
    assert ids.tolist() == [
        [*first, END, *[PAD] * 4],
        [UNKNOWN, END, *[PAD] * 10],  # a capital letter
        [END, *[PAD] * 11],
    ]
    assert ids.dtype == np.int32


def test_a_long_text_is_cut_before_its_end(clip: Pretrained, tmp_path: Path) -> None:
    ids = tokenize(clip, tokenizer(tmp_path), ["a " * 50])
    assert ids.tolist() == [[WORDS["a"]] * (LENGTH - 1) + [END]]


def test_the_configuration_may_ask_for_small_letters(clip: Pretrained, tmp_path: Path) -> None:
    (ids,) = tokenize(clip, tokenizer(tmp_path, do_lower_case=True), ["Red DOG"])
    assert ids[:3].tolist() == [WORDS["red"], WORDS["dog"], END]


def test_the_token_that_fills_up_is_named_in_either_file(siglip: Pretrained, tmp_path: Path) -> None:
    for pad in ("<end>", {"content": "<end>", "lstrip": False}):
        (ids,) = tokenize(siglip, tokenizer(tmp_path, pad=pad), ["dog"])  # pyright: ignore[reportArgumentType]
        assert ids.tolist() == [WORDS["dog"], *[END] * 11]
    directory = tokenizer(tmp_path, pad=None)
    whole = Tokenizer.from_file(str(directory / "tokenizer.json"))
    whole.enable_padding(pad_id=PAD, pad_token="<pad>")
    whole.save(str(directory / "tokenizer.json"))
    (ids,) = tokenize(siglip, directory, ["dog"])
    assert ids.tolist() == [WORDS["dog"], END, *[PAD] * 10]
    (directory / "tokenizer_config.json").unlink()
    assert tokenize(siglip, directory, ["dog"]).tolist() == [ids.tolist()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"end": 150}, "ends no text with the id 199, the model's eos_token_id; it is another model's"),
        ({"pad": None}, "names a pad_token that is in the vocabulary"),
        ({"pad": "<filler>"}, "names a pad_token that is in the vocabulary"),
        ({"pad": 7}, "names a pad_token that is in the vocabulary"),
        ({"end": 5000}, "has the id 5000, the model has 0 to 199; it is another model's"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(
    options: dict[str, object], words: str, clip: Pretrained, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        tokenize(clip, tokenizer(tmp_path, **options), ["dog"])  # pyright: ignore[reportArgumentType]
    assert str(caught.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{\n"model":\n{}\n}'])
def test_a_damaged_tokenizer_is_refused_in_one_line(content: bytes, clip: Pretrained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json: does not exist, and texts need it"):
        tokenize(clip, tmp_path, ["dog"])
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: not a readable tokenizer") as caught:
        tokenize(clip, tmp_path, ["dog"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_class_is_the_mean_of_its_prompts(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: Pretrained = request.getfixturevalue(name)
    directory = tokenizer(tmp_path)
    prompts = ("a photo of the {} .", "the {} dog")
    found = class_embeddings(model, directory, ["red", "green"], prompts)
    texts = ["a photo of the red .", "the red dog", "a photo of the green .", "the green dog"]
    embeds = outputs(model, {"ids": tokenize(model, directory, texts)})["text_embeds"]
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, [embeds[:2].mean(0), embeds[2:].mean(0)], rtol=1e-5, atol=1e-6)


def test_lines_are_read_without_blanks_and_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffsea  lion \r\n\r\n  Käfer\n".encode())
    assert read_lines(file, "names") == ("sea  lion", "Käfer")
    for content, why in ((b" \n\n", "is empty"), (b"\xff\xfe\x00", "cannot be read")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"names\.txt: {why}.*give a text file with names"):
            read_lines(file, "names")
    with pytest.raises(UserError, match=r"no\.txt: cannot be read"):
        read_lines(tmp_path / "no.txt", "names")
