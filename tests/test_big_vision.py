"""big_vision's `.npz` files: what follows from names and shapes, and what cannot be told from them."""

import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from pretrained.classifier import classify
from pretrained.finetuned import load_finetuned, save_finetuned
from pretrained.load import load, save
from pretrained.outputs import outputs
from pretrained.positions import resample
from pretrained.preprocessing import Preprocessing
from vision.errors import UserError

DATA = Path(__file__).parent / "data" / "big_vision"
PREPROCESSING = Preprocessing((16, 16), None, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
Arrays = dict[str, np.ndarray]


def arrays_of(name: str) -> Arrays:
    return dict(np.load(DATA / f"{name}.npz"))


def written(arrays: Arrays, directory: Path) -> Path:
    np.savez(directory / "model.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return directory / "model.npz"


def logits_agree(path: Path, name: str) -> None:
    expected = np.load(DATA / f"{name}.expected.npz")
    found = outputs(load(path), {"pixels": expected["pixels"]})["logits"]
    np.testing.assert_allclose(found, expected["logits"], atol=1e-5)


@pytest.mark.parametrize("place", ["Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding"])
def test_positions_are_found_where_older_code_kept_them(place: str, tmp_path: Path) -> None:
    arrays = arrays_of("token")
    arrays[place] = arrays.pop("pos_embedding")
    logits_agree(written(arrays, tmp_path), "token")


def test_a_row_of_positions_for_the_class_token_is_added_to_it(tmp_path: Path) -> None:
    arrays = arrays_of("token")
    row = np.full_like(arrays["cls"], 0.25)
    arrays["cls"] -= row
    arrays["pos_embedding"] = np.concatenate([row, arrays["pos_embedding"]], 1)
    logits_agree(written(arrays, tmp_path), "token")


@pytest.mark.parametrize("name", ["avg", "map-stacked"])
def test_a_checkpoint_of_training_keeps_the_rest_of_it(name: str, tmp_path: Path) -> None:
    arrays = arrays_of(name) | {
        "opt/count": np.array(7),
        "opt/mu/Transformer/encoderblock/LayerNorm_0/scale": np.zeros((3, 16), np.float32),
        "extra/step": np.array(7),
    }
    path = written(arrays, tmp_path)
    logits_agree(path, name)

    (tmp_path / "again").mkdir()
    save(load(path), tmp_path / "again")

    again = dict(np.load(tmp_path / "again" / "model.npz"))
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[key], array) and again[key].dtype == array.dtype for key, array in arrays.items())


def without(pattern: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if not re.fullmatch(pattern, name)}


def having(**added: tuple[int, ...]) -> Callable[[Arrays], Arrays]:
    """With arrays of these shapes; two underscores stand for a slash."""
    return lambda arrays: arrays | {k.replace("__", "/"): np.zeros(shape, np.float32) for k, shape in added.items()}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "token",
            without("embedding/.*"),
            "has no vision transformer as vision_transformer and big_vision name it; their",
        ),
        ("token", without(".*/query/kernel"), "has no vision transformer as"),
        ("token", lambda _: {"pixels": np.zeros((2, 3, 4, 4))}, "has no vision transformer as"),
        ("token", having(embedding__kernel=(4, 4, 1, 16)), "three channels are supported"),
        ("token", having(embedding__kernel=(48, 16)), r"embedding/kernel has shape \(48, 16\); 4 axes are needed"),
        ("token", having(pos_embedding=(1, 12, 16)), "pos_embedding has 12 rows; a square grid of patches is needed"),
        (
            "token",
            having(MAPHead_0__probe=(1, 1, 16)),
            "both cls and MAPHead_0/probe; which of them pools cannot be told",
        ),
        ("token", without("head/bias"), "has no tensor head/bias; download it again"),
        ("token", having(conv_root__kernel=(7, 7, 3, 64)), "has a tensor that .* conv_root/kernel"),
        ("vision_transformer", without("Transformer/posembed.*"), "has no pos_embedding; how positions are told apart"),
        ("avg", without("params/Transformer/encoderblock_0/.*"), "has no vision transformer as"),
        ("siglip", without("params/b"), "has two towers and no params/b; of pairs SigLIP alone is supported"),
        ("siglip", without("params/txt/.*"), "has no text transformer in params/txt/; of pairs SigLIP"),
        ("siglip", having(params__img__head__kernel=(24, 24)), "params/img/head/kernel, a projection of images; of"),
        (
            "map-stacked",
            having(params__Transformer__encoderblock__LayerNorm_1__bias=(1, 16)),
            "has no tensor .*block_1",
        ),
    ],
)
def test_what_a_file_does_not_tell_is_refused(
    name: str, change: Callable[[Arrays], Arrays], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load(written(change(arrays_of(name)), tmp_path))


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (9, 7), (1, 2)])
def test_positions_are_interpolated_as_scipys_zoom_does(grid: tuple[int, int]) -> None:
    table = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
    expected = np.asarray(scipy.ndimage.zoom(table, (grid[0] / 4, grid[1] / 4, 1), order=1))
    found = np.asarray(resample(jnp.asarray(table), grid, "bilinear-corners"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["token", "map-stacked", "bfloat16"])
def test_a_fine_tuned_file_has_no_head_of_other_classes(name: str, tmp_path: Path) -> None:
    """Nothing in it names classes: the new head lies beside it."""
    made = classify(load(DATA / f"{name}.npz"), ["ant", "owl"], PREPROCESSING, seed=0)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)))

    save_finetuned(tmp_path / "tuned", made.model, made, ["ant", "owl"], {})

    old, new = arrays_of(name), dict(np.load(tmp_path / "tuned" / f"{name}.npz"))
    assert {key for key in old if not re.search(r"(^|/)head/", key)} == new.keys()
    assert all(np.array_equal(new[key], old[key]) and new[key].dtype == old[key].dtype for key in new)
    again = load_finetuned(tmp_path / "tuned")[0].model
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(made.model(images)))
