"""Affine maps from one image to another.

The images have side 1 and lie around 0. A map is a matrix (2, 3): a pixel at (x, y) of the first image is
at `map @ (x, y, 1)` of the second one.
"""

from __future__ import annotations

import numpy as np

_IDENTITY = np.eye(2, 3)


def identity(count: int) -> np.ndarray:
    """Returns P maps (P, 2, 3) float64 that move nothing."""
    return np.tile(_IDENTITY, (count, 1, 1))


def after_inverse(maps: np.ndarray, steps: np.ndarray, *, largest: float) -> np.ndarray:
    """Returns the maps (P, 2, 3) after the inverses of `identity + steps`.

    Args:
      maps: (P, 2, 3).
      steps: (P, 2, 3) differences from the identity.
      largest: no entry of the result differs more from that of the identity.
    """
    a, b = 1 + steps[:, 0, 0], steps[:, 0, 1]
    c, d = steps[:, 1, 0], 1 + steps[:, 1, 1]
    inverse = np.stack([d, -b, -c, a], axis=1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    linear = maps[:, :, :2] @ inverse
    shift = maps[:, :, 2:] - linear @ steps[:, :, 2:]
    composed = np.concatenate([linear, shift], axis=2)
    return _IDENTITY + np.clip(composed - _IDENTITY, -largest, largest)


def centres(side: int) -> np.ndarray:
    """Returns x of the centres of the pixels (S,) of a row of an image, float32."""
    return ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)


def inside(maps: np.ndarray, side: int) -> np.ndarray:
    """Returns 1 for the pixels of the first images that the second ones show too, else 0: (P, S, S)."""
    x, y = _pixels(maps, side)
    for places in (x, y):
        places -= np.float32((side - 1) / 2)
        np.abs(places, out=places)
    edge = side / 2 + 1e-4  # the outermost centres are inside whichever way they are rounded
    return (np.maximum(x, y, out=x) <= np.float32(edge)).astype(np.float32)


def sample(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Samples images (P, S, S) float32 at the mapped places, bilinearly; beyond the edge it repeats."""
    import cv2

    count, side = images.shape[:2]
    x, y = (np.clip(places, 0, side - 1, out=places) for places in _pixels(maps, side))
    # One call for all images, one below the other: a call costs as much as a small image.
    y += (np.arange(count, dtype=np.float32) * side)[:, None, None]
    column = (count * side, side)
    found = cv2.remap(images.reshape(column), x.reshape(column), y.reshape(column), cv2.INTER_LINEAR)
    return found.reshape(images.shape)


def overlap(maps: np.ndarray, side: int) -> np.ndarray:
    """Returns the shares (P,) of the first and of the second images that both show, the smaller one."""
    shown = inside(maps, side).mean(axis=(1, 2))
    return np.clip(shown * np.minimum(1, np.linalg.det(maps[:, :, :2])), 0, 1)


def rotation(maps: np.ndarray) -> np.ndarray:
    """Returns the angles (P,) by which maps rotate, in degrees."""
    sine, cosine = maps[:, 1, 0] - maps[:, 0, 1], maps[:, 0, 0] + maps[:, 1, 1]
    return np.degrees(np.arctan2(sine, cosine))


def _pixels(maps: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns column and row (P, S, S), in pixels of the second images, of those of the first ones."""
    # A column and a row of each image: their sum is the map, at the cost of one addition per pixel.
    scaled = (maps * side).astype(np.float32)
    along = scaled[:, :, :1] * centres(side)
    across = scaled[:, :, 1:2] * centres(side) + scaled[:, :, 2:] + np.float32((side - 1) / 2)
    return along[:, 0, None, :] + across[:, 0, :, None], along[:, 1, None, :] + across[:, 1, :, None]
