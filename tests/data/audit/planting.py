"""Drawn scenes, and copies of images as they turn up in data sets."""

import cv2
import numpy as np

from scripts.benchmarks.probes.copies import KINDS, copy
from softbio_jax.data.audit import thumbnails
from softbio_jax.data.prepare import storage

__all__ = ["KINDS", "copy", "digests", "grey", "photograph", "scene"]


def scene(seed: int, size: int = 128) -> np.ndarray:
    """Draws ellipses of every size over each other, with a little noise: (S, S, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), rng.integers(60, 200, 3), np.uint8)
    for radius in size * 0.35 * np.geomspace(1, 0.06, 60):
        centre = tuple(int(x) for x in rng.integers(0, size, 2))
        axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.4, 1))))
        colour = tuple(int(x) for x in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    noisy = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def photograph(path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def grey(images) -> np.ndarray:
    """Thumbnails of images, encoded or (H, W, 3) uint8."""
    encoded = (x if isinstance(x, bytes) else storage.encode(x, "jpeg", quality=95) for x in images)
    return np.stack([thumbnails.thumbnail(data)[0] for data in encoded])


def digests(count: int) -> np.ndarray:
    """Digests that all differ."""
    found = np.zeros((count, 32), np.uint8)
    found[:, 0], found[:, 1] = np.divmod(np.arange(count), 256)
    return found
