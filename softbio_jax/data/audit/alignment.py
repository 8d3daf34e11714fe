"""Lays one image over another and measures whether their details agree.

Faces of different people share what is large: an oval, two dark eyes. Copies share what is small. So
the images are aligned by an affine map (the inverse compositional algorithm of Baker and Matthews,
"Lucas-Kanade 20 years on", IJCV 2004, from 16 to 64 pixels), and what is left after the local mean and
contrast are divided out is correlated where they overlap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# side of the images, steps, and the least correlation for the next level. Among real faces half of the
# candidates that are no copies end at the first level, nine of ten at the second.
_LEVELS = ((16, 6, 0.75), (32, 4, 0.68), (64, 2, 0.6))
_LEAST_OVERLAP = 0.4  # a map that leaves less, or collapses the image, is no copy
_COARSE, _FINE = 4.0, 1.5  # standard deviations in pixels of the local means
_NOISE = 0.02
_DAMPING = 1e-2
_LARGEST_STEP, _LARGEST = 0.15, 0.5  # of the parameters of the map; the image has side 1


class Alignment(NamedTuple):
    """How P second images lie on the first ones."""

    similarity: np.ndarray  # (P,) mean correlation of details, 0 where a coarse level rules a copy out
    overlap: np.ndarray  # (P,) share of an image that both show, the smaller of the two shares
    rotation: np.ndarray  # (P,) degrees


def align(first: np.ndarray, second: np.ndarray) -> Alignment:
    """Aligns P pairs of grey images, (P, 64, 64) uint8 each."""
    import cv2

    count = len(first)
    similarity, overlap, rotation = np.zeros(count), np.zeros(count), np.zeros(count)
    rest, maps = np.arange(count), np.zeros((count, 6))
    for side, steps, least in _LEVELS:

        def small(images: np.ndarray, side: int = side) -> np.ndarray:
            if side == images.shape[1]:
                return images
            return np.stack([cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in images])

        a, b = small(first[rest]), small(second[rest])
        fixed, moving = _details(a, _COARSE), _details(b, _COARSE)
        maps = _refine(fixed, moving, maps, steps)
        correlation = _correlation(fixed, moving, maps)
        good = correlation >= least
        rest, maps, correlation = rest[good], maps[good], correlation[good]
        if not len(rest):
            return Alignment(similarity, overlap, rotation)
    fine = _correlation(_details(a[good], _FINE), _details(b[good], _FINE), maps)
    overlap[rest] = _overlap(maps)
    similarity[rest] = np.where(overlap[rest] >= _LEAST_OVERLAP, np.clip((correlation + fine) / 2, 0, 1), 0)
    sine, cosine = maps[:, 2] - maps[:, 1], 2 + maps[:, 0] + maps[:, 3]
    rotation[rest] = np.degrees(np.arctan2(sine, cosine))
    return Alignment(similarity, overlap, rotation)


def _details(images: np.ndarray, deviation: float) -> np.ndarray:
    """Subtracts the local mean and divides by the local contrast; float32."""
    import cv2

    found = np.empty(images.shape, np.float32)
    for place, image in enumerate(images):
        grey = np.sqrt(image.astype(np.float32))
        rest = grey - cv2.GaussianBlur(grey, (0, 0), deviation)
        found[place] = rest / np.sqrt(cv2.GaussianBlur(rest * rest, (0, 0), deviation) + _NOISE)
    return found


def _refine(fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray, steps: int) -> np.ndarray:
    """Moves the maps (P, 6) towards the best agreement; the images are (P, S, S)."""
    count, side = fixed.shape[:2]
    right, down = np.zeros_like(fixed), np.zeros_like(fixed)
    right[:, :, 1:-1] = (fixed[:, :, 2:] - fixed[:, :, :-2]) * (side / 2)
    down[:, 1:-1] = (fixed[:, 2:] - fixed[:, :-2]) * (side / 2)
    x, y = _pixels(side)
    slopes = np.stack([right * x, right * y, down * x, down * y, right, down], axis=1).reshape(count, 6, -1)
    # The second derivatives of the start serve for all steps; what they share changes little.
    weighted = slopes * _inside(maps, side)[:, None]
    hessian = (weighted @ slopes.transpose(0, 2, 1)).astype(np.float64)
    trace = np.trace(hessian, axis1=1, axis2=2)[:, None, None] / 6 + 1e-6
    solve = np.linalg.inv(hessian + np.eye(6) * _DAMPING * trace)
    for _ in range(steps):
        weight = _inside(maps, side)
        a, length = _normal(fixed, weight)
        error = length * (_normal(_warp(moving, maps), weight)[0] - a)  # 0 where only one shows something
        step = (solve @ (slopes @ error[:, :, None]))[..., 0]
        inverse = np.linalg.inv(_square(np.clip(step, -_LARGEST_STEP, _LARGEST_STEP)))
        composed = (_square(maps) @ inverse)[:, :2] - np.eye(2, 3)
        maps = np.hstack([composed[:, :, :2].reshape(count, 4), composed[:, :, 2]])
        maps = np.clip(maps, -_LARGEST, _LARGEST)
    return maps


def _square(maps: np.ndarray) -> np.ndarray:
    """Returns the matrices (P, 3, 3) of maps (P, 6): four of the linear part, less 1, and the shift."""
    matrices = np.tile(np.eye(3), (len(maps), 1, 1))
    matrices[:, :2, :2] += maps[:, :4].reshape(-1, 2, 2)
    matrices[:, :2, 2] = maps[:, 4:]
    return matrices


def _pixels(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of the centres of the pixels (S, S) of an image of side 1 around 0."""
    places = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    x, y = np.meshgrid(places, places)
    return x, y


def _inside(maps: np.ndarray, side: int) -> np.ndarray:
    """Returns 1 for the pixels of the first images that the second ones show too, else 0: (P, S S)."""
    x, y = _pixels(side)
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size, np.float32)])
    moved = _square(maps)[:, :2].astype(np.float32) @ points
    return (np.abs(moved).max(axis=1) <= 0.5).astype(np.float32)


def _overlap(maps: np.ndarray) -> np.ndarray:
    """Returns the shares (P,) of the first and of the second images that both show, the smaller one."""
    shown = _inside(maps, _LEVELS[-1][0]).mean(axis=1)
    return np.clip(shown * np.minimum(1, np.linalg.det(_square(maps)[:, :2, :2])), 0, 1)


def _warp(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Samples images (P, S, S) at the mapped places."""
    import cv2

    side = images.shape[1]
    centre = np.full(2, (side - 1) / 2)
    matrices = _square(maps)[:, :2]
    matrices[:, :, 2] = matrices[:, :, 2] * side + centre - matrices[:, :, :2] @ centre
    warped = np.empty_like(images)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, matrix, out in zip(images, matrices, warped, strict=True):
        cv2.warpAffine(image, matrix, (side, side), out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return warped


def _normal(images: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flattens images (P, S, S) to mean 0 and norm 1 where the weight is 1, else 0; also their norms."""
    flat = images.reshape(len(images), -1) * weight
    mean = flat.sum(axis=1, keepdims=True) / np.maximum(weight.sum(axis=1, keepdims=True), 1)
    flat = (flat - mean) * weight
    length = np.maximum(np.sqrt((flat * flat).sum(axis=1, keepdims=True)), 1e-3)
    return flat / length, length


def _correlation(fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray) -> np.ndarray:
    weight = _inside(maps, fixed.shape[1])
    return (_normal(fixed, weight)[0] * _normal(_warp(moving, maps), weight)[0]).sum(axis=1)
