"""Depths of layers: the groups of every architecture that the main job fine-tunes."""

from pathlib import Path

import pytest

from pretrained.load import load
from vision.depth import depth_groups, depth_of, depths
from vision.networks import depth_order, paths_in_order

DATA = Path(__file__).parent / "data"
HEAD = ["head/kernel", "head/bias"]

# of each model of files: what the first group holds besides its first layer, in part; the blocks with what comes
# between them; what the last group holds besides the head
PLAIN = [f"image/blocks/{i}/" for i in range(2)]
FAMILIES = {
    "hf/clip": (["image/class_token", "image/norm_first/bias"], PLAIN, ["image/norm/scale", "image/projection/kernel"]),
    "hf/dinov2": (["image/class_token", "image/position_embeddings"], PLAIN, ["image/norm/bias"]),
    "hf/dinov3_vit-small": (["image/register_tokens"], PLAIN, ["image/norm/bias"]),
    "hf/siglip": (["image/position_embedding/embedding"], PLAIN, ["image/pooling/probe", "image/pooling/mlp/up/bias"]),
    "big_vision/token.npz": (["image/class_token"], PLAIN, ["image/norm/bias"]),
    "hf/convnext": (
        ["image/stem_norm/scale"],
        [
            "image/stages/0/blocks/0/", "image/stages/1/downsample", "image/stages/1/blocks/0/",
            "image/stages/2/downsample", "image/stages/2/blocks/0/", "image/stages/2/blocks/1/",
            "image/stages/3/downsample", "image/stages/3/blocks/0/",
        ],
        ["image/norm/scale"],
    ),
    "hf/swin-absolute": (
        ["image/patch_norm/scale", "image/position_embeddings"],
        [
            "image/stages/0/blocks/0/", "image/stages/0/blocks/1/", "image/stages/0/merging/",
            "image/stages/1/blocks/0/", "image/stages/1/blocks/1/",
        ],
        ["image/norm/scale"],
    ),
    "timm/resnet50": (
        ["image/stem/norm/scale"],
        [f"image/stages/{stage}/{block}/" for stage, block in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))],
        [],
    ),
}  # fmt: skip


def order_of(name: str) -> list[str]:
    """As the main job has it: the image tower and the head."""
    paths = paths_in_order(load(DATA / name).spec.build)
    return [*(path for path in paths if path.startswith("image/")), *HEAD]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_block_is_a_group_with_what_leads_to_it(name: str) -> None:
    before, pieces, after = FAMILIES[name]
    order = order_of(name)
    first, *blocks, last = depth_groups(order)
    assert [path for group in (first, *blocks, last) for path in group] == order
    assert first[0] == order[0]
    assert set(before) <= set(first)
    assert {*after, *HEAD} <= set(last)
    assert not any(path.startswith(tuple(pieces)) for path in (*first, *last))
    found = [next(piece for piece in pieces if path.startswith(piece)) for group in blocks for path in group]
    assert list(dict.fromkeys(found)) == pieces
    joins = {"downsample": 1, "merging": 1}
    assert len(blocks) == sum(not any(join in piece for join in joins) for piece in pieces)
    for group in blocks:
        *leading, own = dict.fromkeys(next(piece for piece in pieces if path.startswith(piece)) for path in group)
        assert all(any(join in piece for join in joins) for piece in leading)
        assert own[-2].isdigit()


def test_efficientnet_has_a_group_a_block() -> None:
    groups = depth_groups(depth_order("efficientnet-lite0"))
    assert len(groups) == 18
    assert {path.split("/")[0] for path in groups[0]} == {"stem", "stem_norm"}
    assert {path.split("/")[0] for path in groups[-1]} == {"top", "top_norm", "head"}
    for index, group in enumerate(groups[1:-1]):
        assert all(path.startswith(f"blocks/{index}/") for path in group)


def test_without_blocks_a_layer_is_a_group() -> None:
    layers = ("conv1", "conv2", "hidden", "head")
    assert depth_groups(depth_order("small-cnn")) == [(f"{name}/kernel", f"{name}/bias") for name in layers]


def test_subtrees_have_the_depth_that_all_their_leaves_have() -> None:
    known = depths(order_of("hf/convnext"))
    assert known["image/stem"] == known["image/stem_norm/scale"] == 0
    assert known["image/stages/0"] == 1
    assert known["image/stages/1/downsample"] == known["image/stages/1/blocks/0"] == 2
    assert known["head"] == known["image/norm"] == 6
    assert not {"image", "image/stages", "image/stages/2", "image/stages/2/blocks"} & known.keys()


def test_an_adapter_lies_as_deep_as_its_layer() -> None:
    known = depths(order_of("hf/clip"))
    assert depth_of("image/blocks/1/mlp/up/kernel_lora_a", known) == 2
    assert depth_of("image/patches/kernel", known) == 0
    with pytest.raises(ValueError, match="image/other: lies in no layer"):
        depth_of("image/other", known)
