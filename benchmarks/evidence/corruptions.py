"""Fifteen natural corruptions at five severities, after ImageNet-C, for images of any size.

The kinds are those of Hendrycks and Dietterich (ICLR 2019). Their strengths were made for photographs of 224 pixels:
lengths here are shares of the image's side, and snow and frost are drawn, where the original pastes photographs. So
the numbers compare methods with each other, not with published ones.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import dm_pix as pix
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage

from vision.data import ArrayDomain, Domain

SEVERITIES = (1, 2, 3, 4, 5)

# Takes images (n, height, width, 3) in 0..1, a strength and a generator; gives images, nominally in 0..1.
Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def corrupted(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """The images under one corruption."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity}.")
    apply, strengths = CORRUPTIONS[kind]
    rng = np.random.default_rng((seed, list(CORRUPTIONS).index(kind), severity))
    result = apply(images.astype(np.float32) / 255, strengths[severity - 1], rng)
    return np.round(np.clip(result, 0, 1) * 255).astype(np.uint8)


def corrupted_domain(domain: Domain, kind: str, severity: int, seed: int = 0) -> ArrayDomain:
    """A domain of arrays with its images under one corruption."""
    assert isinstance(domain, ArrayDomain)
    images = corrupted(domain.images, kind, severity, seed)
    return replace(domain, name=f"{domain.name}, {kind}", images=images)


def _impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(x.shape) < share, rng.integers(0, 2, x.shape), x)


def _defocus_blur(x: np.ndarray, radius: float, _: np.random.Generator) -> np.ndarray:
    reach = max(1, int(np.ceil(radius * x.shape[1])))
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    # The rim is soft, so that radii between whole pixels differ.
    disk = np.clip(radius * x.shape[1] + 0.5 - np.hypot(rows, columns), 0, 1)
    return ndimage.convolve(x, (disk / disk.sum())[None, :, :, None], mode="nearest")


def _glass_blur(x: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    return _sampled(x, *(rng.normal(0, reach * x.shape[1], x.shape[:3]) for _ in range(2)))


def _motion_blur(x: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi, (len(x), 1, 1))
    steps = np.linspace(-0.5, 0.5, 9) * length * x.shape[1]
    return np.mean([_sampled(x, s * np.sin(angle), s * np.cos(angle)) for s in steps], axis=0)


def _zoom_blur(x: np.ndarray, most: float, _: np.random.Generator) -> np.ndarray:
    rows, columns = (index - (x.shape[1] - 1) / 2 for index in np.indices(x.shape[1:3]))
    factors = 1 / np.linspace(1, 1 + most, 7) - 1
    return np.mean([_sampled(x, f * rows, f * columns) for f in factors], axis=0)


def _snow(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    flakes = (rng.random(x.shape[:3]) < share).astype(np.float32)
    fallen = ndimage.uniform_filter1d(flakes, max(2, x.shape[1] // 12), axis=1)
    return x * (1 - 0.5 * share) + 0.3 * share + 2 * fallen[..., None]


def _frost(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    ice = 1 - np.abs(2 * _clouds(x, rng) - 1)  # ridges, as of crystals
    return x * (1 - 0.5 * strength) + strength * (ice**3)[..., None] * np.array([0.8, 0.9, 1.0])


def _fog(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return (x + strength * _clouds(x, rng)[..., None]) / (1 + strength)


def _elastic(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    shape, side = x.shape[:3], x.shape[1]
    smooth = lambda: ndimage.gaussian_filter(rng.uniform(-1, 1, shape), (0, side / 16, side / 16))
    return _sampled(x, *(field * strength * side / np.abs(field).max() for field in (smooth(), smooth())))


def _pixelate(x: np.ndarray, share: float, _: np.random.Generator) -> np.ndarray:
    side = x.shape[1]
    small = max(2, round(side * share))
    resized = [
        np.asarray(Image.fromarray(image).resize((small, small), Image.Resampling.BOX).resize((side, side), 0))
        for image in (x * 255).astype(np.uint8)
    ]
    return np.stack(resized) / 255


def _jpeg(x: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    decoded = []
    for image in (x * 255).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        decoded.append(np.asarray(Image.open(file)))
    return np.stack(decoded) / 255


CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...]]] = {
    "gaussian_noise": (lambda x, sigma, rng: x + rng.normal(0, sigma, x.shape), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (lambda x, photons, rng: rng.poisson(x * photons) / photons, (60, 25, 12, 5, 3)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, (0.02, 0.03, 0.045, 0.06, 0.08)),
    "glass_blur": (_glass_blur, (0.01, 0.015, 0.02, 0.03, 0.04)),
    "motion_blur": (_motion_blur, (0.06, 0.1, 0.14, 0.18, 0.24)),
    "zoom_blur": (_zoom_blur, (0.11, 0.16, 0.21, 0.26, 0.33)),
    "snow": (_snow, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "frost": (_frost, (0.3, 0.45, 0.6, 0.7, 0.8)),
    "fog": (_fog, (0.5, 0.8, 1.2, 1.7, 2.5)),
    "brightness": (
        lambda x, delta, _: np.asarray(pix.adjust_brightness(jnp.asarray(x), delta)),
        (0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    "contrast": (
        lambda x, factor, _: np.asarray(pix.adjust_contrast(jnp.asarray(x), factor)),
        (0.75, 0.5, 0.4, 0.3, 0.15),
    ),
    "elastic": (_elastic, (0.02, 0.03, 0.045, 0.06, 0.08)),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),
}  # by name: the corruption, and its strength at each severity


def _sampled(x: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The images read off at places moved by `down` and `right` pixels, which broadcast to `(n, height, width)`."""
    which, rows, columns = np.indices(x.shape[:3])
    places = [which, rows + down, columns + right]
    return np.stack([ndimage.map_coordinates(x[..., c], places, order=1, mode="nearest") for c in range(3)], axis=-1)


def _clouds(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales, `(n, height, width)` in 0..1."""
    total, side = np.zeros(x.shape[:3]), x.shape[1]
    for scale in (side / 4, side / 8, side / 16):
        layer = ndimage.gaussian_filter(rng.normal(size=x.shape[:3]), (0, scale, scale), mode="wrap")
        total += scale * layer / layer.std()
    low, high = total.min((1, 2), keepdims=True), total.max((1, 2), keepdims=True)
    return (total - low) / (high - low)
