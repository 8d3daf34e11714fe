"""Copies of images as they turn up in data sets: recompressed, resized, mirrored, brightened."""

import cv2
import numpy as np

from softbio_jax.data import decode
from softbio_jax.data.prepare import storage


def altered(data: bytes, rng: np.random.Generator, *, mirror: bool) -> bytes:
    """Makes a copy of an encoded image that shares no byte with it but shows the same."""
    image = decode.decode_full(data)
    if mirror:
        image = image[:, ::-1]
    side = int(rng.integers(64, 300))
    method = cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=method)
    image = np.clip(image * rng.uniform(0.85, 1.15) + rng.uniform(-10, 10), 0, 255)
    quality = int(rng.integers(25, 95))
    return storage.encode(image.astype(np.uint8), "jpeg", quality=quality)
