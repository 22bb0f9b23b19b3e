"""Mixup, CutMix and label smoothing: what is done to a whole batch, inside the training step."""

import jax
import jax.numpy as jnp
import optax

__all__ = ["mixed", "soft_targets"]


def soft_targets(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Labels as float32 probabilities `(batch, classes)`, of which a share is spread over all classes."""
    return optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=jnp.float32), smoothing)


def mixed(
    key: jax.Array, images: jax.Array, targets: jax.Array, *, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Images blended in pairs, or with a rectangle of the other, and their targets by the same share.

    Every step mixes, by one share for the batch, as the papers and timm do (Zhang et al. 2018, Yun et al. 2019). The
    pairs are neighbours, which a shuffled batch makes random. A batch that is cut over devices is mixed without
    communication where each has an even number of rows; a permutation or a roll would send images. An image without a
    neighbour, the last of an odd batch, stays as it is.

    Args:
        key: The step's; all that is random comes from it.
        images: `(batch, height, width, channels)` on a linear scale, uint8 or float.
        targets: Probabilities, `(batch, classes)`.
        mixup: Alpha of mixup, whose shares are drawn from Beta(alpha, alpha); 0 for no mixup.
        cutmix: The same of CutMix. With both, half of the steps do the one and half the other.

    Returns:
        float32 images and targets; the arguments themselves where both alphas are 0.
    """
    if not (mixup or cutmix):
        return images, targets
    which, share, place = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    # Both are one weight for each pixel, so that choosing one of them costs a mask and not a batch.
    masks = []
    if mixup:
        masks.append(jnp.full((height, width), jax.random.beta(share, mixup, mixup, dtype=jnp.float32)))
    if cutmix:
        masks.append(_outside(place, height, width, jax.random.beta(share, cutmix, cutmix, dtype=jnp.float32)))
    kept = masks[0] if len(masks) == 1 else jnp.where(jax.random.bernoulli(which), *masks)
    return _blend(images, kept[:, :, None]), _blend(targets, kept.mean())


def _blend(rows: jax.Array, kept: jax.Array) -> jax.Array:
    rows = rows.astype(jnp.float32)
    return kept * rows + (1 - kept) * _neighbours(rows)


def _neighbours(rows: jax.Array) -> jax.Array:
    """Each row's partner: rows 0 and 1, 2 and 3 and so on change places."""
    even = len(rows) // 2 * 2
    pairs = rows[:even].reshape(even // 2, 2, *rows.shape[1:])
    swapped = pairs[:, ::-1].reshape(even, *rows.shape[1:])
    return swapped if even == len(rows) else jnp.concatenate([swapped, rows[even:]])


def _outside(key: jax.Array, height: int, width: int, share: jax.Array) -> jax.Array:
    """0 in a rectangle of `1 - share` of the image, 1 elsewhere. Its middle is anywhere, so borders may clip it."""
    inside = [
        _stretch(axis_key, side, share) for axis_key, side in zip(jax.random.split(key), (height, width), strict=True)
    ]
    return 1 - inside[0][:, None] * inside[1][None, :]


def _stretch(key: jax.Array, side: int, share: jax.Array) -> jax.Array:
    """1 at the places along one side that are in the rectangle."""
    length = (side * jnp.sqrt(1 - share)).astype(int)
    start = jax.random.randint(key, (), 0, side) - length // 2
    places = jnp.arange(side)
    return ((places >= start) & (places < start + length)).astype(jnp.float32)
