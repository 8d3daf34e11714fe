"""Short descriptors that hardly change when an image is cropped, rotated, brightened or compressed.

An image is described by the strength of its edges in eight directions on an 8 x 8 grid, as in HOG
(Dalal and Triggs, CVPR 2005). A linear discriminant analysis, fitted to altered copies of some of the
images at hand, keeps the directions in which images differ more than their copies do. Two descriptors
are compared by the likelihood ratio of "copies of one image" to "two images" under Gaussian
distributions (Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006), which is an inner product.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_DIRECTIONS = 8
_CELLS = 8
_LENGTH = _DIRECTIONS * _CELLS**2
_DIMENSIONS = 96
_BATCH = 256
_NOISE = 0.02  # of squared gradients, so that plain areas are not amplified
_RIDGE = 0.05  # of the mean variance within copies
_FITTED_TO = 8192  # images for the variance between images ...
_ALTERED = 1000  # ... and the number of them that altered copies are made of
_COPIES = 8
_MISSED = 0.0005  # share of the altered copies below the lowest score that is searched for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """From edges to descriptors; `lowest` is the score that nearly all copies exceed."""

    mean: np.ndarray  # (512,)
    matrix: np.ndarray  # (512, D)
    correlation: np.ndarray  # (D,) between copies
    lowest: float

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns left and right descriptors, (N, D + 2) each: `left @ right.T` are the scores."""
        x = (features - self.mean) @ self.matrix
        own = -0.5 * (self.correlation * x**2).sum(axis=1, keepdims=True)
        one = np.ones_like(own)
        return np.hstack([x, own, one]), np.hstack([x, one, own])


def edges(thumbnails: np.ndarray) -> np.ndarray:
    """Describes thumbnails (N, 64, 64) uint8 by the strength of their edges: (N, 512) float32."""
    import cv2

    angles = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    found = np.empty((len(thumbnails), _DIRECTIONS, _CELLS, _CELLS), np.float32)
    side = thumbnails.shape[1]
    cell = side // _CELLS
    for start in range(0, len(thumbnails), _BATCH):
        # The square root makes dark and bright areas alike, the local contrast is divided out.
        grey = np.sqrt(thumbnails[start : start + _BATCH].astype(np.float32))
        right, down = np.zeros_like(grey), np.zeros_like(grey)
        right[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
        down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
        energy = right**2 + down**2
        contrast = np.stack([cv2.blur(one, (2 * cell + 1, 2 * cell + 1)) for one in energy])
        weight = 1 / np.sqrt(contrast + _NOISE)
        right *= weight
        down *= weight
        for number, angle in enumerate(angles):
            along = np.maximum(right * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle)), 0)
            cells = along.reshape(len(grey), _CELLS, cell, _CELLS, cell).mean(axis=(2, 4))
            found[start : start + _BATCH, number] = cells
    return np.sqrt(found).reshape(len(thumbnails), _LENGTH)


def mirrored(features: np.ndarray) -> np.ndarray:
    """Returns the edges (N, 512) of the mirrored images."""
    places = np.arange(_LENGTH).reshape(_DIRECTIONS, _CELLS, _CELLS)
    directions = [(_DIRECTIONS // 2 - number) % _DIRECTIONS for number in range(_DIRECTIONS)]
    return features[:, places[directions][:, :, ::-1].ravel()]


def fit(thumbnails: np.ndarray) -> Projection:
    """Fits the projection to N thumbnails (N, 64, 64) uint8, or to every n-th of many."""
    rng = np.random.default_rng(0)
    chosen = thumbnails[:: max(1, len(thumbnails) // _FITTED_TO)][:_FITTED_TO]
    features = edges(chosen)
    few = rng.permutation(len(chosen))[:_ALTERED]
    originals = np.repeat(features[few], _COPIES, axis=0)
    copies = edges(np.stack([_altered(chosen[n], rng) for n in few for _ in range(_COPIES)]))

    mean = features.mean(axis=0)
    within, between = _scatter(copies - originals), _scatter(features - mean)
    within += np.eye(_LENGTH) * (_RIDGE * np.trace(within) / _LENGTH + 1e-12)
    whiten = np.linalg.inv(np.linalg.cholesky(within))
    variances, vectors = np.linalg.eigh(whiten @ between @ whiten.T)
    # In these coordinates copies differ by a variance of 1, images by that plus `spread`.
    spread = np.maximum(variances[::-1][:_DIMENSIONS] - 1, 1e-3)
    correlation = spread / (1 + spread)
    scale = np.sqrt(correlation / ((1 + spread) * (1 - correlation**2)))
    matrix = (whiten.T @ vectors[:, ::-1][:, :_DIMENSIONS]) * scale
    projection = Projection(
        mean=mean, matrix=matrix.astype(np.float32), correlation=correlation.astype(np.float32), lowest=0
    )
    left, right = projection(originals)[0], projection(copies)[1]
    lowest = np.quantile((left * right).sum(axis=1), _MISSED)
    return dataclasses.replace(projection, lowest=float(lowest))


def _scatter(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values.T @ values / len(values)


def _altered(thumbnail: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crops, rotates, blurs and brightens a thumbnail at random, and adds noise."""
    import cv2

    side = thumbnail.shape[0]
    cut_x = rng.uniform(0, 0.15)
    cut_y = cut_x if rng.random() < 0.5 else rng.uniform(0, 0.15)
    zoom = np.array([1 - cut_x, 1 - cut_y])
    move = np.array([rng.uniform(-cut_x, cut_x), rng.uniform(-cut_y, cut_y)]) * side / 2
    if rng.random() < 0.2:  # a margin instead
        zoom = 1 / zoom
    angle = np.deg2rad(rng.uniform(-4, 4)) if rng.random() < 0.4 else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    centre = np.full(2, (side - 1) / 2)
    matrix = np.hstack([turn, (centre + move - turn @ centre)[:, None]])
    border = (cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT)[int(rng.integers(2))]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(thumbnail, matrix, (side, side), flags=flags, borderMode=border)
    if rng.random() < 0.5:
        half = cv2.resize(image, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        image = cv2.resize(half, (side, side), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        image = np.clip(image * rng.uniform(0.7, 1.5), 0, 255)
    noisy = image + rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
