"""How deep in the network each parameter lies: what layer-wise learning rates and MAPS count."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

__all__ = ["depth_groups", "depth_of", "depths"]

# "image/blocks/3", "image/stages/1/blocks/2", and a ResNet's "image/stages/1/2", whose blocks hold lists of their own
_BLOCK = re.compile(r"(?:\w+/)*?(?:blocks/\d+|stages/\d+/\d+)(?=/)")


def depth_groups(order: Sequence[str]) -> list[tuple[str, ...]]:
    """Parameters of equal depth.

    A block is a group. What comes before the first block (patches, class token, positions) is the first group; what
    comes after the last (norm, pooling, head) is the last. What lies between two blocks, such as a downsampling,
    belongs to the one that follows. In a network without blocks every layer is a group.

    Args:
        order: Paths of all parameters from the input to the output, as `vision.networks.paths_in_order` gives them.

    Returns:
        The groups from the input to the output, each with its paths in their order.
    """
    blocks = [found[0] if (found := _BLOCK.match(path)) else None for path in order]
    if not any(blocks):
        return [tuple(layer) for _, layer in groupby(order, lambda path: path.rpartition("/")[0])]
    first = next(i for i, block in enumerate(blocks) if block)
    keys: list[str | None] = []
    following = None
    for block in reversed(blocks):
        following = block or following
        keys.append(following)
    keys.reverse()
    keys[:first] = ["before"] * first
    pairs = zip(keys, order, strict=True)
    return [tuple(path for _, path in group) for _, group in groupby(pairs, lambda pair: pair[0])]


def depths(order: Sequence[str]) -> dict[str, int]:
    """The depth, 0 at the input, of every path, and of every subtree that lies in one group as a whole.

    Args:
        order: Paths of all parameters from the input to the output.
    """
    found: dict[str, set[int]] = {}
    for depth, group in enumerate(depth_groups(order)):
        for path in group:
            parts = path.split("/")
            for end in range(1, len(parts) + 1):
                found.setdefault("/".join(parts[:end]), set()).add(depth)
    return {path: min(own) for path, own in found.items() if len(own) == 1}


def depth_of(path: str, known: Mapping[str, int]) -> int:
    """The depth of a parameter; of one that was added later, such as an adapter, that of the layer it was added to.

    Args:
        path: Its path.
        known: What `depths` gives.

    Raises:
        ValueError: If neither the path nor a layer round it is known.
    """
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        if (depth := known.get("/".join(parts[:end]))) is not None:
            return depth
    raise ValueError(f"{path}: lies in no layer of the network's order.")
